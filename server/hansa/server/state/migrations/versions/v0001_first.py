"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates every table of the first version."""
    _create_members()
    _create_runs()
    _create_tasks()
    _create_books()


def _create_members() -> None:
    op.create_table(
        "merchants",
        sa.Column("node_id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("invitation_serial", sa.String(64), nullable=False),
        sa.Column("invitation_expires", sa.Double, nullable=False),
        sa.Column("certificate_der", sa.LargeBinary),
        sa.Column("certificate_expires", sa.Double),
        sa.Column("previous_certificate_der", sa.LargeBinary),
        sa.Column("request_sha256", sa.String(64)),
        sa.Column("ledger_public_key", sa.LargeBinary),
        sa.Column("session", sa.Integer, nullable=False),
        sa.Column("last_seen", sa.Double, nullable=False),
        sa.Column("software", sa.String(64), nullable=False),
        sa.Column("serving_version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_merchants"),
        sa.UniqueConstraint("name", name="uq_merchants_name"),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(100), nullable=False),
        sa.Column("plan_name", sa.String(63), nullable=False),
        sa.Column("plan_digest", sa.String(64), nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("signed_plan", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("finished", sa.Double),
        sa.Column("context_sha256", sa.String(64)),
        sa.Column("stop_requested", sa.Boolean, nullable=False),
        sa.Column("release_version", sa.Integer, nullable=False),
        sa.Column("evaluation", sa.JSON),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    op.create_table(
        "rounds",
        sa.Column("run_id", sa.String(100), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("cohort", sa.JSON, nullable=False),
        sa.Column("accepted", sa.JSON, nullable=False),
        sa.Column("refused", sa.JSON, nullable=False),
        sa.Column("aggregate_sha256", sa.String(64), nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("down_bytes", sa.Integer, nullable=False),
        sa.Column("up_bytes", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_rounds"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_rounds_run_id_runs"),
    )


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.String(200), nullable=False),
        sa.Column("run_id", sa.String(100), nullable=False),
        sa.Column("round_number", sa.Integer, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("merchant", sa.String(63), nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.Column("content_bytes", sa.Integer, nullable=False),
        sa.Column("deadline", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("result_sha256", sa.String(64)),
        sa.Column("result_bytes", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_tasks"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_tasks_run_id_runs"),
    )
    op.create_index("ix_tasks_merchant", "tasks", ["merchant"])


def _create_books() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("merchant", sa.String(63), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("merchant", "position", name="pk_ledger_entries"),
    )
    op.create_table(
        "events",
        sa.Column("event_id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name="pk_events"),
    )
