"""The auditor's judgement of caps, refunds and clocks, and of books that were tampered with."""

import datetime as dt
from collections.abc import Callable

import pytest

from hansa.audit.caps import kept_cap
from hansa.core.contract import Contract
from hansa.core.errors import AuditFailedError, LedgerError
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.bodies import Accept, Commit, Open, RaiseCap, Release, Reserve
from hansa.core.privacy.entries import Entry, make_entry
from hansa.core.privacy.events import Gaussian
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.signing import signing_key
from tests.fakes.entropy import SeededEntropy

KEY = signing_key(b"k" * 32)
NOW = dt.datetime(2026, 11, 30, 12, 0, tzinfo=dt.UTC)
ONE = Gaussian(noise_multiplier=5.0, releases=1)
COST = epsilon_reference([ONE], 1e-5)


def reservation(number: int, *, phase: str = "train", run: str = "autumn-0001") -> Reserve:
    name = f"{run}/{number}/{phase}/mill"
    return Reserve(id=name, plan_digest="a" * 64, run=run, round=number, phase=phase, events=(ONE,))


def book(*bodies: object, cap: float = 50.0, days: int = 0) -> list[Entry]:
    """Signed by the merchant past its own client; each entry ``days`` after the one before."""
    entries = list(
        open_ledger(cap_epsilon=cap, delta=1e-5, key=KEY, entropy=SeededEntropy(1), now=NOW).entries
    )
    for number, body in enumerate(bodies, 1):
        now = NOW + number * dt.timedelta(days=days)
        entries.append(make_entry(body, after=entries[-1], now=now, key=KEY))
    return entries


def terms(**fields: object) -> Accept:
    return Accept(contract=Contract(**{"metrics_share": 1.0, **fields}))


TWO = (reservation(1), reservation(2))


class TestCaps:
    @pytest.mark.parametrize(
        ("entries", "finding"),
        [
            (book(*TWO, cap=1.2 * COST), "entry 2 .* above the cap of"),
            (book(*TWO, RaiseCap(cap_epsilon=50.0), cap=1.2 * COST), "entry 2 .* the cap of"),
            (book(terms(plan_epsilon=1.2 * COST), *TWO), "entry 3 .* for one plan"),
            (book(terms(month_epsilon=1.2 * COST), *TWO), "entry 3 .* for one month"),
            (book(terms(lifetime_epsilon=1.2 * COST), *TWO), "entry 3 .* above the cap"),
            (
                book(terms(metrics_share=0.5 * COST / 50.0), reservation(0, phase="evaluate")),
                "entry 2 .* the share for metrics",
            ),
        ],
    )
    def test_a_cap_that_was_exceeded_is_named_with_the_entry(
        self, entries: list[Entry], finding: str
    ) -> None:
        with pytest.raises(AuditFailedError, match=finding):
            kept_cap(entries, 1e-5)

    @pytest.mark.parametrize(
        "entries",
        [
            book(reservation(1), RaiseCap(cap_epsilon=50.0), reservation(2), cap=1.2 * COST),
            book(terms(month_epsilon=1.2 * COST), *TWO, days=31),
            book(terms(plan_epsilon=1.2 * COST), reservation(1), terms(), reservation(2)),
            book(
                terms(lifetime_epsilon=1.2 * COST),
                reservation(1),
                Release(id=reservation(1).id),
                reservation(2),
            ),
        ],
    )
    def test_what_kept_to_the_caps_of_its_time_passes(self, entries: list[Entry]) -> None:
        assert kept_cap(entries, 1e-5).startswith("epsilon ")
        Ledger(entries)

    def test_before_the_first_contract_the_lifetime_cap_alone_was_promised(self) -> None:
        reports = [reservation(number, phase="evaluate") for number in range(5)]
        assert "contract" not in kept_cap(book(*reports, cap=4.0), 1e-5)
        strict = Accept(contract=Contract(metrics_share=0.01))
        found = kept_cap(book(*reports, strict, reservation(9), cap=4.0), 1e-5)
        assert f"contract {strict.contract.digest[:12]}" in found


def drop(entries: list[Entry], at: int) -> list[Entry]:
    return entries[:at] + entries[at + 1 :]


def swap(entries: list[Entry], at: int) -> list[Entry]:
    return [*entries[:at], entries[at + 1], entries[at], *entries[at + 2 :]]


def edited(entries: list[Entry], at: int) -> list[Entry]:
    changed = entries[at].model_copy(update={"time": "2026-12-24T00:00:00Z"})
    return [*entries[:at], changed, *entries[at + 1 :]]


def forked(entries: list[Entry], at: int) -> list[Entry]:
    """Another entry of the same key at this place, with the rest of the first branch after it."""
    other = make_entry(Release(id=reservation(1).id), after=entries[at - 1], now=NOW, key=KEY)
    return [*entries[:at], other, *entries[at + 1 :]]


HONEST = book(terms(), reservation(1), Commit(id=reservation(1).id, sha256="b" * 64), *TWO[1:])


@pytest.mark.parametrize(
    ("tampered", "finding"),
    [
        (lambda entries: edited(entries, 2), r"ledger entry 2: .* edited"),
        (lambda entries: drop(entries, 2), r"ledger entry 2: .* dropped"),
        (lambda entries: swap(entries, 2), r"ledger entry 2: .* reordered"),
        (lambda entries: [*entries, entries[3]], r"ledger entry 5: .* repeated"),
        (lambda entries: forked(entries, 3), r"ledger entry 4: .* replaced"),
    ],
    ids=["edited", "dropped", "reordered", "replayed", "forked"],
)
def test_a_tampered_book_is_refused_with_the_position(
    tampered: Callable[[list[Entry]], list[Entry]], finding: str
) -> None:
    Ledger(HONEST)
    with pytest.raises(LedgerError, match=finding):
        Ledger(tampered(list(HONEST)))


def test_a_refund_of_what_was_sent_is_refused_with_the_position() -> None:
    entries = book(terms(), reservation(1), Commit(id=reservation(1).id, sha256="b" * 64))
    claim = make_entry(Release(id=reservation(1).id), after=entries[-1], now=NOW, key=KEY)
    with pytest.raises(LedgerError, match=r"ledger entry 4: .* released after its commit"):
        Ledger([*entries, claim])


def test_an_honest_book_names_whom_it_protects() -> None:
    opening = Ledger(HONEST).opening
    assert isinstance(opening, Open)
    assert (opening.unit, Ledger(HONEST).released(TaskId(reservation(1).id))) == (
        "shopper",
        Sha256("b" * 64),
    )
    assert Ledger(HONEST).plan_of(RunId("autumn-0001")) == "a" * 64
