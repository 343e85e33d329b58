"""What the server takes into its copies no more than an edited entry: overdrafts and refunds."""

import datetime as dt

import pytest

from hansa.core.contract import Contract
from hansa.core.errors import LedgerError
from hansa.core.ids import Sha256, task_id
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.bodies import Accept, Commit, Release, Reserve
from hansa.core.privacy.entries import make_entry
from hansa.core.privacy.events import Gaussian, PrivacyEvent
from hansa.server.ledger_desk import LedgerDesk
from hansa.server.state.database import open_database
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.members import Joining, Members
from hansa.server.state.uploads import Deliveries
from tests.unit.server.test_ledger_desk import (
    EVENT,
    HARBOUR,
    NOW,
    PLAN,
    ROW,
    RUN,
    Writer,
    lines,
    sha_of,
    task_of,
)

COST = epsilon_reference([EVENT], 1e-5)


@pytest.fixture
def engine(tmp_path):
    engine = open_database(tmp_path / "hansa.db")
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


@pytest.fixture
def deliveries(engine) -> Deliveries:
    return Deliveries(engine)


@pytest.fixture
def desk(engine, deliveries):
    return LedgerDesk(Members(engine, lambda: 1.0), LedgerCopies(engine), deliveries.has_any)


def accept(writer: Writer, **terms: object) -> None:
    writer.add(Accept(contract=Contract(**terms)))


def reservation(number: int, *, phase: str = "train", run: str = RUN, event=EVENT) -> Reserve:
    events: tuple[PrivacyEvent, ...] = (event,)
    name = task_id(run, number, phase, HARBOUR)
    plan = PLAN.digest if run == RUN else Sha256("e" * 64)
    return Reserve(id=name, plan_digest=plan, run=run, round=number, phase=phase, events=events)


def refused(desk: LedgerDesk, writer: Writer, finding: str) -> None:
    """Nothing of what was sent is taken in, and the position is named."""
    before = desk.next_position(HARBOUR)
    with pytest.raises(LedgerError, match=finding):
        desk.accept(HARBOUR, lines(writer.entries))
    assert desk.next_position(HARBOUR) == before


class TestAnEntryOverACap:
    def test_it_is_not_taken_in_whichever_cap_it_exceeds(self, desk, writer) -> None:
        accept(writer, plan_epsilon=COST + 0.02, month_epsilon=1.3 * COST, metrics_share=1e-7)
        writer.add(reservation(1))
        desk.accept(HARBOUR, lines(writer.entries))
        known = list(writer.entries)
        report = Gaussian(noise_multiplier=20.0, releases=1)
        for body, finding in (
            (reservation(2), r"ledger entry 3: .* the cap for one plan of"),
            (reservation(1, run="other-0001"), r"ledger entry 3: .* the cap for one month of"),
            (
                reservation(0, phase="evaluate", run="third-0001", event=report),
                r"ledger entry 3: .* for metrics of",
            ),
        ):
            writer.entries = list(known)
            writer.add(body)
            refused(desk, writer, finding)

    def test_a_batch_that_exceeds_the_cap_at_its_end_is_not_taken_in_at_all(
        self, desk, writer
    ) -> None:
        accept(writer, lifetime_epsilon=COST + 0.02)
        writer.book(1)
        writer.add(reservation(2))
        refused(desk, writer, r"ledger entry 4: .* above the cap of")

    def test_a_released_reservation_makes_room_for_another(self, desk, writer) -> None:
        accept(writer, lifetime_epsilon=COST + 0.02)
        writer.add(first := reservation(1))
        writer.add(Release(id=first.id))
        writer.book(2)
        desk.accept(HARBOUR, lines(writer.entries))
        desk.check_booked(task_of(2), ROW, sha_of(2))
        with pytest.raises(LedgerError, match="not reserved"):
            desk.check_booked(task_of(1), ROW, sha_of(1))

    def test_a_book_without_a_contract_is_held_to_its_lifetime_cap_alone(
        self, desk, writer
    ) -> None:
        for number in range(1, 6):
            writer.book(number)
        report = Gaussian(noise_multiplier=0.5, releases=1)
        writer.add(reservation(0, phase="evaluate", event=report))
        desk.accept(HARBOUR, lines(writer.entries))

    def test_a_restarted_server_goes_on_counting(self, engine, desk, writer) -> None:
        accept(writer, lifetime_epsilon=COST + 0.02)
        writer.book(1)
        desk.accept(HARBOUR, lines(writer.entries))
        writer.add(reservation(2))
        again = LedgerDesk(Members(engine, lambda: 1.0), LedgerCopies(engine))
        refused(again, writer, r"ledger entry 4: .* above the cap of")


class TestAClientClaimingARefund:
    def test_after_a_commit_or_twice_or_for_somebody_else_it_is_not_taken_in(
        self, desk, writer
    ) -> None:
        accept(writer)
        writer.book(1)
        writer.add(open_one := reservation(2))
        desk.accept(HARBOUR, lines(writer.entries))
        known = list(writer.entries)
        name = task_id(RUN, 1, "train", HARBOUR)
        for bodies, finding in (
            ([Release(id=name)], r"ledger entry 5: .* released after its commit"),
            ([Release(id=f"{RUN}/2/train/mill")], r"ledger entry 5: .* without a reservation"),
            ([Release(id=open_one.id)] * 2, r"ledger entry 6: .* released a second time"),
            (
                [Release(id=open_one.id), Commit(id=open_one.id, sha256=sha_of(2))],
                r"ledger entry 6: .* committed after its reservation was released",
            ),
        ):
            writer.entries = list(known)
            for body in bodies:
                writer.add(body)
            refused(desk, writer, finding)
        writer.entries = known
        desk.check_booked(task_of(1), ROW, sha_of(1))

    def test_of_a_task_whose_bytes_came_in_it_is_not_taken_in(
        self, desk, writer, deliveries
    ) -> None:
        """The merchant sends its update, waits for the aggregate, and then wants it back."""
        accept(writer)
        writer.add(sent := reservation(1))
        desk.accept(HARBOUR, lines(writer.entries))
        deliveries.note(HARBOUR, sent.id, sha_of(1))
        writer.add(Release(id=sent.id))
        refused(desk, writer, r"ledger entry 3: it takes back task .* bytes were sent")

    def test_an_update_of_a_released_task_is_not_accepted(self, desk, writer) -> None:
        accept(writer)
        writer.add(given_up := reservation(1))
        writer.add(Release(id=given_up.id))
        desk.accept(HARBOUR, lines(writer.entries))
        with pytest.raises(LedgerError, match="not reserved"):
            desk.check_booked(task_of(1), ROW, sha_of(1))


class TestAClockMovedBack:
    def test_an_entry_of_an_earlier_time_is_not_taken_in(self, desk, writer) -> None:
        accept(writer)
        body, earlier = reservation(1), NOW - dt.timedelta(days=31)
        entry = make_entry(body, after=writer.entries[-1], now=earlier, key=writer.key)
        writer.entries.append(entry)
        refused(desk, writer, r"ledger entry 2: its time .* a clock was moved back")
