"""Runs and their rounds: the checkpoints from which a killed server goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Engine, or_, select, update
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, NotFoundError
from hansa.core.flower_plan import AnyPlan
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.server.state.database import retried, writing
from hansa.server.state.tables import LedgerRow, RoundRow, RunRow, TaskRow
from hansa.server.state.tasks import close_with_run

Clock = Callable[[], float]
Along = Callable[[Session, RunId], None]
"""What else is to be written in the transaction that queues a run, or what forbids it."""

_KNOWN_RUNS = 16
UNFINISHED = ("queued", "running", "releasing")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a merchant gave no valid update."""

    reason: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One aggregated round."""

    number: int
    cohort: list[MerchantId]
    accepted: dict[MerchantId, Sha256]
    refused: dict[MerchantId, Refusal]
    aggregate_sha256: Sha256
    seconds: float
    down_bytes: int
    up_bytes: int
    began: dict[MerchantId, int] = field(default_factory=dict)
    """The round whose model an accepted update began with, where it is not this round's."""
    strategy_sha256: Sha256 | None = None
    """What the strategy remembers from round to round, if anything."""


@dataclass(frozen=True, kw_only=True)
class RunTerms:
    """What never changes of a run once its first task is handed out."""

    run_id: str
    plan: dict[str, Any]
    plan_digest: str
    signed_plan: bytes
    context_sha256: str | None


