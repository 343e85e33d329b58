"""Whether a ledger ever spent more than its merchant allowed."""

from collections.abc import Iterator, Sequence

from hansa.core.errors import AuditFailedError
from hansa.core.privacy.accounting import epsilon_pld, round_up
from hansa.core.privacy.entries import Entry, Open, RaiseCap, Reserve
from hansa.core.privacy.events import PrivacyEvent, merge


def kept_cap(entries: Sequence[Entry], delta: float) -> str:
    """Compares what was spent with the cap, at the end and before each raise of the cap.

    Raises:
        AuditFailedError: a cap was exceeded; the sentence names the entry.
    """
    for entry, events, cap in _stages(entries):
        epsilon = epsilon_pld(events, delta)
        if epsilon > cap:
            raise AuditFailedError(
                f"at entry {entry.position} epsilon is {round_up(epsilon)}, above the cap of {cap}"
            )
    return f"epsilon {round_up(epsilon)} of {cap}"


def _stages(entries: Sequence[Entry]) -> Iterator[tuple[Entry, tuple[PrivacyEvent, ...], float]]:
    events: list[PrivacyEvent] = []
    cap, last = 0.0, entries[0]
    for entry in entries:
        match entry.body:
            case Open() as body:
                cap = body.cap_epsilon
            case Reserve() as body:
                events.extend(body.events)
                last = entry
            case RaiseCap() as body:
                yield last, merge(events), cap
                cap = body.cap_epsilon
            case _:
                pass
    yield last, merge(events), cap
