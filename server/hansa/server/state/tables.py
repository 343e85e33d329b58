"""The tables. Times are seconds since 1970-01-01 UTC; JSON columns hold lists and objects."""

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """The base of all tables; names of constraints are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class MerchantRow(Table):
    """A member, or somebody who was invited."""

    __tablename__ = "merchants"

    node_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    state: Mapped[str] = mapped_column(String(16))  # invited, member, revoked, left
    invitation_serial: Mapped[str] = mapped_column(String(64))
    invitation_expires: Mapped[float]
    certificate_der: Mapped[bytes | None] = mapped_column(LargeBinary)
    certificate_expires: Mapped[float | None]
    previous_certificate_der: Mapped[bytes | None] = mapped_column(LargeBinary)  # until first use
    request_sha256: Mapped[str | None] = mapped_column(String(64))
    ledger_public_key: Mapped[bytes | None] = mapped_column(LargeBinary)
    session: Mapped[int] = mapped_column(default=0)
    last_seen: Mapped[float] = mapped_column(default=0.0)
    software: Mapped[str] = mapped_column(String(64), default="")
    serving_version: Mapped[int] = mapped_column(default=0)


class RunRow(Table):
    """One execution of a plan."""

    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(String(100), primary_key=True)
    plan_name: Mapped[str] = mapped_column(String(63))
    plan_digest: Mapped[str] = mapped_column(String(64))
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    signed_plan: Mapped[bytes] = mapped_column(LargeBinary)
    state: Mapped[str] = mapped_column(
        String(16)
    )  # queued, running, releasing, completed, failed, stopped
    sentence: Mapped[str] = mapped_column(Text, default="")
    started: Mapped[float]
    finished: Mapped[float | None]
    context_sha256: Mapped[str | None] = mapped_column(String(64))  # public records for every task
    stop_requested: Mapped[bool] = mapped_column(default=False)
    release_version: Mapped[int] = mapped_column(default=0)
    parent_version: Mapped[int] = mapped_column(default=0)  # the release it goes on from, if any
    owner: Mapped[str] = mapped_column(String(64), default="")  # the server process at work on it
    owned_until: Mapped[float] = mapped_column(default=0.0)  # then another may take it over
    evaluation: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class RoundRow(Table):
    """One aggregated round: its checkpoint and what it was made of."""

    __tablename__ = "rounds"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    cohort: Mapped[list[str]] = mapped_column(JSON)
    accepted: Mapped[dict[str, str]] = mapped_column(JSON)  # merchant -> SHA-256 of its update
    refused: Mapped[dict[str, list[str]]] = mapped_column(JSON)  # merchant -> [reason, sentence]
    began: Mapped[dict[str, int]] = mapped_column(JSON, default=dict)  # merchant -> model's round
    aggregate_sha256: Mapped[str] = mapped_column(String(64))
    strategy_sha256: Mapped[str | None] = mapped_column(String(64))  # the strategy's own state
    seconds: Mapped[float]
    down_bytes: Mapped[int] = mapped_column(BigInteger)
    up_bytes: Mapped[int] = mapped_column(BigInteger)


class TaskRow(Table):
    """One piece of work for one merchant, named by its idempotency key."""

    __tablename__ = "tasks"

    task_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.run_id"), index=True)
    round_number: Mapped[int]
    phase: Mapped[str] = mapped_column(String(16))  # train, evaluate
    merchant: Mapped[str] = mapped_column(String(63), index=True)
    content_sha256: Mapped[str] = mapped_column(String(64))
    content_bytes: Mapped[int] = mapped_column(BigInteger)
    settings: Mapped[bytes | None] = mapped_column(LargeBinary)  # records that content lacks
    deadline: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))  # open, done, refused, expired
    result_sha256: Mapped[str | None] = mapped_column(String(64))
    result_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    reason: Mapped[str] = mapped_column(String(32), default="")
    sentence: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)  # how often it was handed out
    session: Mapped[int] = mapped_column(default=0)  # to whom it was handed out last
    answered: Mapped[float | None]


class UploadRow(Table):
    """A blob that a merchant has delivered whole for a task."""

    __tablename__ = "uploads"

    merchant: Mapped[str] = mapped_column(String(63), primary_key=True)
    task_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)


class ScheduleRow(Table):
    """A plan that is run again and again."""

    __tablename__ = "schedules"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    cron: Mapped[str] = mapped_column(String(100))  # five fields, UTC
    drift: Mapped[float | None]  # absent: every time is a run; else a fall in recall@10 begins one
    next_due: Mapped[float]
    last_run: Mapped[str] = mapped_column(String(100), default="")
    watch_run: Mapped[str] = mapped_column(String(100), default="")  # asked how good the model is


class LedgerRow(Table):
    """One entry of a merchant's privacy ledger, as the merchant signed it."""

    __tablename__ = "ledger_entries"

    merchant: Mapped[str] = mapped_column(String(63), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[str] = mapped_column(Text)


class EventRow(Table):
    """The operator's journal: what happened, in order."""

    __tablename__ = "events"

    event_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[float]
    kind: Mapped[str] = mapped_column(String(32))
    body: Mapped[dict[str, Any]] = mapped_column(JSON)


class LogLeafRow(Table):
    """One fact of the transparency log, at its place for good."""

    __tablename__ = "log_leaves"

    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)  # so no fact is logged twice
    body: Mapped[str] = mapped_column(Text)  # canonical JSON


class LogNodeRow(Table):
    """The hash of a complete subtree of the log, of two leaves or more."""

    __tablename__ = "log_nodes"

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class LogHeadRow(Table):
    """Where the log ends: one row, which whoever appends holds locked."""

    __tablename__ = "log_head"

    head_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    frontier: Mapped[bytes] = mapped_column(LargeBinary)  # the complete subtrees' hashes, joined
    note: Mapped[bytes] = mapped_column(LargeBinary)  # the signed checkpoint of this size


class LogNoteRow(Table):
    """A fact that waits for its place in the log; written with what it states."""

    __tablename__ = "log_notes"

    note_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    body: Mapped[str] = mapped_column(Text)


class LogCursorRow(Table):
    """How far a merchant's ledger, or a run, is in the log."""

    __tablename__ = "log_cursors"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)  # entry/NAME, run/RUN
    next: Mapped[int] = mapped_column(BigInteger)
    done: Mapped[bool] = mapped_column(default=False)


class AuditorRow(Table):
    """Somebody who may read the log and the packs."""

    __tablename__ = "auditors"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    certificate_sha256: Mapped[str] = mapped_column(String(64))  # no other one of that name counts
    expires: Mapped[float]


class DepartureRow(Table):
    """A merchant has left; kept for good, with the receipt that it got."""

    __tablename__ = "departures"

    merchant: Mapped[str] = mapped_column(String(63), primary_key=True)
    certificate_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)  # its last one
    previous_sha256: Mapped[str | None] = mapped_column(String(64))  # which counted beside it
    remedy: Mapped[str] = mapped_column(String(32))
    notice: Mapped[bytes | None] = mapped_column(LargeBinary)  # as the merchant signed it
    time: Mapped[float]
    receipt: Mapped[bytes | None] = mapped_column(LargeBinary)  # absent until it could be made