class Runs:
    """Every execution of a plan, with its state and its rounds."""

    def __init__(self, engine: Engine, clock: Clock, *, owner: str | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._owner = owner
        self._terms: dict[str, RunTerms] = {}

    def owned_by(self, owner: str) -> "Runs":
        """The same runs for one server process, which may change only those that it owns now.

        A process that was held up for so long that another took over finds out here, before it
        writes anything: its changes are refused with a ConflictError.
        """
        return Runs(self._engine, self._clock, owner=owner)

    @retried
    def queue(self, run_id: RunId, plan: AnyPlan, signed_plan: bytes) -> None:
        """Writes a new run down.

        Raises:
            ConflictError: a run of that name exists.
        """
        with writing(self._engine) as session:
            if session.get(RunRow, run_id) is not None:
                raise ConflictError(f"run {run_id!r} exists already")
            session.add(self._queued(run_id, plan, signed_plan))

    @retried
    def queue_next(self, plan: AnyPlan, signed_plan: bytes, along: Along | None = None) -> RunId:
        """Writes a new run down under the plan's name and its next number; returns its name.

        A name is taken also where only the merchants know it, from before this database was
        restored: they would refuse to train for it a second time.

        Args:
            plan: what is to be run.
            signed_plan: the same, under the operator's key.
            along: what is written with it, or not at all; what it raises, this raises.
        """
        with writing(self._engine) as session:
            known = session.scalars(select(RunRow.run_id).where(RunRow.plan_name == plan.name))
            number = 1 + max(map(_number, known), default=0)
            while _is_taken(session, run_id := RunId(f"{plan.name}-{number:04d}")):
                number += 1
            session.add(self._queued(run_id, plan, signed_plan))
            if along is not None:
                along(session, run_id)
        return run_id

    def _queued(self, run_id: RunId, plan: AnyPlan, signed_plan: bytes) -> RunRow:
        return RunRow(
            run_id=run_id,
            plan_name=plan.name,
            plan_digest=plan.digest,
            plan=plan.model_dump(mode="json"),
            signed_plan=signed_plan,
            state="queued",
            started=self._clock(),
        )

    @retried
    def claim(self, owner: str, lease_s: float) -> RunRow | None:
        """Takes the oldest unfinished run that nobody works on; of several servers one gets it.

        Args:
            owner: the server process that is to work on it, and may have done so before.
            lease_s: seconds until another may take it over, unless it is renewed.
        """
        now = self._clock()
        free = (
            RunRow.state.in_(UNFINISHED),
            or_(RunRow.owner.in_(("", owner)), RunRow.owned_until <= now),
        )
        with Session(self._engine) as session:
            waiting = session.scalars(
                select(RunRow.run_id).where(*free).order_by(RunRow.started, RunRow.run_id)
            ).all()
        for run_id in waiting:
            # Asked again within the statement: somebody else may have been quicker.
            taken = update(RunRow).where(RunRow.run_id == run_id, *free).returning(RunRow.run_id)
            with writing(self._engine) as session:
                claimed = session.scalar(taken.values(owner=owner, owned_until=now + lease_s))
            if claimed is not None:
                return self.get(claimed)
        return None

    @retried
    def renew(self, run_id: str, owner: str, lease_s: float) -> bool:
        """Keeps a run for so many seconds more; false when another has taken it over."""
        mine = update(RunRow).where(RunRow.run_id == run_id, RunRow.owner == owner)
        kept = mine.values(owned_until=self._clock() + lease_s).returning(RunRow.run_id)
        with writing(self._engine) as session:
            return session.scalar(kept) is not None

    @retried
    def release(self, run_id: str, owner: str) -> None:
        """Gives a run up, so that another server may take it at once."""
        mine = update(RunRow).where(RunRow.run_id == run_id, RunRow.owner == owner)
        with writing(self._engine) as session:
            session.execute(mine.values(owner="", owned_until=0.0))

    def next_unfinished(self) -> RunRow | None:
        """The oldest run that is not at its end."""
        with Session(self._engine) as session:
            query = select(RunRow).where(RunRow.state.in_(UNFINISHED)).order_by(RunRow.started)
            return session.scalar(query.limit(1))

    def get(self, run_id: str) -> RunRow:
        """One run.

        Raises:
            NotFoundError: there is none of that name.
        """
        with Session(self._engine) as session:
            row = session.get(RunRow, run_id)
        if row is None:
            raise NotFoundError(f"there is no run {run_id!r}; see 'hansa-server run list'")
        return row

    def terms(self, run_id: str) -> RunTerms:
        """What a run's tasks rest on; asked with every one of them, and read once.

        Raises:
            NotFoundError: there is none of that name.
        """
        if run_id not in self._terms:
            row = self.get(run_id)
            terms = RunTerms(**{one.name: getattr(row, one.name) for one in fields(RunTerms)})
            self._terms = {**dict(list(self._terms.items())[1 - _KNOWN_RUNS :]), run_id: terms}
            return terms
        return self._terms[run_id]

    def of_release(self, version: int) -> RunRow | None:
        """The run out of which a release came."""
        with Session(self._engine) as session:
            return session.scalar(select(RunRow).where(RunRow.release_version == version).limit(1))

    def newest_first(self) -> Sequence[RunRow]:
        """All runs."""
        with Session(self._engine) as session:
            return session.scalars(select(RunRow).order_by(RunRow.started.desc())).all()

    @retried
    def enter(self, run_id: str, state: str, sentence: str = "") -> set[str]:
        """Moves a run into a state; its end closes its open tasks: nobody pays for them any more.

        Returns:
            The merchants whose work was closed, to be woken.
        """
        with writing(self._engine) as session:
            row = self._changeable(session, run_id)
            row.state, row.sentence = state, sentence
            if state in UNFINISHED:
                return set()
            row.finished = self._clock()
            return close_with_run(session, TaskRow.run_id == run_id)

    @retried
    def request_stop(self, run_id: str) -> set[str]:
        """Asks a run to end; one that waits in the queue ends here, a finished run stays as it is.

        The run's open tasks are closed here and now, whether a server works on it or not.

        Returns:
            The merchants whose work was closed, to be woken.

        Raises:
            NotFoundError: there is none of that name.
        """
        self.get(run_id)
        with writing(self._engine) as session:
            row = self._changeable(session, run_id)
            row.stop_requested = True
            if row.state == "queued":
                row.state, row.sentence = "stopped", "stopped by the operator"
                row.finished = self._clock()
            return close_with_run(session, TaskRow.run_id == run_id)

    @retried
    def close_ended(self) -> set[str]:
        """Closes what was left open of runs that have ended; returns whose work it was."""
        over = select(RunRow.run_id).where(RunRow.state.not_in(UNFINISHED))
        with writing(self._engine) as session:
            return close_with_run(session, TaskRow.run_id.in_(over))

    def stop_requested(self, run_id: str) -> bool:
        """Whether somebody asked the run to end."""
        query = select(RunRow.stop_requested).where(RunRow.run_id == run_id)
        with self._engine.connect() as connection:
            return bool(connection.scalar(query))

    @retried
    def note_context(self, run_id: str, sha256: Sha256) -> None:
        """Notes the blob of public records that accompanies every task of the run."""
        with writing(self._engine) as session:
            self._changeable(session, run_id).context_sha256 = sha256
        self._terms.pop(run_id, None)

    @retried
    def note_parent(self, run_id: str, version: int) -> None:
        """Notes from which release the run goes on."""
        with writing(self._engine) as session:
            self._changeable(session, run_id).parent_version = version

    @retried
    def note_release(self, run_id: str, version: int) -> None:
        """Notes which release came of the run."""
        with writing(self._engine) as session:
            self._changeable(session, run_id).release_version = version

    @retried
    def note_evaluation(self, run_id: str, evaluation: dict[str, Any]) -> None:
        """Adds figures to the run's evaluation."""
        with writing(self._engine) as session:
            row = self._changeable(session, run_id)
            row.evaluation = {**(row.evaluation or {}), **evaluation}

    @retried
    def checkpoint(self, run_id: str, record: RoundRecord) -> None:
        """Writes an aggregated round down; from here the run can go on after any crash."""
        row = RoundRow(
            run_id=run_id,
            number=record.number,
            cohort=list(record.cohort),
            accepted=dict(record.accepted),
            refused={
                name: [refusal.reason, refusal.sentence] for name, refusal in record.refused.items()
            },
            aggregate_sha256=record.aggregate_sha256,
            seconds=record.seconds,
            down_bytes=record.down_bytes,
            up_bytes=record.up_bytes,
            began=dict(record.began),
            strategy_sha256=record.strategy_sha256,
        )
        with writing(self._engine) as session:
            self._changeable(session, run_id)
            session.merge(row)

    def _changeable(self, session: Session, run_id: str) -> RunRow:
        """The run's row, which nobody else changes until the session commits.

        Raises:
            ConflictError: another server process works on the run now.
        """
        row = session.get_one(RunRow, run_id, with_for_update=True)
        if self._owner is not None and row.owner != self._owner:
            raise ConflictError(f"another server carries run {run_id!r} out now; leave it to that")
        return row

    def rounds(self, run_id: str) -> list[RoundRecord]:
        """The run's aggregated rounds in order."""
        with Session(self._engine) as session:
            query = select(RoundRow).where(RoundRow.run_id == run_id).order_by(RoundRow.number)
            return [_record(row) for row in session.scalars(query)]


def _number(run_id: str) -> int:
    """The number at the end of a run's name; 0 where there is none."""
    digits = run_id.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _is_taken(session: Session, run_id: str) -> bool:
    """Whether the run is known here, or booked in the copy of any merchant's ledger."""
    booked = select(LedgerRow.position).where(LedgerRow.line.contains(f'"run":"{run_id}"'))
    return session.get(RunRow, run_id) is not None or session.scalar(booked.limit(1)) is not None


def _record(row: RoundRow) -> RoundRecord:
    return RoundRecord(
        number=row.number,
        cohort=[MerchantId(name) for name in row.cohort],
        accepted={MerchantId(name): Sha256(sha) for name, sha in row.accepted.items()},
        refused={
            MerchantId(name): Refusal(reason=reason, sentence=sentence)
            for name, (reason, sentence) in row.refused.items()
        },
        aggregate_sha256=Sha256(row.aggregate_sha256),
        seconds=row.seconds,
        down_bytes=row.down_bytes,
        up_bytes=row.up_bytes,
        began={MerchantId(name): number for name, number in row.began.items()},
        strategy_sha256=None if row.strategy_sha256 is None else Sha256(row.strategy_sha256),
    )
