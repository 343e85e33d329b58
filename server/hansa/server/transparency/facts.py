"""What the server's tables state that the log does not hold yet.

Ledger entries, runs and rounds are rows that never change once they are written, in an order of
their own: a cursor says how far the log has followed each ledger and each run, so nothing needs to
be written when they are, and a crash leaves nothing out. Whatever overwrites a row, as memberships
do, leaves a note in the transaction that does so (``state.fact_notes``).

A round of a foreign app grows until its run has ended, and is read then.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, literal, or_, select
from sqlalchemy.orm import Session

from hansa.core.canonical import parse_json
from hansa.core.ids import MerchantId
from hansa.core.transparency.leaves import (
    AggregateLeaf,
    BeginLeaf,
    CohortLeaf,
    EndLeaf,
    KnownLeaf,
    PlanLeaf,
    entry_leaf,
    instant,
    sentences_digest,
)
from hansa.server.state.fact_notes import member_fact
from hansa.server.state.runs import UNFINISHED
from hansa.server.state.tables import (
    LedgerRow,
    LogCursorRow,
    LogNoteRow,
    MerchantRow,
    RoundRow,
    RunRow,
    Table,
    TaskRow,
)

ENTRIES_AT_ONCE = 2000
"""Ledger entries that are logged in one transaction; a long history takes several."""

_MAX_SENTENCE = 500
_TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run that the log has not seen the end of."""

    run_id: str
    plan_digest: str
    started: float
    finished: float | None
    state: str
    release_version: int
    is_foreign: bool
    next_round: int | None
    """The first round that may be missing in the log; None: even the plan is."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it can change any more."""
        return self.state not in UNFINISHED


def beginning(session: Session, origin: str, now: dt.datetime) -> list[bytes]:
    """The first leaves: how much was there before, and the memberships as they stand."""
    opening = BeginLeaf(
        origin=origin,
        time=instant(now),
        merchants=_count(session, MerchantRow),
        runs=_count(session, RunRow),
        entries=_count(session, LedgerRow),
    )
    leaves: list[KnownLeaf] = [opening]
    noted = set(session.scalars(select(LogNoteRow.body)))
    for row in session.scalars(select(MerchantRow).order_by(MerchantRow.name)):
        facts = [member_fact(row, "joined")]
        if row.state in ("revoked", "left"):
            facts.append(member_fact(row, "left" if row.state == "left" else "revoked"))
        leaves += [fact for fact in facts if fact and fact.to_bytes().decode() not in noted]
    return [leaf.to_bytes() for leaf in leaves]


