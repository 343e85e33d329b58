"""Caps for life, a plan, a month and the metrics; refunds; time that runs one way only."""

import datetime as dt
from collections.abc import Sequence

import pytest

from hansa.core.contract import Contract
from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
)
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy import spending as spending_module
from hansa.core.privacy.accounting import epsilon_pld, exceeding
from hansa.core.privacy.entries import Accept, Commit, Entry, Release, Reserve, make_entry
from hansa.core.privacy.events import Gaussian, PoissonGaussian, PrivacyEvent
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.privacy.rules import FalseEntryError
from hansa.core.privacy.spending import Caps, Spending, plan_name
from hansa.core.signing import signing_key
from tests.fakes.entropy import SeededEntropy

KEY = signing_key(b"k" * 32)
NOW = dt.datetime(2026, 11, 30, 23, 0, tzinfo=dt.UTC)
ONE = Gaussian(noise_multiplier=5.0, releases=1)
"""Epsilon 0.88 at delta 1e-5; two of it 1.29."""
DELTA = 1e-5
COST = epsilon_pld([ONE], DELTA)
TWICE = epsilon_pld([ONE, ONE], DELTA)


def a_ledger(cap: float = 100.0, **terms: object) -> Ledger:
    book = open_ledger(cap_epsilon=cap, delta=DELTA, key=KEY, entropy=SeededEntropy(1), now=NOW)
    book.accept(Contract(metrics_share=1.0).model_copy(update=terms), now=NOW)
    return book


def reserve(
    book: Ledger,
    number: int,
    *,
    run: str = "autumn-0001",
    phase: str = "train",
    plan: str = "a",
    events: Sequence[PrivacyEvent] = (ONE,),
    now: dt.datetime = NOW,
) -> TaskId:
    name = TaskId(f"{run}/{number}/{phase}/mill")
    book.reserve(
        name,
        plan_digest=Sha256(plan * 64),
        run=RunId(run),
        round_number=number,
        phase=phase,
        events=events,
        now=now,
    )
    return name


def signed(book: Ledger, *bodies: object, now: dt.datetime | None = None) -> list[Entry]:
    """The book with entries that its owner signed past its own client."""
    entries = list(book.entries)
    for body in bodies:
        entries.append(make_entry(body, after=entries[-1], now=now or NOW, key=KEY))
    return entries


