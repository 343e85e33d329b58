from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
)
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.entries import (
    Commit,
    Entry,
    Head,
    Open,
    RaiseCap,
    Reserve,
    make_entry,
    verify_chain,
)
from hansa.core.privacy.events import PoissonGaussian
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.signing import key_id_of, signing_key
from tests.fakes.entropy import SeededEntropy

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
KEY = signing_key(bytes(range(32)))
PLAN = Sha256("a" * 64)
BYTES = Sha256("b" * 64)
STEP = PoissonGaussian(sampling_rate=0.05, noise_multiplier=1.0, steps=20)


def new_ledger(cap: float = 3.0) -> Ledger:
    return open_ledger(cap_epsilon=cap, delta=1e-5, key=KEY, entropy=SeededEntropy(1), now=NOW)


def task(number: int) -> TaskId:
    return TaskId(f"run-1/{number}/train/harbour")


def reserve(ledger: Ledger, number: int, steps: PoissonGaussian = STEP) -> Entry:
    return ledger.reserve(
        task(number),
        plan_digest=PLAN,
        run=RunId("run-1"),
        round_number=number,
        phase="train",
        events=[steps],
        now=NOW,
    )


def book(rounds: int = 3) -> list[Entry]:
    ledger = new_ledger()
    for number in range(rounds):
        reserve(ledger, number)
        ledger.commit(task(number), sha256=BYTES, now=NOW)
    return list(ledger.entries)


def edited(entry: Entry, **body: object) -> Entry:
    """The entry with a changed body and an honest new hash, but the old signature."""
    changed = entry.model_copy(update={"body": entry.body.model_copy(update=body)})
    return changed.model_copy(update={"hash": changed.true_hash()})


def test_a_reservation_is_spent_at_once_and_a_commit_changes_nothing() -> None:
    ledger = new_ledger()
    assert ledger.spent_epsilon() == 0.0
    foreseen = ledger.would_spend([STEP])
    reserve(ledger, 0)
    assert ledger.spent_epsilon() == foreseen > 0.5
    ledger.commit(task(0), sha256=BYTES, now=NOW)
    assert ledger.spent_epsilon() == foreseen
    assert ledger.remaining() == pytest.approx(3.0 - foreseen)


def test_an_open_reservation_stays_spent_after_a_restart() -> None:
    ledger = new_ledger()
    reserve(ledger, 0)
    again = Ledger(ledger.entries, key=KEY)
    assert again.spent_epsilon() == ledger.spent_epsilon() > 0.0
    with pytest.raises(ConflictError, match="do not train"):
        reserve(again, 0)


def test_a_round_over_the_cap_is_refused_and_books_nothing() -> None:
    ledger = new_ledger(cap=2.5)
    reserve(ledger, 0)
    before = ledger.entries
    with pytest.raises(BudgetExhaustedError, match=r"above the cap of 2\.5"):
        reserve(ledger, 1, STEP.model_copy(update={"steps": 2000}))
    assert ledger.entries == before
    assert reserve(ledger, 2, STEP.model_copy(update={"steps": 1}))


def test_a_refusal_is_booked_once_and_costs_nothing() -> None:
    ledger = new_ledger(cap=0.1)
    first = ledger.refuse(
        task(0), plan_digest=PLAN, run=RunId("run-1"), phase="train", events=[STEP], now=NOW
    )
    assert (
        ledger.refuse(
            task(0), plan_digest=PLAN, run=RunId("run-1"), phase="train", events=[STEP], now=NOW
        )
        == first
    )
    assert len(ledger.entries) == 2
    assert ledger.spent_epsilon() == 0.0
    ledger.raise_cap(3.0, now=NOW)
    assert reserve(ledger, 0).body.kind == "reserve"


def test_what_keeps_to_the_cap_cannot_be_booked_as_refused() -> None:
    with pytest.raises(ConflictError, match="not over the cap"):
        new_ledger().refuse(
            task(0), plan_digest=PLAN, run=RunId("run-1"), phase="train", events=[STEP], now=NOW
        )


