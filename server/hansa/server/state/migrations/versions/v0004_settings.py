"""A task's small records beside its content, which then is the model as it was stored."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Tasks that are there have all their records in their content."""
    with op.batch_alter_table("tasks") as table:
        table.add_column(sa.Column("settings", sa.LargeBinary))