class TestCaps:
    def test_a_plan_has_a_cap_by_its_name_over_all_its_runs(self) -> None:
        book = a_ledger(plan_epsilon=1.2 * COST)
        reserve(book, 1)
        with pytest.raises(BudgetExhaustedError, match="above the cap for one plan of"):
            reserve(book, 1, run="autumn-0002", plan="b")
        reserve(book, 1, run="winter-0001", plan="b")

    def test_a_plan_has_a_cap_by_its_digest_under_whatever_name_it_runs(self) -> None:
        book = a_ledger(plan_epsilon=1.2 * COST)
        reserve(book, 1)
        with pytest.raises(BudgetExhaustedError, match="one plan"):
            reserve(book, 1, run="winter-0001")

    def test_a_month_ends_at_midnight_of_universal_time(self) -> None:
        book = a_ledger(month_epsilon=1.2 * COST)
        reserve(book, 1)
        late = NOW + dt.timedelta(minutes=59)
        east = late.astimezone(dt.timezone(dt.timedelta(hours=8)))
        for moment in (late, east):
            with pytest.raises(BudgetExhaustedError, match="above the cap for one month"):
                reserve(book, 2, now=moment)
        reserve(book, 2, now=NOW + dt.timedelta(hours=1))
        assert book.spending.months() == ("2026-11", "2026-12")

    def test_what_is_no_training_keeps_to_its_share_of_the_lifetime_cap(self) -> None:
        book = a_ledger(cap=4.0, metrics_share=1.2 * COST / 4.0)
        reserve(book, 0, phase="evaluate")
        with pytest.raises(BudgetExhaustedError, match="above the share for metrics"):
            reserve(book, 1, phase="evaluate")
        with pytest.raises(BudgetExhaustedError, match="above the share for metrics"):
            reserve(book, 1, phase="query")
        reserve(book, 1)
        assert book.spending.metrics_epsilon() == pytest.approx(COST)

    def test_no_share_means_no_metric_at_all(self) -> None:
        book = a_ledger(metrics_share=0.0)
        with pytest.raises(BudgetExhaustedError, match="metrics of 0"):
            reserve(book, 0, phase="evaluate")
        more = {"plan_digest": Sha256("a" * 64), "run": RunId("autumn-0001"), "now": NOW}
        over = TaskId("autumn-0001/0/evaluate/mill")
        refusal = book.refuse(over, phase="evaluate", events=[ONE], **more)
        assert refusal is not None
        assert refusal.body.scope == "metrics"
        assert Ledger(book.entries).entries[-1] == refusal

    def test_the_contract_can_lower_the_books_own_cap_and_not_raise_it(self) -> None:
        book = a_ledger(cap=1.2 * COST, lifetime_epsilon=50.0)
        reserve(book, 1)
        with pytest.raises(BudgetExhaustedError, match="above the cap of"):
            reserve(book, 2)
        lower = a_ledger(cap=50.0, lifetime_epsilon=1.2 * COST)
        reserve(lower, 1)
        with pytest.raises(BudgetExhaustedError, match="above the cap of"):
            reserve(lower, 2)

    def test_a_book_without_a_contract_books_no_refusal_that_old_readers_do_not_know(self) -> None:
        book = open_ledger(cap_epsilon=1.0, delta=DELTA, key=KEY, entropy=SeededEntropy(1), now=NOW)
        more = {"plan_digest": Sha256("a" * 64), "run": RunId("autumn-0001"), "now": NOW}
        over = TaskId("autumn-0001/0/evaluate/mill")
        assert book.refuse(over, phase="evaluate", events=[ONE], **more) is None
        assert len(book.entries) == 1

    def test_the_answer_is_the_same_as_by_computing_every_time(self) -> None:
        """The look ahead saves work, and never lets a round more or less pass."""
        step = PoissonGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=1)
        cap = epsilon_pld([step.model_copy(update={"steps": 41})], DELTA) + 1e-9
        book = a_ledger(cap=cap)
        for rounds in range(1, 42):
            reserve(book, rounds, events=[step])
        with pytest.raises(BudgetExhaustedError):
            reserve(book, 42, events=[step])

    def test_forty_rounds_need_few_computations(self, monkeypatch: pytest.MonkeyPatch) -> None:
        computed = []

        def counted(*asked: object) -> float | None:
            computed.append(1)
            return exceeding(*asked)

        monkeypatch.setattr(spending_module, "exceeding", counted)
        step = PoissonGaussian(sampling_rate=0.01, noise_multiplier=1.0, steps=1)
        book = a_ledger(cap=50.0)
        for number in range(1, 41):
            reserve(book, number, events=[step])
        assert len(computed) <= 14

    @pytest.mark.parametrize(
        ("run", "name"), [("autumn-0001", "autumn"), ("a-b-12", "a-b"), ("odd", "odd")]
    )
    def test_a_runs_name_begins_with_its_plans(self, run: str, name: str) -> None:
        assert plan_name(run) == name

    def test_what_was_counted_and_taken_back_leaves_nothing(self) -> None:
        spending = Spending(DELTA)
        body = Reserve(
            id="x", plan_digest="a" * 64, run="r-1", round=1, phase="evaluate", events=(ONE,)
        )
        spending.add(body, "2026-11-30T23:00:00Z")
        spending.take_back(body, "2026-11-30T23:00:00Z")
        assert (spending.events(), spending.months(), spending.plans()) == ((), (), ())
        tight = Caps(lifetime=2 * COST, plan=None, month=None, metrics=0.5 * COST)
        overdraft = spending.overdraft(body, "2026-11-30T23:00:00Z", tight)
        assert overdraft is not None
        assert (overdraft.scope, overdraft.epsilon) == ("metrics", pytest.approx(COST))


class TestUnits:
    def test_a_book_has_one_unit_for_life(self) -> None:
        record = ONE.model_copy(update={"unit": "record"})
        with pytest.raises(InvalidInputError, match=r"each shopper.*cannot be added up"):
            reserve(a_ledger(), 1, events=[record])
        book = open_ledger(
            cap_epsilon=9.0, delta=DELTA, key=KEY, entropy=SeededEntropy(1), now=NOW, unit="record"
        )
        reserve(book, 1, events=[record])
        with pytest.raises(InvalidInputError, match="each record"):
            reserve(book, 2)
        with pytest.raises(InvalidInputError, match="name it among the units"):
            book.accept(Contract(), now=NOW)

    def test_signed_events_of_another_unit_are_found(self) -> None:
        book, record = a_ledger(), ONE.model_copy(update={"unit": "record"})
        body = Reserve(
            id="x", plan_digest="a" * 64, run="r-1", round=1, phase="train", events=(record,)
        )
        with pytest.raises(LedgerError, match=r"entry 2: .* another unit than the book's, shopper"):
            Ledger(signed(book, body))


