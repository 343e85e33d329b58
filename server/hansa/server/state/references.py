"""Which blobs the database still needs, and which it names only in the past tense.

What nobody names at all is in neither set: it may be on its way into the database.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from hansa.core.flower_plan import KIND
from hansa.core.ids import MerchantId, RunId, Sha256, TaskId, task_id
from hansa.server.state.runs import UNFINISHED
from hansa.server.state.tables import RoundRow, RunRow, TaskRow, UploadRow


@dataclass(frozen=True, kw_only=True)
class References:
    """Two disjoint sets of blobs."""

    needed: frozenset[Sha256]
    disposable: frozenset[Sha256]


class BlobReferences:
    """Reads all tables that name blobs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, *, over_since: float, releases: Collection[int]) -> References:
        """Sorts what the database names.

        Needed are: of runs that are not over everything but the updates that an aggregate has taken
        in; of every run the last aggregate; of those that made a release the public records, with
        which the next run goes on; and whatever an open task hands out. Evidence packs hold digests
        alone and need no blob.

        Args:
            over_since: a run that ended later counts as not over (seconds since 1970).
            releases: the numbers of the releases from which a run may go on.
        """
        needed: set[Sha256] = set()
        named: set[Sha256] = set()
        with Session(self._engine) as session:
            needed |= _handed_out(session)
            for run in session.scalars(select(RunRow)):
                rounds = _rounds(session, run)
                needed |= _some(rounds[-1].aggregate_sha256 if rounds else None)
                if run.release_version in releases:
                    needed |= _some(run.context_sha256)
                is_over = run.state not in UNFINISHED and (run.finished or 0.0) < over_since
                used_up = {} if is_over else _used_up(session, run, rounds)
                named |= set(used_up.values())
                (named if is_over else needed).update(_of_run(session, run, rounds, used_up))
        return References(needed=frozenset(needed), disposable=frozenset(named - needed))


def _handed_out(session: Session) -> set[Sha256]:
    """Without these the subscriptions of those who hold the tasks would break."""
    query = select(TaskRow.content_sha256, RunRow.context_sha256).distinct()
    rows = session.execute(query.join(RunRow).where(TaskRow.state == "open"))
    return {sha for row in rows for sha in _some(*row)}


def _of_run(
    session: Session, run: RunRow, rounds: list[RoundRow], but: Collection[TaskId]
) -> set[Sha256]:
    """Every blob that the run names, but the results of some of its tasks."""
    found = _some(run.context_sha256)
    for record in rounds:
        found |= _some(record.aggregate_sha256, record.strategy_sha256)
    task, upload = TaskRow, UploadRow
    handed_out = select(task.content_sha256).where(task.run_id == run.run_id).distinct()
    found |= _some(*session.scalars(handed_out))
    delivered = select(upload.task_id, upload.sha256).join(task, task.task_id == upload.task_id)
    noted = session.execute(delivered.where(task.run_id == run.run_id))
    for name, sha in [*_results(session, run), *noted]:
        if name not in but:
            found |= _some(sha)
    return found


def _used_up(session: Session, run: RunRow, rounds: list[RoundRow]) -> dict[TaskId, Sha256]:
    """Updates that are part of an aggregate, by task; those of the newest round are left out.

    A Flower app that goes on after a restart is given all its answers once more: it keeps them.
    """
    if run.plan.get("kind") == KIND:
        return {}
    taken_in = {
        task_id(RunId(run.run_id), record.began.get(name, record.number), "train", MerchantId(name))
        for record in rounds[:-1]
        for name in record.accepted
    }
    return {name: sha for name, sha in _results(session, run) if name in taken_in}


def _results(session: Session, run: RunRow) -> list[tuple[TaskId, Sha256]]:
    query = select(TaskRow.task_id, TaskRow.result_sha256).where(TaskRow.run_id == run.run_id)
    return [(TaskId(name), Sha256(sha)) for name, sha in session.execute(query) if sha]


def _rounds(session: Session, run: RunRow) -> list[RoundRow]:
    query = select(RoundRow).where(RoundRow.run_id == run.run_id).order_by(RoundRow.number)
    return list(session.scalars(query))


def _some(*shas: str | None) -> set[Sha256]:
    """Those that are there; an app's round without an aggregate has an empty one."""
    return {Sha256(sha) for sha in shas if sha}
