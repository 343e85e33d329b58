"""Whether a ledger ever spent more than its merchant allowed."""

from collections.abc import Sequence

from hansa.core.errors import AuditFailedError
from hansa.core.privacy.accounting import round_up
from hansa.core.privacy.bodies import Reserve
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.spending import CapWatch


def kept_cap(entries: Sequence[Entry], delta: float) -> str:
    """Compares what was spent with the caps that were in force, at every reservation.

    These are the lifetime cap and, from the first accepted contract on, those for a plan, a month
    and the share for metrics.

    Args:
        entries: a book whose chain and rules were verified.
        delta: the book's own.

    Raises:
        AuditFailedError: a cap was exceeded; the sentence names the entry.
    """
    watch = CapWatch()
    booked: dict[str, tuple[Reserve, str]] = {}
    for entry in entries:
        overdraft = watch.overdraft(entry)
        if overdraft is not None:
            raise AuditFailedError(f"at entry {entry.position} it raises {overdraft.sentence()}")
        if isinstance(entry.body, Reserve):
            booked[entry.body.id] = (entry.body, entry.time)
        watch.admit(entry, booked.get)
    caps, epsilon = watch.caps(), watch.spending.epsilon()
    terms = "" if watch.contract is None else f", contract {watch.contract.digest[:12]}"
    return f"epsilon {round_up(epsilon)} of {caps.lifetime:g} at delta {delta:g}{terms}"
