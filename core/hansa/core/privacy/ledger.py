"""The privacy ledger: one append-only book per shop and data set, which decides what may be spent.

The rules:

* what is reserved is spent, from that moment and for good, whether or not a commit follows;
* a task id is reserved once; a second time is a conflict, so a replayed message trains nothing;
* a reservation beyond the cap is refused before any data are touched;
* epsilon is never stored as truth: it is recomputed from the events;
* a commit binds the reservation to the released bytes; sending those again costs nothing;
* what a foreign app releases is declared with its digest before it leaves, and never counted: a
  task is either reserved or declared, never both.

The class works in memory and performs no I/O: ``hansa.client.ledger_store`` makes it durable.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
)
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.accounting import epsilon_pld, round_up
from hansa.core.privacy.entries import (
    AnyBody,
    Commit,
    Declare,
    Entry,
    Head,
    Open,
    RaiseCap,
    Refuse,
    Reserve,
    make_entry,
    verify_chain,
)
from hansa.core.privacy.events import PrivacyEvent, merge
from hansa.core.privacy.mechanism import Entropy
from hansa.core.privacy.rules import BookRules
from hansa.core.signing import key_id_of

DATASET_ID_BYTES = 32

_Part = TypeVar("_Part", Open, Reserve, Commit, Refuse, RaiseCap, Declare)


class EntrySink(Protocol):
    """Where new entries go before they count; raises when it cannot keep one."""

    def keep(self, entry: Entry, /) -> None:
        """Makes the entry durable."""
        ...


class Ledger:
    """One merchant's book, verified when it is loaded."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        key: Ed25519PrivateKey | None = None,
        sink: EntrySink | None = None,
        expected_head: Head | None = None,
    ) -> None:
        """Takes over a book after verifying it.

        Args:
            entries: the whole book.
            key: the book's private key; absent, the book can only be read.
            sink: is given each new entry before it counts.
            expected_head: the newest entry that somebody else has seen.

        Raises:
            LedgerError: the book is broken, or kept under another key.
        """
        public_key = None if key is None else key_id_of(key)
        self._opening = verify_chain(entries, public_key=public_key, expected_head=expected_head)
        self._key = key
        self._sink = sink
        self._rules = BookRules()
        self._entries: list[Entry] = []
        self._reservations: dict[str, Reserve] = {}
        self._commits: dict[str, Entry] = {}
        self._refusals: dict[tuple[str, float], Entry] = {}
        self._declarations: dict[str, Entry] = {}
        self._events: tuple[PrivacyEvent, ...] = ()
        self._cap = self._opening.cap_epsilon
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
        return self._cap

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """Everything reserved so far, merged."""
        return self._events

    def spent_epsilon(self) -> float:
        """Epsilon of all reservations at the book's delta, by PLD."""
        return epsilon_pld(self._events, self._opening.delta)

    def would_spend(self, events: Iterable[PrivacyEvent]) -> float:
        """Epsilon of the whole book if these events were reserved too; nothing is booked."""
        return epsilon_pld(merge([*self._events, *events]), self._opening.delta)

    def remaining(self) -> float:
        """The cap less what is spent, at least 0.

        Composition is not additive: use ``would_spend`` to see whether a run fits.
        """
        return max(0.0, self._cap - self.spent_epsilon())

    def reservation(self, task: TaskId) -> Reserve | None:
        """What was reserved under this id."""
        return self._reservations.get(task)

    def released(self, task: TaskId) -> Sha256 | None:
        """The digest of the bytes released under this id."""
        entry = self._commits.get(task)
        return Sha256(entry.body.sha256) if entry and isinstance(entry.body, Commit) else None

    def declaration(self, task: TaskId) -> Declare | None:
        """What a foreign app released under this id."""
        entry = self._declarations.get(task)
        return entry.body if entry and isinstance(entry.body, Declare) else None

    def reserve(
        self,
        task: TaskId,
        *,
        plan_digest: Sha256,
        run: RunId,
        round_number: int,
        phase: str,
        events: Sequence[PrivacyEvent],
        now: datetime,
    ) -> Entry:
        """Spends the worst case of a task before it begins.

        Raises:
            ConflictError: the id was reserved before; send the kept bytes again instead.
            BudgetExhaustedError: the cap would be exceeded; nothing was booked.
            InvalidInputError: a name or number is out of bounds, or there are no events.
            LedgerError: the book is read-only or could not be written.
        """
        if task in self._reservations:
            raise ConflictError(f"task {task} was reserved before; resend its result, do not train")
        body = _reserve_body(task, plan_digest, run, round_number, phase, events)
        needed = self.would_spend(body.events)
        if needed > self._cap:
            raise BudgetExhaustedError(
                f"task {task} would raise epsilon to {round_up(needed)}, above the cap of "
                f"{self._cap}; raise the cap or leave the run"
            )
        return self._append(body, now)

    def commit(self, task: TaskId, *, sha256: Sha256, now: datetime) -> Entry:
        """Binds a reservation to the bytes that are about to leave; repeating it changes nothing.

        Raises:
            NotFoundError: nothing was reserved under this id.
            ConflictError: other bytes were committed under this id.
            LedgerError: the book is read-only or could not be written.
        """
        if task not in self._reservations:
            raise NotFoundError(f"task {task} has no reservation to commit")
        known = self._commits.get(task)
        if known is None:
            return self._append(_checked(Commit, id=task, sha256=sha256), now)
        if self.released(task) != sha256:
            raise ConflictError(f"task {task} released other bytes before; send those again")
        return known

    def refuse(
        self, task: TaskId, *, plan_digest: Sha256, events: Sequence[PrivacyEvent], now: datetime
    ) -> Entry:
        """Books that a task was refused, once for each cap; spends nothing.

        Raises:
            ConflictError: the task was reserved, or would keep to the cap.
            LedgerError: the book is read-only or could not be written.
        """
        known = self._refusals.get((task, self._cap))
        if known is not None:
            return known
        needed = self.would_spend(events)
        if task in self._reservations or needed <= self._cap:
            raise ConflictError(f"task {task} is not over the cap; it cannot be refused for that")
        body = _checked(
            Refuse,
            id=task,
            plan_digest=plan_digest,
            epsilon_needed=needed,
            cap_epsilon=self._cap,
        )
        return self._append(body, now)

    def declare(
        self,
        task: TaskId,
        *,
        app: str,
        plan_digest: Sha256,
        run: RunId,
        round_number: int,
        phase: str,
        sha256: Sha256,
        now: datetime,
    ) -> Entry:
        """Books what a foreign app lets out, before it leaves; repeating it changes nothing.

        Raises:
            ConflictError: other bytes were declared under this id, or it was reserved.
            InvalidInputError: a name or number is out of bounds.
            LedgerError: the book is read-only or could not be written.
        """
        body = _checked(
            Declare,
            id=task,
            app=app,
            plan_digest=plan_digest,
            run=run,
            round=round_number,
            phase=phase,
            sha256=sha256,
        )
        known = self._declarations.get(task)
        if known is not None and known.body == body:
            return known
        if known is not None or task in self._reservations:
            raise ConflictError(f"task {task} is booked otherwise; send what was booked again")
        return self._append(body, now)

    def raise_cap(self, cap_epsilon: float, *, now: datetime) -> Entry:
        """Allows more in total.

        Raises:
            InvalidInputError: the new cap is not above the old one.
            LedgerError: the book is read-only or could not be written.
        """
        if not cap_epsilon > self._cap:
            raise InvalidInputError(f"the new cap must be above the present {self._cap}")
        return self._append(_checked(RaiseCap, cap_epsilon=cap_epsilon), now)

    def _append(self, body: AnyBody, now: datetime) -> Entry:
        if self._key is None:
            raise LedgerError("this ledger was opened for reading only; open it as its writer")
        entry = make_entry(body, after=self._entries[-1], now=now, key=self._key)
        if self._sink is not None:
            self._sink.keep(entry)
        self._admit(entry)
        return entry

    def _admit(self, entry: Entry) -> None:
        """Takes one verified entry into the book's state."""
        self._rules.admit(entry)
        match entry.body:
            case Reserve() as body:
                self._reservations[body.id] = body
                self._events = merge([*self._events, *body.events])
            case Commit() as body:
                self._commits[body.id] = entry
            case Refuse() as body:
                self._refusals[body.id, body.cap_epsilon] = entry
            case RaiseCap() as body:
                self._cap = body.cap_epsilon
            case Declare() as body:
                self._declarations[body.id] = entry
            case Open():
                pass
        self._entries.append(entry)


def open_ledger(
    *, cap_epsilon: float, delta: float, key: Ed25519PrivateKey, entropy: Entropy, now: datetime
) -> Ledger:
    """A new book under a random data-set id.

    Raises:
        InvalidInputError: the cap or delta is out of bounds, or the time has no zone.
    """
    opening = _checked(
        Open,
        dataset_id=entropy.random_bytes(DATASET_ID_BYTES).hex(),
        public_key=key_id_of(key),
        cap_epsilon=cap_epsilon,
        delta=delta,
    )
    return Ledger([make_entry(opening, after=None, now=now, key=key)], key=key)


def _reserve_body(
    task: TaskId,
    plan_digest: Sha256,
    run: RunId,
    round_number: int,
    phase: str,
    events: Sequence[PrivacyEvent],
) -> Reserve:
    return _checked(
        Reserve,
        id=task,
        plan_digest=plan_digest,
        run=run,
        round=round_number,
        phase=phase,
        events=merge(events),
    )


def _checked(kind: type[_Part], **fields: object) -> _Part:
    """The body, or the caller's mistake in one sentence."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"the ledger cannot book this: {where}: {first['msg']}") from error