class TestRefunds:
    """Attack: a client claiming a refund."""

    def test_a_released_task_is_not_spent_and_over_for_good(self) -> None:
        book = a_ledger(cap=1.2 * COST)
        name = reserve(book, 1)
        entry = book.release(name, now=NOW)
        assert book.spent_epsilon() == 0.0
        assert book.release(name, now=NOW) is entry
        with pytest.raises(ConflictError, match="reserved before"):
            reserve(book, 1)
        with pytest.raises(ConflictError, match="was released; send nothing"):
            book.commit(name, sha256=Sha256("b" * 64), now=NOW)
        reserve(book, 2)
        again = Ledger(book.entries)
        assert again.is_released(name)
        assert again.spent_epsilon() == pytest.approx(COST)

    def test_what_was_committed_or_never_reserved_cannot_be_released(self) -> None:
        book = a_ledger()
        name = reserve(book, 1)
        book.commit(name, sha256=Sha256("b" * 64), now=NOW)
        with pytest.raises(ConflictError, match="what may have left stays spent"):
            book.release(name, now=NOW)
        with pytest.raises(NotFoundError):
            book.release(TaskId("autumn-0001/9/train/mill"), now=NOW)

    @pytest.mark.parametrize(
        ("bodies", "finding"),
        [
            (
                (Commit(id="autumn-0001/1/train/mill", sha256="b" * 64),),
                r"entry 4: .* released after its commit",
            ),
            ((Release(id="autumn-0001/1/train/mill"),), r"entry 4: .* released a second time"),
            ((), None),
        ],
    )
    def test_a_signed_refund_after_a_commit_or_twice_is_found(
        self, bodies: tuple, finding: str | None
    ) -> None:
        book = a_ledger()
        name = reserve(book, 1)
        entries = signed(book, *bodies, Release(id=name))
        if finding is None:
            assert Ledger(entries).spent_epsilon() == 0.0
            return
        with pytest.raises(FalseEntryError, match=finding):
            Ledger(entries)

    def test_a_signed_refund_of_somebody_elses_task_is_found(self) -> None:
        book = a_ledger()
        reserve(book, 1)
        theirs = Release(id="autumn-0001/1/train/harbour")
        with pytest.raises(FalseEntryError, match=r"entry 3: .* released without a reservation"):
            Ledger(signed(book, theirs))

    def test_a_signed_commit_after_a_refund_is_found(self) -> None:
        book = a_ledger()
        name = reserve(book, 1)
        book.release(name, now=NOW)
        with pytest.raises(FalseEntryError, match=r"entry 4: .* after its reservation was rel"):
            Ledger(signed(book, Commit(id=name, sha256="b" * 64)))
        with pytest.raises(LedgerError, match=r"entry 4: .* reserved a second time"):
            Ledger(signed(book, book.reservation(name)))


class TestAClockMovedBack:
    """Attack: a month's budget is opened twice, or entries are put into another order."""

    def test_nothing_is_reserved_accepted_or_raised_by_a_clock_that_is_clearly_behind(self) -> None:
        book = a_ledger(month_epsilon=1.2 * COST)
        reserve(book, 1, now=NOW + dt.timedelta(hours=1))
        back = NOW - dt.timedelta(days=31)
        for verb in (
            lambda: reserve(book, 2, now=back),
            lambda: book.accept(Contract(), now=back),
            lambda: book.raise_cap(200.0, now=back),
        ):
            with pytest.raises(LedgerError, match="the clock was moved back; set it right"):
                verb()
        assert len(book.entries) == 3

    def test_a_small_correction_goes_on_and_never_writes_an_earlier_time(self) -> None:
        book = a_ledger(month_epsilon=1.2 * COST)
        name = reserve(book, 1, now=NOW + dt.timedelta(hours=1))
        book.commit(name, sha256=Sha256("b" * 64), now=NOW + dt.timedelta(minutes=58))
        with pytest.raises(BudgetExhaustedError, match="one month"):
            reserve(book, 2, now=NOW + dt.timedelta(minutes=58))
        times = [entry.time for entry in book.entries]
        assert times == sorted(times)
        assert book.entries[-1].time == "2026-12-01T00:00:00Z"

    def test_a_commit_is_booked_by_any_clock_for_the_bytes_are_paid_for(self) -> None:
        book = a_ledger()
        name = reserve(book, 1)
        book.commit(name, sha256=Sha256("b" * 64), now=NOW - dt.timedelta(days=400))
        assert book.entries[-1].time == book.entries[-2].time

    def test_a_signed_entry_of_an_earlier_time_is_found(self) -> None:
        book = a_ledger()
        body = Reserve(
            id="x", plan_digest="a" * 64, run="r-1", round=1, phase="train", events=(ONE,)
        )
        back = signed(book, body, now=NOW - dt.timedelta(microseconds=1))
        with pytest.raises(FalseEntryError, match=r"entry 2: its time .* clock was moved back"):
            Ledger(back)

    def test_times_with_and_without_a_fraction_are_in_order(self) -> None:
        book = a_ledger()
        for microseconds in (0, 1, 1, 500_000):
            later = NOW + dt.timedelta(microseconds=microseconds)
            reserve(book, len(book.entries), now=later)
        assert len(Ledger(book.entries).entries) == 6


def test_a_contract_holds_from_its_entry_on_and_the_newest_one_counts() -> None:
    book = a_ledger(max_rounds=7)
    book.accept(Contract(max_rounds=8), offer=2, now=NOW)
    again = Ledger(book.entries)
    assert isinstance(again.accepted, Accept)
    assert (again.contract.max_rounds, again.accepted.offer) == (8, 2)
