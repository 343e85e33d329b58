"""The server's copies of ledgers: verified once, continued entry by entry, on either database."""

import datetime as dt
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update

from hansa.core.errors import LedgerError
from hansa.core.ids import MerchantId, RunId, Sha256, TaskId, task_id
from hansa.core.plan import parse_plan
from hansa.core.privacy.entries import Commit, Entry, RaiseCap, Reserve, make_entry
from hansa.core.privacy.ledger import open_ledger
from hansa.core.privacy.plan import PrivacyPlan
from hansa.server.ledger_desk import LedgerDesk
from hansa.server.state.database import open_database, writing
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.members import Joining, Members
from hansa.server.state.tables import LedgerRow, MerchantRow
from tests.fakes.entropy import SeededEntropy

HARBOUR, RUN = MerchantId("harbour"), RunId("plan-0001")
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
PLAN = parse_plan(
    {
        "name": "plan",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 300, "quorum": 2},
    },
    "plan",
)
EVENT = PrivacyPlan.of(PLAN).round_event()
ROW = SimpleNamespace(run_id=RUN, plan=PLAN.model_dump(mode="json"), plan_digest=PLAN.digest)


@dataclass
class Writer:
    """A merchant that books with its real key, and may also book what it must not."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        book = open_ledger(
            cap_epsilon=1e6, delta=1e-5, key=self.key, entropy=SeededEntropy(), now=NOW
        )
        self.entries.append(book.entries[0])

    @property
    def public_key(self) -> bytes:
        return bytes.fromhex(self.entries[0].body.public_key)

    def add(self, body) -> Entry:
        self.entries.append(make_entry(body, after=self.entries[-1], now=NOW, key=self.key))
        return self.entries[-1]

    def book(self, number: int) -> list[Entry]:
        """The reservation and the commit of a round."""
        name = task_id(RUN, number, "train", HARBOUR)
        reserve = Reserve(
            id=name, plan_digest=PLAN.digest, run=RUN, round=number, phase="train", events=(EVENT,)
        )
        return [self.add(reserve), self.add(Commit(id=name, sha256=sha_of(number)))]


def sha_of(number: int) -> Sha256:
    return Sha256(f"{number:064x}")


def task_of(number: int) -> SimpleNamespace:
    name = TaskId(task_id(RUN, number, "train", HARBOUR))
    return SimpleNamespace(
        merchant=HARBOUR, task_id=name, run_id=RUN, round_number=number, phase="train"
    )


def lines(entries: list[Entry]) -> bytes:
    return b"".join(entry.to_bytes() + b"\n" for entry in entries)


@pytest.fixture
def engine(database):
    engine = open_database(database)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine):
    writer, members = Writer(), Members(engine, lambda: 1.0)
    members.invite(HARBOUR, serial="1", expires=9e9)
    joining = Joining(
        request_sha256="r" * 64,
        certificate_der=b"c",
        certificate_expires=9e9,
        ledger_public_key=writer.public_key,
    )
    members.join(HARBOUR, joining)
    return writer


def new_desk(engine) -> LedgerDesk:
    return LedgerDesk(Members(engine, lambda: 1.0), LedgerCopies(engine))


@pytest.fixture
def desk(engine):
    return new_desk(engine)


def complete(desk: LedgerDesk, writer: Writer, number: int) -> None:
    """What a Complete does: new entries in, then the check of the update."""
    desk.accept(HARBOUR, lines(writer.book(number)))
    desk.check_booked(task_of(number), ROW, sha_of(number))


class TestWhatItTakesIn:
    def test_entries_arrive_round_by_round(self, desk, writer) -> None:
        desk.accept(HARBOUR, lines(writer.entries))
        for number in (1, 2, 3):
            complete(desk, writer, number)
        assert desk.next_position(HARBOUR) == 7

    def test_the_whole_book_may_come_again_and_again(self, desk, writer) -> None:
        for number in (1, 2):
            writer.book(number)
            desk.accept(HARBOUR, lines(writer.entries))
        assert desk.next_position(HARBOUR) == 5

    def test_an_old_update_is_still_found_to_be_paid_for(self, desk, writer) -> None:
        desk.accept(HARBOUR, lines(writer.entries))
        for number in (1, 2, 3):
            complete(desk, writer, number)
        desk.check_booked(task_of(1), ROW, sha_of(1))
        with pytest.raises(LedgerError, match="does not commit these bytes"):
            desk.check_booked(task_of(1), ROW, sha_of(2))

    def test_a_restarted_server_goes_on_with_the_copy(self, engine, desk, writer) -> None:
        desk.accept(HARBOUR, lines(writer.entries))
        complete(desk, writer, 1)
        again = new_desk(engine)
        again.check_booked(task_of(1), ROW, sha_of(1))
        complete(again, writer, 2)

    def test_two_servers_at_one_database_take_turns(self, engine, writer) -> None:
        desks = [new_desk(engine), new_desk(engine)]
        desks[0].accept(HARBOUR, lines(writer.entries))
        for number in range(1, 7):
            complete(desks[number % 2], writer, number)
        for desk in desks:
            desk.check_booked(task_of(6), ROW, sha_of(6))

    def test_a_late_round_reads_no_more_of_the_copy_than_an_early_one(self, engine, writer) -> None:
        copies = CountingCopies(engine)
        desk = LedgerDesk(Members(engine, lambda: 1.0), copies)
        desk.accept(HARBOUR, lines(writer.entries))
        read = []
        for number in range(1, 31):
            before = copies.lines_read
            complete(desk, writer, number)
            read.append(copies.lines_read - before)
        assert read == [0] * 30  # what the round itself has booked is still at hand

    def test_an_update_whose_entries_came_long_ago_is_checked_against_the_copy(
        self, engine, writer
    ) -> None:
        copies = CountingCopies(engine)
        desk = LedgerDesk(Members(engine, lambda: 1.0), copies)
        desk.accept(HARBOUR, lines([*writer.entries, *writer.book(1)]))
        for number in range(2, 30):
            desk.accept(HARBOUR, lines(writer.book(number)))
        before = copies.lines_read
        desk.check_booked(task_of(1), ROW, sha_of(1))
        assert copies.lines_read - before == 2  # its reservation and its commit
        with pytest.raises(LedgerError, match="does not commit these bytes"):
            desk.check_booked(task_of(1), ROW, sha_of(2))


class CountingCopies(LedgerCopies):
    lines_read = 0

    def lines(self, merchant, first=0, count=None):
        found = super().lines(merchant, first, count)
        self.lines_read += len(found)
        return found


class TestWhatItRefuses:
    @pytest.fixture(autouse=True)
    def after_two_rounds(self, desk, writer) -> None:
        """All attacks come when the desk already knows the book and verifies only what is new."""
        desk.accept(HARBOUR, lines(writer.entries))
        for number in (1, 2):
            complete(desk, writer, number)

    def test_an_edited_new_entry(self, desk, writer) -> None:
        honest = lines(writer.book(3))
        with pytest.raises(LedgerError, match="ledger entry 5: its content does not have its hash"):
            desk.accept(HARBOUR, honest.replace(b'"round":3', b'"round":4'))

    def test_entries_that_leave_one_out(self, desk, writer) -> None:
        with pytest.raises(
            LedgerError, match=r"ledger entry 5: position 6 .* entries were dropped"
        ):
            desk.accept(HARBOUR, lines(writer.book(3)[1:]))

    def test_reordered_entries(self, desk, writer) -> None:
        with pytest.raises(LedgerError, match=r"ledger entry 5: position 6 .* were reordered"):
            desk.accept(HARBOUR, lines(writer.book(3)[::-1]))

    def test_an_entry_that_comes_twice(self, desk, writer) -> None:
        first, second = writer.book(3)
        with pytest.raises(LedgerError, match=r"ledger entry 6: .* it was repeated"):
            desk.accept(HARBOUR, lines([first, first, second]))

    def test_a_known_entry_that_comes_a_thousand_times(self, desk, writer) -> None:
        """Each copy would have to be compared, for as long as the merchant likes to send them."""
        with pytest.raises(LedgerError, match="out of order or repeated"):
            desk.accept(HARBOUR, lines([writer.entries[1]] * 1000))

    def test_another_past_under_the_right_key(self, desk, writer) -> None:
        fork = Writer(writer.key, [])
        fork.entries = writer.entries[:3]
        with pytest.raises(LedgerError, match="differs from the one received before"):
            desk.accept(HARBOUR, lines(fork.entries[:3] + fork.book(9)))

    def test_a_future_that_follows_another_past(self, desk, writer) -> None:
        fork = Writer(writer.key, [])
        fork.entries = writer.entries[:3]
        fork.book(9)
        with pytest.raises(LedgerError, match="ledger entry 5: it does not follow the entry"):
            desk.accept(HARBOUR, lines(fork.book(10)))

    def test_entries_under_another_key(self, desk, writer) -> None:
        thief = Writer()
        thief.entries = list(writer.entries)
        with pytest.raises(LedgerError, match="ledger entry 5: it is not signed by the ledger's"):
            desk.accept(HARBOUR, lines(thief.book(3)))

    def test_a_book_that_is_opened_a_second_time(self, desk, writer) -> None:
        with pytest.raises(LedgerError, match="ledger entry 5: the book is opened a second time"):
            desk.accept(HARBOUR, lines([writer.add(writer.entries[0].body)]))

    def test_a_merchant_whose_key_was_replaced_in_the_database(self, engine, desk, writer) -> None:
        with writing(engine) as session:
            session.execute(update(MerchantRow).values(ledger_public_key=b"x" * 32))
        with pytest.raises(LedgerError, match="under another key"):
            desk.accept(HARBOUR, lines(writer.book(3)))

    def test_what_was_refused_leaves_no_trace(self, desk, writer) -> None:
        honest = lines(writer.book(3))
        with pytest.raises(LedgerError):
            desk.accept(HARBOUR, honest.replace(b'"round":3', b'"round":4'))
        assert desk.next_position(HARBOUR) == 5
        desk.accept(HARBOUR, honest)
        desk.check_booked(task_of(3), ROW, sha_of(3))

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (lambda entries: entries[1].body, "reserved a second time"),
            (lambda entries: entries[2].body, "committed a second time"),
            (lambda _: Commit(id="x", sha256="0" * 64), "committed without a reservation"),
            (lambda _: RaiseCap(cap_epsilon=1.0), "the cap is not raised"),
        ],
    )
    def test_a_book_that_breaks_a_rule_pays_for_nothing_more(
        self, engine, desk, writer, body, sentence
    ) -> None:
        """It is kept, as the merchant's signed evidence against itself; a restart knows it too."""
        desk.accept(HARBOUR, lines([writer.add(body(writer.entries))]))
        desk.accept(HARBOUR, lines(writer.book(3)))
        for judge in (desk, new_desk(engine)):
            with pytest.raises(LedgerError, match=f"ledger entry 5: .*{sentence}"):
                judge.check_booked(task_of(3), ROW, sha_of(3))

    def test_a_copy_whose_end_was_altered_in_the_database(self, engine, desk, writer) -> None:
        last = writer.entries[-1].to_bytes().decode()
        with writing(engine) as session:
            forged = last.replace(f"{2:064x}", f"{7:064x}")
            session.execute(update(LedgerRow).where(LedgerRow.position == 4).values(line=forged))
        with pytest.raises(LedgerError, match="ledger entry 4: its content does not have its hash"):
            desk.check_booked(task_of(2), ROW, sha_of(7))

    def test_a_copy_that_was_cut_short_is_taken_in_anew(self, engine, desk, writer) -> None:
        """A restored backup; the merchant sends again what the server does not have."""
        with writing(engine) as session:
            session.execute(delete(LedgerRow).where(LedgerRow.position >= 3))
        assert desk.next_position(HARBOUR) == 3
        with pytest.raises(LedgerError, match="not reserved"):
            desk.check_booked(task_of(2), ROW, sha_of(2))
        desk.accept(HARBOUR, lines(writer.entries[3:]))
        desk.check_booked(task_of(2), ROW, sha_of(2))

    def test_two_futures_at_two_servers_at_once(self, engine, desk, writer) -> None:
        """One merchant's client twice, from a copied site: the first continuation stays."""
        fork = Writer(writer.key, [])
        fork.entries = list(writer.entries)
        writer.book(3)
        fork.book(4)
        copies = LedgerCopies(engine)
        copies.append(HARBOUR, 5, [entry.to_bytes().decode() for entry in writer.entries[5:]])
        copies.append(HARBOUR, 5, [entry.to_bytes().decode() for entry in writer.entries[5:]])
        with pytest.raises(LedgerError, match="two different continuations"):
            copies.append(HARBOUR, 5, [entry.to_bytes().decode() for entry in fork.entries[5:]])
        desk.check_booked(task_of(3), ROW, sha_of(3))
