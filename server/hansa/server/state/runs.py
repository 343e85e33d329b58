"""Runs and their rounds: the checkpoints from which a killed server goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, NotFoundError
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.plan import RunPlan
from hansa.server.state.tables import RoundRow, RunRow

Clock = Callable[[], float]

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


class Runs:
    """Every execution of a plan, with its state and its rounds."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def queue(self, run_id: RunId, plan: RunPlan, signed_plan: bytes) -> None:
        """Writes a new run down.

        Raises:
            ConflictError: a run of that name exists.
        """
        row = RunRow(
            run_id=run_id,
            plan_name=plan.name,
            plan_digest=plan.digest,
            plan=plan.model_dump(mode="json"),
            signed_plan=signed_plan,
            state="queued",
            started=self._clock(),
        )
        with Session(self._engine) as session, session.begin():
            if session.get(RunRow, run_id) is not None:
                raise ConflictError(f"run {run_id!r} exists already")
            session.add(row)

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

    def newest_first(self) -> Sequence[RunRow]:
        """All runs."""
        with Session(self._engine) as session:
            return session.scalars(select(RunRow).order_by(RunRow.started.desc())).all()

    def next_number(self) -> int:
        """How many runs there are, plus one."""
        return len(self.newest_first()) + 1

    def enter(self, run_id: str, state: str, sentence: str = "") -> None:
        """Moves a run into a state."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(RunRow, run_id)
            row.state, row.sentence = state, sentence
            if state not in UNFINISHED:
                row.finished = self._clock()

    def request_stop(self, run_id: str) -> None:
        """Asks a run to end; one that waits in the queue ends here, a finished run stays as it is.

        Raises:
            NotFoundError: there is none of that name.
        """
        self.get(run_id)
        with Session(self._engine) as session, session.begin():
            row = session.get_one(RunRow, run_id)
            row.stop_requested = True
            if row.state == "queued":
                row.state, row.sentence = "stopped", "stopped by the operator"
                row.finished = self._clock()

    def stop_requested(self, run_id: str) -> bool:
        """Whether somebody asked the run to end."""
        return self.get(run_id).stop_requested

    def note_context(self, run_id: str, sha256: Sha256) -> None:
        """Notes the blob of public records that accompanies every task of the run."""
        with Session(self._engine) as session, session.begin():
            session.get_one(RunRow, run_id).context_sha256 = sha256

    def note_release(self, run_id: str, version: int) -> None:
        """Notes which release came of the run."""
        with Session(self._engine) as session, session.begin():
            session.get_one(RunRow, run_id).release_version = version

    def note_evaluation(self, run_id: str, evaluation: dict[str, Any]) -> None:
        """Adds figures to the run's evaluation."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(RunRow, run_id)
            row.evaluation = {**(row.evaluation or {}), **evaluation}

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
        )
        with Session(self._engine) as session, session.begin():
            session.merge(row)

    def rounds(self, run_id: str) -> list[RoundRecord]:
        """The run's aggregated rounds in order."""
        with Session(self._engine) as session:
            query = select(RoundRow).where(RoundRow.run_id == run_id).order_by(RoundRow.number)
            return [_record(row) for row in session.scalars(query)]


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
    )
