"""The work handed out to merchants, and what came back."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import BigInteger, ColumnElement, Engine, and_, bindparam, or_, select, update
from sqlalchemy.orm import Session

from hansa.core.ids import MerchantId, RunId, Sha256, TaskId
from hansa.server.state.database import insert_into, retried, writing
from hansa.server.state.tables import TaskRow

Clock = Callable[[], float]
"""Seconds since 1970-01-01 UTC."""


class Outcome(StrEnum):
    """What became of a result that a client sent."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    LATE = "late"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A piece of work to hand out."""

    task_id: TaskId
    run_id: RunId
    round_number: int
    phase: str
    merchant: MerchantId
    content_sha256: Sha256
    content_bytes: int
    deadline: float
    settings: bytes | None = None
    """The message's records without arrays, as a content file, where ``content`` lacks them."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A client's answer: either the digest of its content or a refusal with its reason."""

    sha256: Sha256 | None = None
    size_bytes: int = 0
    reason: str = ""
    sentence: str = ""


_HANDED_OUT = (
    update(TaskRow)
    .where(TaskRow.task_id == bindparam("name"), TaskRow.state == "open")
    .values(attempts=TaskRow.attempts + 1, session=bindparam("number", type_=BigInteger))
)
_UNANSWERED = {"state": "open", "result_bytes": 0, "reason": "", "sentence": ""}