def test_a_replayed_id_is_refused() -> None:
    ledger = new_ledger()
    reserve(ledger, 0)
    with pytest.raises(ConflictError, match="reserved before"):
        reserve(ledger, 0)


def test_the_same_bytes_are_committed_once_and_other_bytes_never() -> None:
    ledger = new_ledger()
    reserve(ledger, 0)
    first = ledger.commit(task(0), sha256=BYTES, now=NOW)
    assert ledger.commit(task(0), sha256=BYTES, now=NOW) is first
    assert ledger.released(task(0)) == BYTES
    with pytest.raises(ConflictError, match="other bytes"):
        ledger.commit(task(0), sha256=PLAN, now=NOW)
    with pytest.raises(NotFoundError, match="no reservation"):
        ledger.commit(task(9), sha256=BYTES, now=NOW)


def test_the_cap_can_only_be_raised() -> None:
    ledger = new_ledger()
    ledger.raise_cap(4.0, now=NOW)
    assert Ledger(ledger.entries).cap_epsilon == ledger.cap_epsilon == 4.0
    for cap in (4.0, 1.0, float("nan")):
        with pytest.raises(InvalidInputError, match="above the present"):
            ledger.raise_cap(cap, now=NOW)


def test_a_ledger_without_its_key_can_only_be_read() -> None:
    with pytest.raises(LedgerError, match="reading only"):
        reserve(Ledger(book(1)), 9)


def test_what_cannot_be_booked_is_refused_in_one_sentence() -> None:
    ledger = new_ledger()
    with pytest.raises(InvalidInputError, match="cannot book this: events"):
        ledger.reserve(
            task(0),
            plan_digest=PLAN,
            run=RunId("run-1"),
            round_number=0,
            phase="train",
            events=[],
            now=NOW,
        )
    with pytest.raises(InvalidInputError, match="cap_epsilon"):
        new_ledger(cap=-1.0)
    with pytest.raises(InvalidInputError, match="zone"):
        ledger.raise_cap(9.0, now=datetime(2026, 1, 1))  # noqa: DTZ001 - the fault under test


def test_an_entry_that_could_not_be_kept_does_not_count() -> None:
    class FullDisk:
        def keep(self, entry: Entry, /) -> None:
            raise LedgerError("disk full")

    ledger = Ledger(new_ledger().entries, key=KEY, sink=FullDisk())
    with pytest.raises(LedgerError, match="disk full"):
        reserve(ledger, 0)
    assert len(ledger.entries) == 1
    assert ledger.spent_epsilon() == 0.0


def test_entries_hold_no_private_number() -> None:
    fields = {name for entry in book() for name in entry.body.model_dump()}
    assert fields == {
        *Open.model_fields,
        *Reserve.model_fields,
        *Commit.model_fields,
    }
    assert not fields & {"count", "loss", "shoppers", "records", "num_examples"}


def test_a_whole_book_verifies_and_names_its_data_set() -> None:
    entries = book()
    opening = verify_chain(entries, public_key=key_id_of(KEY))
    assert opening.dataset_id == SeededEntropy(1).random_bytes(32).hex()
    assert entries[0].time == "2026-11-23T09:30:00Z"


def drop(entries: list[Entry], at: int) -> list[Entry]:
    return entries[:at] + entries[at + 1 :]


def swap(entries: list[Entry], at: int) -> list[Entry]:
    return [*entries[:at], entries[at + 1], entries[at], *entries[at + 2 :]]


def put(entries: list[Entry], at: int, entry: Entry) -> list[Entry]:
    return [*entries[:at], entry, *entries[at + 1 :]]


