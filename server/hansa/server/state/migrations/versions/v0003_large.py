"""Sizes beyond 2 GiB, and an index for a run's tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_SIZES = {
    "rounds": ("down_bytes", "up_bytes"),
    "tasks": ("content_bytes", "result_bytes"),
}


def upgrade() -> None:
    """PostgreSQL's integers have four bytes; those of SQLite grow by themselves."""
    for name, columns in _SIZES.items():
        with op.batch_alter_table(name) as table:
            for column in columns:
                table.alter_column(column, existing_type=sa.Integer, type_=sa.BigInteger)
    op.create_index("ix_tasks_run_id", "tasks", ["run_id"])
