"""The work handed out to merchants, and what came back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Engine, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from hansa.core.ids import MerchantId, RunId, Sha256, TaskId
from hansa.server.state.tables import TaskRow


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


@dataclass(frozen=True, kw_only=True)
class Result:
    """A client's answer: either the digest of its content or a refusal with its reason."""

    sha256: Sha256 | None = None
    size_bytes: int = 0
    reason: str = ""
    sentence: str = ""


class Tasks:
    """All tasks, each written once under its idempotency key."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def post(self, tasks: Iterable[NewTask]) -> None:
        """Hands out work; a task that exists is left as it is, but for its deadline while open."""
        with Session(self._engine) as session, session.begin():
            for task in tasks:
                values = {
                    **task.__dict__,
                    "state": "open",
                    "result_bytes": 0,
                    "reason": "",
                    "sentence": "",
                }
                statement = insert(TaskRow).values(**values)
                session.execute(
                    statement.on_conflict_do_update(
                        index_elements=["task_id"],
                        set_={"deadline": task.deadline},
                        where=TaskRow.state == "open",
                    )
                )

    def open_for(self, merchant: str) -> Sequence[TaskRow]:
        """The merchant's unfinished work, oldest first."""
        with Session(self._engine) as session:
            query = select(TaskRow).where(TaskRow.merchant == merchant, TaskRow.state == "open")
            return session.scalars(query.order_by(TaskRow.deadline, TaskRow.task_id)).all()

    def find(self, task_id: str, merchant: str) -> TaskRow | None:
        """A task of this merchant; another merchant's task is not found."""
        with Session(self._engine) as session:
            row = session.get(TaskRow, task_id)
            return row if row is not None and row.merchant == merchant else None

    def complete(self, task_id: str, merchant: str, result: Result) -> Outcome:
        """Writes a result down, once; a repetition of the same result is harmless.

        A result is late only once its round was closed: the rounds of a server that was down stay
        open beyond the deadline, and what merchants paid for in the meantime still counts.
        """
        statement = update(TaskRow).where(
            TaskRow.task_id == task_id, TaskRow.merchant == merchant, TaskRow.state == "open"
        )
        with Session(self._engine) as session, session.begin():
            # One conditional statement: of two results at the same moment, one is accepted.
            written = session.execute(
                statement.values(**_columns(result)).returning(TaskRow.task_id)
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

    def expire_run(self, run_id: str) -> set[str]:
        """Closes what is still open of a run that has ended; returns whose work it was."""
        return self._expire(TaskRow.run_id == run_id, "stopped", "the run has ended")

    def expire_merchant(self, merchant: str) -> None:
        """Closes the open work of a merchant that has left: no round waits for it."""
        self._expire(TaskRow.merchant == merchant, "revoked", "the membership was ended")

    def _expire(self, which: ColumnElement[bool], reason: str, sentence: str) -> set[str]:
        statement = update(TaskRow).where(which, TaskRow.state == "open")
        closed = statement.values(state="expired", reason=reason, sentence=sentence)
        with Session(self._engine) as session, session.begin():
            return set(session.scalars(closed.returning(TaskRow.merchant)))


def _columns(result: Result) -> dict[str, object]:
    return {
        "state": "done" if result.sha256 else "refused",
        "result_sha256": result.sha256,
        "result_bytes": result.size_bytes,
        "reason": result.reason,
        "sentence": result.sentence,
    }
