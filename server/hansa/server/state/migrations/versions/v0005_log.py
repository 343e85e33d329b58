"""The transparency log, and who may read it beside the merchants."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Creates the log's tables, empty: the server fills them with the history when it starts."""
    _create_tree()
    _create_intake()
    _create_auditors()


def _create_tree() -> None:
    op.create_table(
        "log_leaves",
        sa.Column("index", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("index", name="pk_log_leaves"),
        sa.UniqueConstraint("hash", name="uq_log_leaves_hash"),
    )
    op.create_table(
        "log_nodes",
        sa.Column("level", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("index", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "index", name="pk_log_nodes"),
    )
    op.create_table(
        "log_head",
        sa.Column("head_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("frontier", sa.LargeBinary, nullable=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("head_id", name="pk_log_head"),
    )


def _create_intake() -> None:
    op.create_table(
        "log_notes",
        sa.Column("note_id", sa.Integer, nullable=False, autoincrement=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("note_id", name="pk_log_notes"),
    )
    op.create_table(
        "log_cursors",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_log_cursors"),
    )


def _create_auditors() -> None:
    op.create_table(
        "auditors",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("certificate_sha256", sa.String(64), nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_auditors"),
    )
