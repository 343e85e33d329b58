"""The privacy ledger: one append-only book per shop and data set, which decides what may be spent.

The rules:

* what is reserved is spent, from that moment and for good, whether or not a commit follows; only
  a task that was given up before it touched data may be released again;
* a task id is reserved once; a second time is a conflict, so a replayed message trains nothing;
* a reservation beyond a cap is refused before any data are touched: for life, a plan, a month, or
  the share for metrics;
* epsilon is never stored as truth: it is recomputed from the events;
* a commit binds the reservation to the released bytes; sending those again costs nothing;
* what a foreign app releases is declared with its digest before it leaves, and never counted: a
  task is either reserved or declared, never both;
* the merchant's terms are entries too, and hold until it accepts others;
* a book has one unit of privacy, and its time never runs backwards.

The class works in memory and performs no I/O: ``hansa.client.ledger_store`` makes it durable.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from hansa.core.contract import Contract
from hansa.core.errors import (
    BudgetExhaustedError,
    ConflictError,
    InvalidInputError,
    LedgerError,
    NotFoundError,
)
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.bodies import (
    Accept,
    AnyBody,
    Commit,
    Declare,
    Open,
    RaiseCap,
    Refuse,
    Release,
    Reserve,
)
from hansa.core.privacy.book import BookState
from hansa.core.privacy.entries import Entry, Head, make_entry
from hansa.core.privacy.events import UNIT, PrivacyEvent, Unit, merge
from hansa.core.privacy.mechanism import Entropy
from hansa.core.signing import key_id_of

DATASET_ID_BYTES = 32
_Body = TypeVar("_Body", Open, Reserve, Commit, Release, Refuse, RaiseCap, Accept, Declare)


class EntrySink(Protocol):
    """Where new entries go before they count; raises when it cannot keep one."""

    def keep(self, entry: Entry, /) -> None:
        """Makes the entry durable."""
        ...


class Ledger(BookState):
    """One merchant's book, and the verbs by which it grows."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        key: Ed25519PrivateKey | None = None,
        sink: EntrySink | None = None,
        expected_head: Head | None = None,
        verified: bool = False,
    ) -> None:
        """Takes over a book after verifying it.

        Args:
            entries: the whole book.
            key: the book's private key; absent, the book can only be read.
            sink: is given each new entry before it counts.
            expected_head: the newest entry that somebody else has seen.
            verified: whether the caller has verified the chain (``own_book.read_own_book``).

        Raises:
            LedgerError: the book is broken, or kept under another key.
        """
        public_key = None if key is None else key_id_of(key)
        super().__init__(
            entries, public_key=public_key, expected_head=expected_head, verified=verified
        )
        self._key = key
        self._sink = sink

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
            BudgetExhaustedError: a cap would be exceeded; nothing was booked.
            InvalidInputError: a name or number is out of bounds, the events have another unit than
                the book, or there are none.
            LedgerError: the book is read-only or could not be written, or the clock was set back.
        """
        if task in self._reservations:
            raise ConflictError(f"task {task} was reserved before; resend its result, do not train")
        body = self._reserve_body(task, plan_digest, run, round_number, phase, events)
        self.check_clock(now)
        overdraft = self._overdraft(body, now)
        if overdraft is not None:
            raise BudgetExhaustedError(
                f"task {task} would raise {overdraft.sentence()}; raise the cap or leave the run"
            )
        return self._append(body, now)

    def commit(self, task: TaskId, *, sha256: Sha256, now: datetime) -> Entry:
        """Binds a reservation to the bytes that are about to leave; repeating it changes nothing.

        Raises:
            NotFoundError: nothing was reserved under this id.
            ConflictError: other bytes were committed under this id, or it was released.
            LedgerError: the book is read-only or could not be written.
        """
        if task not in self._reservations:
            raise NotFoundError(f"task {task} has no reservation to commit")
        if task in self._releases:
            raise ConflictError(f"the reservation of task {task} was released; send nothing for it")
        known = self._commits.get(task)
        if known is None:
            return self._append(_checked(Commit, id=task, sha256=sha256), now)
        if self.released(task) != sha256:
            raise ConflictError(f"task {task} released other bytes before; send those again")
        return known

    def release(self, task: TaskId, *, now: datetime) -> Entry:
        """Takes a reservation back; repeating it changes nothing.

        Only for a task of which nothing can have left: it was given up before data were touched.
        The ledger knows but that nothing was committed; the caller must know the rest.

        Raises:
            NotFoundError: nothing was reserved under this id.
            ConflictError: the task was committed.
            LedgerError: the book is read-only or could not be written.
        """
        if task not in self._reservations:
            raise NotFoundError(f"task {task} has no reservation to release")
        if task in self._commits:
            raise ConflictError(f"task {task} was committed; what may have left stays spent")
        known = self._releases.get(task)
        return known or self._append(_checked(Release, id=task), now)

    def refuse(
        self,
        task: TaskId,
        *,
        plan_digest: Sha256,
        run: RunId,
        phase: str,
        events: Sequence[PrivacyEvent],
        now: datetime,
    ) -> Entry | None:
        """Books that a task was refused, once for each cap; spends nothing.

        A book without a contract has but one cap for all that read it: a refusal for another one is
        not booked there, since servers of before could not read it.

        Raises:
            ConflictError: the task was reserved, or would keep to all caps.
            LedgerError: the book is read-only or could not be written.
        """
        asked = self._reserve_body(task, plan_digest, run, 0, phase, events)
        overdraft = None if task in self._reservations else self._overdraft(asked, now)
        if overdraft is None:
            raise ConflictError(f"task {task} is not over the cap; it cannot be refused for that")
        if overdraft.scope != "lifetime" and self.accepted is None:
            return None
        body = _checked(
            Refuse,
            id=task,
            plan_digest=plan_digest,
            epsilon_needed=overdraft.epsilon,
            cap_epsilon=overdraft.cap,
            scope=overdraft.scope,
        )
        known = self._refusals.get((task, body.scope, body.cap_epsilon))
        return known or self._append(body, now)

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
        if not cap_epsilon > self.cap_epsilon:
            raise InvalidInputError(f"the new cap must be above the present {self.cap_epsilon}")
        self.check_clock(now)
        return self._append(_checked(RaiseCap, cap_epsilon=cap_epsilon), now)

    def accept(self, contract: Contract, *, offer: int = 0, now: datetime) -> Entry:
        """Puts other terms into force, with the merchant's consent.

        Args:
            contract: all of the terms.
            offer: the number of the operator's offer that is answered; 0: the merchant's own.
            now: the present.

        Raises:
            InvalidInputError: the terms do not allow the book's own unit, or the number is none.
            LedgerError: the book is read-only or could not be written, or the clock was set back.
        """
        if self._opening.unit not in contract.units:
            raise InvalidInputError(
                f"this ledger protects each {self._opening.unit}: name it among the units"
            )
        self.check_clock(now)
        return self._append(_checked(Accept, contract=contract, offer=offer), now)

    def _reserve_body(
        self,
        task: TaskId,
        plan_digest: Sha256,
        run: RunId,
        round_number: int,
        phase: str,
        events: Sequence[PrivacyEvent],
    ) -> Reserve:
        unit = self._opening.unit
        if any(event.unit != unit for event in events):
            raise InvalidInputError(
                f"this ledger counts epsilon for each {unit}, and the task's events are for "
                "another unit; the two cannot be added up: keep a book of its own for it"
            )
        return _checked(
            Reserve,
            id=task,
            plan_digest=plan_digest,
            run=run,
            round=round_number,
            phase=phase,
            events=merge(events),
        )

    def _append(self, body: AnyBody, now: datetime) -> Entry:
        if self._key is None:
            raise LedgerError("this ledger was opened for reading only; open it as its writer")
        time = datetime.fromisoformat(self._in_order(now))
        entry = make_entry(body, after=self._entries[-1], now=time, key=self._key)
        if self._sink is not None:
            self._sink.keep(entry)
        self._admit(entry)
        return entry


def open_ledger(
    *,
    cap_epsilon: float,
    delta: float,
    key: Ed25519PrivateKey,
    entropy: Entropy,
    now: datetime,
    unit: Unit = UNIT,
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
        unit=unit,
    )
    return Ledger([make_entry(opening, after=None, now=now, key=key)], key=key)


def _checked(kind: type[_Body], **fields: object) -> _Body:
    """The body, or the caller's mistake in one sentence."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"the ledger cannot book this: {where}: {first['msg']}") from error
