"""What foreign apps release is in the book, and never in its epsilon."""

from typing import Any

import pytest

from hansa.core.errors import ConflictError, InvalidInputError, LedgerError
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.entries import Declare, Entry, Reserve, make_entry
from hansa.core.privacy.ledger import Ledger
from tests.unit.core.privacy.test_ledger import KEY, NOW, book, new_ledger, reserve, task

GUEST = TaskId("guest-0001/1/train/harbour")


def declare(ledger: Ledger, name: TaskId = GUEST, **other: Any) -> Entry:
    fields: dict[str, Any] = {
        "app": "quick.client_app:app",
        "plan_digest": Sha256("a" * 64),
        "run": RunId("guest-0001"),
        "round_number": 1,
        "phase": "train",
        "sha256": Sha256("b" * 64),
        "now": NOW,
    }
    return ledger.declare(name, **{**fields, **other})


def test_a_declaration_is_booked_signed_and_costs_no_epsilon() -> None:
    ledger = new_ledger()
    reserve(ledger, 0)
    before = ledger.spent_epsilon()
    declare(ledger)
    assert ledger.spent_epsilon() == before
    again = Ledger(ledger.entries)
    found = again.declaration(GUEST)
    assert found is not None
    assert (found.app, found.sha256) == ("quick.client_app:app", "b" * 64)
    assert again.reservation(GUEST) is None
    assert again.released(GUEST) is None


def test_repeating_a_declaration_changes_nothing_and_other_bytes_are_a_conflict() -> None:
    ledger = new_ledger()
    first = declare(ledger)
    assert declare(ledger) == first
    for change in ({"sha256": Sha256("c" * 64)}, {"app": "other:app"}, {"round_number": 2}):
        with pytest.raises(ConflictError, match="booked otherwise"):
            declare(ledger, **change)


def test_a_task_is_reserved_or_declared_but_never_both() -> None:
    """Else a costly release could pass as one whose epsilon nobody counts."""
    ledger = new_ledger()
    reserve(ledger, 0)
    with pytest.raises(ConflictError, match="booked otherwise"):
        declare(ledger, task(0))
    declare(ledger, task(1))
    with pytest.raises(LedgerError, match="is declared before"):
        reserve(ledger, 1)


@pytest.mark.parametrize("number", [0, 9])
def test_a_signed_book_that_does_both_is_found(number: int) -> None:
    entries = book()
    reserved = next(one.body for one in entries if isinstance(one.body, Reserve))
    body = Declare(
        id=reserved.id if number == 0 else GUEST,
        app="quick.client_app:app",
        plan_digest="a" * 64,
        run="guest-0001",
        round=1,
        phase="train",
        sha256="b" * 64,
    )
    first = make_entry(body, after=entries[-1], now=NOW, key=KEY)
    second = make_entry(body, after=first, now=NOW, key=KEY)
    finding = "reserved before" if number == 0 else "declared before"
    with pytest.raises(LedgerError, match=finding):
        Ledger([*entries, first, second])


def test_a_declaration_names_an_app_and_a_digest() -> None:
    for change in ({"app": ""}, {"sha256": "short"}, {"app": "with space"}):
        with pytest.raises(InvalidInputError, match="cannot book this"):
            declare(new_ledger(), **change)
