"""Merchants that have left, with their receipts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Creates the table, empty: nobody could leave before."""
    op.create_table(
        "departures",
        sa.Column("merchant", sa.String(63), nullable=False),
        sa.Column("certificate_sha256", sa.String(64), nullable=False),
        sa.Column("previous_sha256", sa.String(64)),
        sa.Column("remedy", sa.String(32), nullable=False),
        sa.Column("notice", sa.LargeBinary),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("receipt", sa.LargeBinary),
        sa.PrimaryKeyConstraint("merchant", "certificate_sha256", name="pk_departures"),
    )
