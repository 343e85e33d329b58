"""A look at the database that changes nothing: no migration, no repair, no lock that lasts."""

from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, func, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from hansa.core.errors import InvalidInputError
from hansa.server.state.database import check_url, shown
from hansa.server.state.tables import EventRow, MerchantRow, RunRow

_MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a look at the database shows."""

    damage: str | None
    """What is wrong with it; None when it is whole."""
    merchants: int = 0
    runs: int = 0
    newest_event: float | None = None
    """Time of the journal's newest entry, seconds since 1970-01-01 UTC."""


def inspect_database(where: Path | str) -> Inspection:
    """Looks at the file of an SQLite database, or at the URL of a PostgreSQL database.

    Raises:
        InvalidInputError: it is not there, or cannot be read at all.
    """
    if isinstance(where, Path) and not where.is_file():
        raise InvalidInputError(f"there is no database at {where}; restore it from a backup")
    engine = _engine(where)
    try:
        return _inspect(engine)
    except SQLAlchemyError as error:
        # Not the error's own text: with a URL it may hold the password.
        raise InvalidInputError(
            f"the database {shown(where)} cannot be read ({type(error).__name__}); see that it "
            "runs, or restore it from a backup"
        ) from error
    finally:
        engine.dispose()


def _engine(where: Path | str) -> Engine:
    if isinstance(where, Path):
        url = f"sqlite:///file:{where.absolute()}?mode=ro&uri=true"
        return create_engine(url, poolclass=NullPool)
    return create_engine(check_url(where), poolclass=NullPool)


def _inspect(engine: Engine) -> Inspection:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            answer = connection.execute(text("PRAGMA quick_check(1)")).scalar()
            if answer != "ok":
                return Inspection(damage=f"the database is damaged: {answer}")
        if not inspect(connection).has_table("alembic_version"):
            return Inspection(damage="the database holds no tables of Hansa")
        revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if revision not in _known_revisions():
            return Inspection(damage=f"a newer Hansa wrote the database (version {revision})")
        return Inspection(
            damage=None,
            merchants=connection.scalar(select(func.count(MerchantRow.node_id))) or 0,
            runs=connection.scalar(select(func.count(RunRow.run_id))) or 0,
            newest_event=connection.scalar(select(func.max(EventRow.time))),
        )


def _known_revisions() -> set[str]:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