def _count(session: Session, table: type[Table]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def open_runs(session: Session) -> list[OpenRun]:
    """The runs that the log has not followed to their end, oldest first."""
    cursor = LogCursorRow.name == literal("run/") + RunRow.run_id
    columns = (
        RunRow.run_id, RunRow.plan_digest, RunRow.started, RunRow.finished, RunRow.state,
        RunRow.release_version, RunRow.plan, LogCursorRow.next,
    )  # fmt: skip
    unseen = or_(LogCursorRow.done.is_(None), LogCursorRow.done.is_(False))
    query = select(*columns).outerjoin(LogCursorRow, cursor).where(unseen)
    rows = session.execute(query.order_by(RunRow.started, RunRow.run_id))
    return [_open_run(row) for row in rows]


def _open_run(row: Any) -> OpenRun:
    return OpenRun(
        run_id=row.run_id,
        plan_digest=row.plan_digest,
        started=row.started,
        finished=row.finished,
        state=row.state,
        release_version=row.release_version,
        is_foreign="client_app" in row.plan,
        next_round=row.next,
    )


def plan_leaf(run: OpenRun) -> bytes:
    """The fact that a run was queued."""
    started = instant(dt.datetime.fromtimestamp(run.started, dt.UTC))
    return PlanLeaf(run=run.run_id, plan_digest=run.plan_digest, started=started).to_bytes()


def new_rounds(session: Session, run: OpenRun) -> list[RoundRow]:
    """The run's rounds from its cursor on that will not change any more."""
    if run.is_foreign and not run.has_ended:
        return []
    query = select(RoundRow).where(
        RoundRow.run_id == run.run_id, RoundRow.number >= (run.next_round or 0)
    )
    return list(session.scalars(query.order_by(RoundRow.number)))


def round_leaves(row: RoundRow) -> list[bytes]:
    """What a round states: whom it asked, and what became of the answers."""
    if not row.cohort:
        return []  # a foreign app that asked nobody, and only kept arrays
    sentences = refusals_as_packed(row.refused)
    cohort = CohortLeaf(
        run=row.run_id,
        round=row.number,
        asked=tuple(row.cohort),
        refused={name: reason for name, (reason, _) in row.refused.items()},
        sentences_sha256=sentences_digest(sentences),
    )
    aggregate = AggregateLeaf(
        run=row.run_id,
        round=row.number,
        inputs=row.accepted,
        began=row.began,
        output=row.aggregate_sha256 or None,
    )
    return [cohort.to_bytes(), aggregate.to_bytes()]


def refusals_as_packed(refused: dict[str, list[str]]) -> dict[str, str]:
    """The refusals as an audit pack words them."""
    return {name: f"{why}: {sentence}"[:_MAX_SENTENCE] for name, (why, sentence) in refused.items()}


def lost_rounds(session: Session, run: OpenRun) -> list[bytes]:
    """Whom an ended run asked without making an aggregate of the answers."""
    made = set(session.scalars(select(RoundRow.number).where(RoundRow.run_id == run.run_id)))
    query = select(
        TaskRow.round_number, TaskRow.phase, TaskRow.merchant, TaskRow.reason, TaskRow.sentence
    ).where(TaskRow.run_id == run.run_id)
    rounds: dict[tuple[int, str], dict[str, tuple[str, str]]] = {}
    for number, phase, merchant, reason, sentence in session.execute(query):
        if number not in made:
            rounds.setdefault((number, phase), {})[merchant] = (reason, sentence)
    return [_asked(run.run_id, where, answers) for where, answers in sorted(rounds.items())]


def _asked(run_id: str, where: tuple[int, str], answers: dict[str, tuple[str, str]]) -> bytes:
    number, phase = where
    refused = {name: [why, text] for name, (why, text) in answers.items() if why}
    return CohortLeaf(
        run=run_id,
        round=number,
        phase=phase,
        asked=tuple(sorted(answers)),
        refused={name: why for name, (why, _) in refused.items()},
        sentences_sha256=sentences_digest(refusals_as_packed(refused)),
    ).to_bytes()


def end_leaf(run: OpenRun) -> bytes:
    """The fact that a run has ended."""
    finished = run.finished
    return EndLeaf(
        run=run.run_id,
        state=run.state,
        finished=None if finished is None else instant(dt.datetime.fromtimestamp(finished, dt.UTC)),
        release=run.release_version,
    ).to_bytes()


def new_entries(session: Session) -> list[tuple[MerchantId, int, bytes]]:
    """Ledger entries that are not logged yet: merchant, position and leaf, in order."""
    return [
        (MerchantId(merchant), position, entry_leaf(merchant, position, _hash_of(line)))
        for merchant, position, line in session.execute(_new_entries())
    ]


def _new_entries() -> Select[str, int, str]:
    """By each merchant's cursor: a few steps in the key of the entries, however many there are."""
    cursor = LogCursorRow.name == literal("entry/") + MerchantRow.name
    following = (
        LedgerRow.merchant == MerchantRow.name,
        LedgerRow.position >= func.coalesce(LogCursorRow.next, 0),
    )
    return (
        select(LedgerRow.merchant, LedgerRow.position, LedgerRow.line)
        .select_from(MerchantRow)
        .outerjoin(LogCursorRow, cursor)
        .join(LedgerRow, following[0] & following[1])
        .order_by(LedgerRow.merchant, LedgerRow.position)
        .limit(ENTRIES_AT_ONCE)
    )


def _hash_of(line: str) -> str:
    return str(parse_json(line.encode(), "a held entry")["hash"])


def noted(session: Session) -> Iterator[tuple[int, bytes]]:
    """The facts that wait, oldest first, with the numbers of their notes."""
    query = select(LogNoteRow.note_id, LogNoteRow.body).order_by(LogNoteRow.note_id)
    for number, body in session.execute(query.limit(ENTRIES_AT_ONCE)):
        yield number, body.encode()
