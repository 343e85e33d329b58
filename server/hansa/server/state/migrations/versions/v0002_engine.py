"""What the federation engine keeps beyond the first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds columns with a default for the rows that are there, and two tables."""
    _widen_runs()
    _widen_tasks()
    _create_uploads()
    _create_schedules()


def _widen_runs() -> None:
    with op.batch_alter_table("runs") as table:
        table.add_column(_counted("parent_version"))
        table.add_column(sa.Column("owner", sa.String(64), nullable=False, server_default=""))
        table.add_column(sa.Column("owned_until", sa.Double, nullable=False, server_default="0"))
    with op.batch_alter_table("rounds") as table:
        table.add_column(sa.Column("began", sa.JSON, nullable=False, server_default="{}"))
        table.add_column(sa.Column("strategy_sha256", sa.String(64)))


def _widen_tasks() -> None:
    with op.batch_alter_table("tasks") as table:
        table.add_column(_counted("attempts"))
        table.add_column(_counted("session"))
        table.add_column(sa.Column("answered", sa.Double))


def _counted(name: str) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("merchant", sa.String(63), nullable=False),
        sa.Column("task_id", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("merchant", "task_id", "sha256", name="pk_uploads"),
    )


def _create_schedules() -> None:
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("cron", sa.String(100), nullable=False),
        sa.Column("drift", sa.Double),
        sa.Column("next_due", sa.Double, nullable=False),
        sa.Column("last_run", sa.String(100), nullable=False),
        sa.Column("watch_run", sa.String(100), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_schedules"),
    )
