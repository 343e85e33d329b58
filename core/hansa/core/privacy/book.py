"""What a ledger's entries add up to: the book as one reads it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from hansa.core.contract import Contract
from hansa.core.errors import LedgerError
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.bodies import (
    Accept,
    Commit,
    Declare,
    Open,
    RaiseCap,
    Refuse,
    Release,
    Reserve,
    Scope,
)
from hansa.core.privacy.entries import Entry, Head, check_head, moment, verify_chain
from hansa.core.privacy.events import PrivacyEvent, merge
from hansa.core.privacy.rules import BookRules
from hansa.core.privacy.spending import Caps, Overdraft, Spending

DEFAULT_CONTRACT: Final = Contract()
"""Of a book in which none was accepted."""

CLOCK_GRACE: Final = timedelta(minutes=5)
"""A clock that was put right by less than this goes on; entries then carry the last one's time."""


class BookState:
    """A book, verified when it is loaded, and what follows from its entries."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        public_key: str | None = None,
        expected_head: Head | None = None,
        verified: bool = False,
    ) -> None:
        """Takes over a book after verifying it.

        Args:
            entries: the whole book.
            public_key: under which it must be kept; absent, the key that it names.
            expected_head: the newest entry that somebody else has seen.
            verified: whether the caller has verified the chain (``own_book.read_own_book``).

        Raises:
            LedgerError: the book is broken, or kept under another key.
        """
        if not verified:
            verify_chain(entries, public_key=public_key)
        check_head(entries, expected_head)
        self._opening = _opening(entries)
        self._rules = BookRules()
        self._entries: list[Entry] = []
        self._reservations: dict[str, Reserve] = {}
        self._times: dict[str, str] = {}
        self._commits: dict[str, Entry] = {}
        self._releases: dict[str, Entry] = {}
        self._refusals: dict[tuple[str, Scope, float], Entry] = {}
        self._declarations: dict[str, Entry] = {}
        self._plans: dict[str, str] = {}
        self._accepted: Accept | None = None
        self.spending = Spending(self._opening.delta)
        for entry in entries:
            self._admit(entry)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The whole book, first entry first."""
        return tuple(self._entries)

    @property
    def head(self) -> Head:
        """The newest entry, for others to hold against truncation."""
        last = self._entries[-1]
        return Head(position=last.position, hash=Sha256(last.hash))

    @property
    def opening(self) -> Open:
        """The first entry's body: data set, public key, delta."""
        return self._opening

    @property
    def cap_epsilon(self) -> float:
        """What the merchant allows in total, as last raised."""
        return self._rules.cap_epsilon

    @property
    def accepted(self) -> Accept | None:
        """The newest terms that the merchant accepted in this book."""
        return self._accepted

    @property
    def contract(self) -> Contract:
        """The terms in force."""
        return DEFAULT_CONTRACT if self._accepted is None else self._accepted.contract

    @property
    def caps(self) -> Caps:
        """What the terms in force let the book cost."""
        return Caps.of(self.contract, self.cap_epsilon)

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """Everything reserved so far and not released, merged."""
        return self.spending.events()

    def spent_epsilon(self) -> float:
        """Epsilon of all reservations that were not released, at the book's delta, by PLD."""
        return self.spending.epsilon()

    def would_spend(self, events: Iterable[PrivacyEvent]) -> float:
        """Epsilon of the whole book if these events were reserved too; nothing is booked."""
        return epsilon_reference(merge([*self.events, *events]), self._opening.delta)

    def remaining(self) -> float:
        """The cap less what is spent, at least 0.

        Composition is not additive: use ``would_spend`` to see whether a run fits.
        """
        return max(0.0, self.caps.lifetime - self.spent_epsilon())

    def reservation(self, task: TaskId) -> Reserve | None:
        """What was reserved under this id, whether or not it was released later."""
        return self._reservations.get(task)

    def is_released(self, task: TaskId) -> bool:
        """Whether the task's reservation was taken back: nothing may be sent for it any more."""
        return task in self._releases

    def plan_of(self, run: RunId) -> Sha256 | None:
        """The digest of the plan for which the run's first task was booked."""
        plan = self._plans.get(run)
        return None if plan is None else Sha256(plan)

    def released(self, task: TaskId) -> Sha256 | None:
        """The digest of the bytes released under this id."""
        entry = self._commits.get(task)
        return Sha256(entry.body.sha256) if entry and isinstance(entry.body, Commit) else None

    def declaration(self, task: TaskId) -> Declare | None:
        """What a foreign app released under this id."""
        entry = self._declarations.get(task)
        return entry.body if entry and isinstance(entry.body, Declare) else None

    def check_clock(self, now: datetime) -> None:
        """Insists that time goes on: a month's budget must not be spent twice.

        Raises:
            LedgerError: this clock is behind the newest entry by more than ``CLOCK_GRACE``.
            InvalidInputError: the time has no zone.
        """
        moment(now)
        last = datetime.fromisoformat(self._entries[-1].time)
        if now < last - CLOCK_GRACE:
            raise LedgerError(
                f"this machine's clock says {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC, but the "
                f"ledger's newest entry is of {last:%Y-%m-%d %H:%M}: the clock was moved back; "
                "set it right, and start again"
            )

    def _overdraft(self, body: Reserve, now: datetime) -> Overdraft | None:
        return self.spending.overdraft(body, self._in_order(now), self.caps)

    def _in_order(self, now: datetime) -> str:
        """The time that the next entry carries: never before the last one's."""
        return max(moment(now), self._entries[-1].time, key=lambda time: time[:-1])

    def _admit(self, entry: Entry) -> None:
        """Takes one verified entry into the book's state."""
        self._rules.admit(entry)
        match entry.body:
            case Reserve() as body:
                self._reservations[body.id] = body
                self._times[body.id] = entry.time
                self._plans.setdefault(body.run, body.plan_digest)
                self.spending.add(body, entry.time)
            case Commit() as body:
                self._commits[body.id] = entry
            case Release() as body:
                self._releases[body.id] = entry
                self.spending.take_back(self._reservations[body.id], self._times[body.id])
            case Refuse() as body:
                self._refusals[body.id, body.scope, body.cap_epsilon] = entry
            case Accept() as body:
                self._accepted = body
            case Declare() as body:
                self._declarations[body.id] = entry
                self._plans.setdefault(body.run, body.plan_digest)
            case Open() | RaiseCap():
                pass
        self._entries.append(entry)


def _opening(entries: Sequence[Entry]) -> Open:
    body = entries[0].body
    if not isinstance(body, Open):
        raise LedgerError("ledger entry 0: the opening entry is missing: dropped or reordered")
    return body