STRANGER = signing_key(b"s" * 32)
ATTACKS: dict[str, tuple[Callable[[list[Entry]], list[Entry]], str]] = {
    "edit": (
        lambda book: put(book, 3, book[3].model_copy(update={"time": "2026-01-01T00:00:00Z"})),
        r"entry 3: .* edited",
    ),
    "edit with a new hash": (
        lambda book: put(book, 2, edited(book[2], sha256="c" * 64)),
        r"entry 2: it is not signed",
    ),
    "drop": (lambda book: drop(book, 2), r"entry 2: .* dropped"),
    "drop the first": (lambda book: drop(book, 0), r"entry 0: .* missing"),
    "drop all": (lambda book: [], r"empty"),
    "repeat": (lambda book: [*book[:3], book[2], *book[3:]], r"entry 3: .* repeated"),
    "reorder": (lambda book: swap(book, 3), r"entry 3: .* reordered"),
    "sign with another key": (
        lambda book: put(book, 2, make_entry(book[2].body, after=book[1], now=NOW, key=STRANGER)),
        r"entry 2: it is not signed",
    ),
    "replace with the right key": (
        lambda book: put(
            book,
            2,
            make_entry(Commit(id=task(0), sha256="c" * 64), after=book[1], now=NOW, key=KEY),
        ),
        r"entry 3: .* replaced",
    ),
    "open again": (
        lambda book: [*book, make_entry(book[0].body, after=book[-1], now=NOW, key=KEY)],
        r"entry 7: .* second time",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_book_is_found_and_named(attack: str) -> None:
    change, finding = ATTACKS[attack]
    with pytest.raises(LedgerError, match=finding):
        Ledger(change(book()))


def test_a_truncated_book_is_found_by_whoever_saw_more_of_it() -> None:
    entries = book()
    seen = Head(position=5, hash=Sha256(entries[5].hash))
    assert Ledger(entries, expected_head=seen).head.position == 6
    assert Ledger(entries[:5]).head.position == 4
    with pytest.raises(LedgerError, match=r"entry 5: .* truncated"):
        Ledger(entries[:5], expected_head=seen)


def test_a_rewritten_book_is_found_by_whoever_saw_the_old_one() -> None:
    entries = book()
    seen = Head(position=2, hash=Sha256(entries[2].hash))
    other = make_entry(Commit(id=task(0), sha256="c" * 64), after=entries[1], now=NOW, key=KEY)
    with pytest.raises(LedgerError, match=r"entry 2: it is not the entry that was seen"):
        Ledger([*entries[:2], other], expected_head=seen)


def test_a_book_under_another_key_is_refused() -> None:
    with pytest.raises(LedgerError, match="is kept under key"):
        Ledger(book(), key=STRANGER)


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (Commit(id="nobody/0/train/x", sha256="c" * 64), "without a reservation"),
        (Commit(id=task(0), sha256="c" * 64), "committed a second time"),
        (RaiseCap(cap_epsilon=1.0), "not raised"),
    ],
)
def test_a_signed_entry_that_breaks_the_rules_is_found(
    body: Commit | RaiseCap, finding: str
) -> None:
    entries = book()
    broken = [*entries, make_entry(body, after=entries[-1], now=NOW, key=KEY)]
    with pytest.raises(LedgerError, match=f"entry 7: .*{finding}"):
        Ledger(broken)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_single_changed_character_of_an_entry_passes(data: st.DataObject) -> None:
    entries = book(1)
    at = data.draw(st.integers(0, len(entries) - 1))
    line = bytearray(entries[at].to_bytes())
    where = data.draw(st.integers(0, len(line) - 1))
    line[where] ^= data.draw(st.integers(1, 127))
    with pytest.raises(LedgerError):
        Ledger(put(entries, at, Entry.parse(bytes(line), "line")))


def test_an_entry_is_read_in_its_canonical_form_only() -> None:
    line = book()[1].to_bytes()
    assert Entry.parse(line, "line").to_bytes() == line
    with pytest.raises(LedgerError, match="canonical"):
        Entry.parse(line.replace(b'"body":', b'"body": '), "line")