class Tasks:
    """All tasks, each written once under its idempotency key."""

    def __init__(self, engine: Engine, clock: Clock = time.time) -> None:
        self._engine = engine
        self._clock = clock

    @retried
    def post(self, tasks: Collection[NewTask]) -> None:
        """Hands out work; a task that exists is left as it is, but for its deadline while open."""
        # In one order everywhere, so that two servers at the same rows never wait for each other.
        rows = [
            {**task.__dict__, **_UNANSWERED}
            for task in sorted(tasks, key=lambda task: task.task_id)
        ]
        if not rows:
            return
        insert = insert_into(self._engine, TaskRow)
        statement = insert.on_conflict_do_update(
            index_elements=["task_id"],
            set_={"deadline": insert.excluded.deadline},
            where=TaskRow.state == "open",
        )
        with writing(self._engine) as session:
            session.connection().execute(statement, rows)

    @retried
    def postpone(self, run_id: str, phase: str, deadline: float) -> None:
        """Gives what is open of a run's phase a new deadline, in seconds since 1970."""
        named = (TaskRow.run_id == run_id, TaskRow.phase == phase, TaskRow.state == "open")
        with writing(self._engine) as session:
            session.execute(update(TaskRow).where(*named).values(deadline=deadline))

    def open_for(self, merchant: str, seen: Collection[str] = ()) -> Sequence[TaskRow]:
        """The merchant's unfinished work, oldest first, and what has expired of the ``seen``."""
        expired = (TaskRow.task_id.in_(seen), TaskRow.state == "expired")
        wanted = or_(TaskRow.state == "open", and_(*expired)) if seen else TaskRow.state == "open"
        with Session(self._engine) as session:
            query = select(TaskRow).where(TaskRow.merchant == merchant, wanted)
            return session.scalars(query.order_by(TaskRow.deadline, TaskRow.task_id)).all()

    @retried
    def note_handed_out(self, handed: Collection[tuple[str, int]]) -> None:
        """Counts that tasks were handed to a session of their merchant, those that are open."""
        rows = [{"name": name, "number": number} for name, number in sorted(handed)]
        with writing(self._engine) as session:
            session.connection().execute(_HANDED_OUT, rows)

    def find(self, task_id: str, merchant: str) -> TaskRow | None:
        """A task of this merchant; another merchant's task is not found."""
        with Session(self._engine) as session:
            row = session.get(TaskRow, task_id)
            return row if row is not None and row.merchant == merchant else None

    @retried
    def complete(self, task_id: str, merchant: str, result: Result) -> Outcome:
        """Writes a result down, once; a repetition of the same result is harmless.

        A result is late only once its round was closed: the rounds of a server that was down stay
        open beyond the deadline, and what merchants paid for in the meantime still counts.
        """
        statement = update(TaskRow).where(
            TaskRow.task_id == task_id, TaskRow.merchant == merchant, TaskRow.state == "open"
        )
        with writing(self._engine) as session:
            # One conditional statement: of two results at the same moment, one is accepted.
            written = session.execute(
                statement.values(**_columns(result), answered=self._clock()).returning(
                    TaskRow.task_id
                )
            )
            if written.scalar() is not None:
                return Outcome.ACCEPTED
            row = session.get(TaskRow, task_id)
            if row is None or row.merchant != merchant:
                return Outcome.UNKNOWN
            if row.state == "expired":
                return Outcome.LATE
            same = (row.result_sha256, row.reason) == (result.sha256, result.reason)
            return Outcome.DUPLICATE if same else Outcome.CONFLICT

    def states(self, task_ids: Sequence[TaskId]) -> list[TaskRow]:
        """The named tasks in the order asked for."""
        with Session(self._engine) as session:
            rows = session.scalars(select(TaskRow).where(TaskRow.task_id.in_(task_ids))).all()
        by_id = {row.task_id: row for row in rows}
        return [by_id[task_id] for task_id in task_ids if task_id in by_id]

    def of_run(self, run_id: str, phase: str, *, since_round: int) -> Sequence[TaskRow]:
        """A run's tasks of a phase that are open, or belong to this round or a later one."""
        recent = or_(TaskRow.state == "open", TaskRow.round_number >= since_round)
        query = select(TaskRow).where(TaskRow.run_id == run_id, TaskRow.phase == phase, recent)
        with Session(self._engine) as session:
            return session.scalars(query.order_by(TaskRow.round_number, TaskRow.task_id)).all()

    def asked(self, run_id: str, round_number: int, phase: str) -> set[MerchantId]:
        """The merchants that have a task in a round, whatever became of it."""
        with Session(self._engine) as session:
            query = select(TaskRow.merchant).where(
                TaskRow.run_id == run_id,
                TaskRow.round_number == round_number,
                TaskRow.phase == phase,
            )
            return {MerchantId(name) for name in session.scalars(query)}

    def merchants_of(self, run_id: RunId) -> list[MerchantId]:
        """Everybody who was asked for anything in a run, by name."""
        with Session(self._engine) as session:
            query = select(TaskRow.merchant).where(TaskRow.run_id == run_id).distinct()
            return sorted(MerchantId(name) for name in session.scalars(query))

    def expire(self, task_ids: Sequence[TaskId]) -> None:
        """Closes the named tasks that are still open: their results will come too late."""
        self._expire(TaskRow.task_id.in_(task_ids), "deadline", "no answer before the deadline")

    def expire_merchant(self, merchant: str) -> None:
        """Closes the open work of a merchant that has left: no round waits for it."""
        self._expire(TaskRow.merchant == merchant, "revoked", "the membership was ended")

    @retried
    def _expire(self, which: ColumnElement[bool], reason: str, sentence: str) -> None:
        with writing(self._engine) as session:
            _close(session, which, reason, sentence)


def close_with_run(session: Session, which: ColumnElement[bool]) -> set[str]:
    """Closes open work in the transaction that ends its run; returns whose work it was."""
    return _close(session, which, "stopped", "the run has ended")


def _close(session: Session, which: ColumnElement[bool], reason: str, sentence: str) -> set[str]:
    statement = update(TaskRow).where(which, TaskRow.state == "open")
    closed = statement.values(state="expired", reason=reason, sentence=sentence)
    return set(session.scalars(closed.returning(TaskRow.merchant)))


def _columns(result: Result) -> dict[str, object]:
    return {
        "state": "done" if result.sha256 else "refused",
        "result_sha256": result.sha256,
        "result_bytes": result.size_bytes,
        "reason": result.reason,
        "sentence": result.sentence,
    }
