"""Opening the database: SQLite in WAL mode, brought to the newest schema by Alembic."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from hansa.core.errors import InvalidInputError

_MIGRATIONS = Path(__file__).parent / "migrations"


def open_database(path: Path) -> Engine:
    """The database at ``path``, created or migrated when needed.

    Raises:
        InvalidInputError: the file is not a database, or was written by a newer version of Hansa.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    event.listen(engine, "connect", _configure)
    try:
        migrate(engine)
    except (SQLAlchemyError, CommandError) as error:
        raise InvalidInputError(f"cannot open the database {path}: {error}") from error
    return engine


def migrate(engine: Engine, revision: str = "head") -> None:
    """Brings the schema to a revision."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def _configure(connection: Any, _record: Any) -> None:
    """Durable over power loss (FULL), readers beside one writer (WAL), foreign keys checked."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
