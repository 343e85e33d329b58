"""Opening the database: SQLite for one machine, PostgreSQL by URL, one schema for both.

What differs between the two stands here alone. The rest of the server writes through ``writing``
and ``retried`` and says ``with_for_update`` where it changes what it has read.
"""

import fcntl
import functools
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, InvalidInputError
from hansa.server.state.tables import Table

_MIGRATIONS = Path(__file__).parent / "migrations"
_DRIVER = "postgresql+psycopg"
_POSTGRESQL = ("postgresql", _DRIVER)
_MIGRATION_LOCK = 0x48414E5341
"""Any number that nobody else takes in this database: it reads HANSA."""

_WRITES = "hansa_writes"
_UNDONE = frozenset({"40001", "40P01", "23505"})
"""PostgreSQL undid the transaction because of another: serialisation, deadlock, the same key."""

_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.01

# A database host that vanished is noticed within a minute, not after the system's two hours.
_CONNECTION = {
    "application_name": "hansa-server",
    "connect_timeout": "10",
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "50000",
}

_TURNS: WeakKeyDictionary[Engine, threading.Lock] = WeakKeyDictionary()
_TURNS_LOCK = threading.Lock()

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


def open_database(where: Path | str) -> Engine:
    """The database, created or migrated when needed.

    Args:
        where: the file of an SQLite database, or the URL of a PostgreSQL database. What the URL
            leaves out, the password above all, libpq takes from its environment, password file or
            service file.

    Raises:
        InvalidInputError: it cannot be opened, is no database, or was written by a newer version
            of Hansa. A password in the URL is not repeated.
    """
    engine = _sqlite(where) if isinstance(where, Path) else _postgresql(where)
    try:
        migrate(engine)
    except (SQLAlchemyError, CommandError) as error:
        engine.dispose()
        raise InvalidInputError(
            f"cannot open the database {shown(where)}: {_without_secret(error, engine.url)}"
        ) from error
    return engine


def check_url(url: str) -> URL:
    """The URL as SQLAlchemy's, with the driver that Hansa comes with.

    Raises:
        InvalidInputError: it names no PostgreSQL database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in _POSTGRESQL:
        # Neither the URL nor the parser's own words: both may hold the password.
        raise InvalidInputError(
            "the database URL must look like postgresql://USER@HOST:5432/DATABASE"
        ) from None
    return parsed.set(drivername=_DRIVER)


def shown(where: Path | str) -> str:
    """The database as it may be printed: without a password."""
    if isinstance(where, Path):
        return str(where)
    return check_url(where).render_as_string(hide_password=True)


def migrate(engine: Engine, revision: str = "head") -> None:
    """Brings the schema to a revision; of several servers that start at once, one does."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            lock = text("SELECT pg_advisory_xact_lock(:number)")
            connection.execute(lock, {"number": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session that commits at its end.

    On SQLite nobody else writes from its first read on. PostgreSQL locks only the rows that are
    read ``with_for_update`` or changed.
    """
    with _turn(engine), Session(engine) as session, session.begin():
        session.connection(execution_options={_WRITES: True})
        yield session


def _turn(engine: Engine) -> AbstractContextManager[object]:
    """One writer of this process after the other, on SQLite.

    SQLite itself lets whoever comes second sleep, and look again after ever longer naps: with many
    merchants, threads slept most of the time that they were needed.
    """
    if is_shared(engine):
        return nullcontext()
    with _TURNS_LOCK:
        return _TURNS.setdefault(engine, threading.Lock())


def retried(write: Callable[_Arguments, _Value]) -> Callable[_Arguments, _Value]:
    """Repeats a whole transaction that PostgreSQL undid for the sake of another.

    Such a transaction left no trace, so whatever the function read before it reads again. Anything
    else is raised at once: after a broken connection nobody knows what was committed.
    """

    @functools.wraps(write)
    def patient(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Value:
        for attempt in range(_ATTEMPTS - 1):
            try:
                return write(*args, **kwargs)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _UNDONE:
                    raise
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
        return write(*args, **kwargs)

    return patient


def insert_into(engine: Engine, row: type[Table]) -> postgresql.Insert | sqlite.Insert:
    """An ``INSERT`` that knows ``ON CONFLICT`` in the database's own dialect."""
    return postgresql.insert(row) if is_shared(engine) else sqlite.insert(row)


def is_shared(engine: Engine) -> bool:
    """Whether several server processes may work on this database."""
    return engine.dialect.name == "postgresql"


def server_name(engine: Engine) -> str:
    """A name for this server process, of at most 64 characters.

    Whoever holds an SQLite database holds it alone, so a server that starts again is the one that
    was killed, and need not wait for its own lease to end.
    """
    if not is_shared(engine):
        return "sole"
    return f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(8)}"


@contextmanager
def sole_server(engine: Engine) -> Iterator[None]:
    """Holds an SQLite database for this process; PostgreSQL is shared, and nothing is held.

    The system drops the lock when the process dies, however it dies.

    Raises:
        ConflictError: another server works on the same file.
    """
    if is_shared(engine):
        yield
        return
    path = Path(f"{engine.url.database}.lock")
    with path.open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                f"another server runs on {engine.url.database}; stop it first, or let several "
                "servers share a PostgreSQL database ('hansa-server init --database-url')"
            ) from error
        yield


def _sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    """Durable over power loss (FULL), readers beside one writer (WAL), foreign keys checked."""
    connection.isolation_level = None  # transactions begin in _begin, not where sqlite3 thinks
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    """A writer waits here for its turn: later, SQLite would refuse what has read old rows.

    A reader begins nothing: each of its statements sees what is committed then, as in PostgreSQL.
    """
    if connection.get_execution_options().get(_WRITES, False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: str) -> Engine:
    parsed = check_url(url)
    try:
        engine = create_engine(
            parsed.update_query_dict({**_CONNECTION, **parsed.query}),
            pool_size=10,
            max_overflow=20,
            pool_pre_ping=True,
        )
    except ImportError as error:
        raise InvalidInputError(
            "PostgreSQL needs the driver psycopg; install it with: pip install 'hansa[postgres]'"
        ) from error
    event.listen(engine, "handle_error", _refuse_data)
    return engine


def _refuse_data(context: ExceptionContext) -> None:
    """A text with a NUL, or longer than its column: whoever sent it is at fault, and told so."""
    if isinstance(context.sqlalchemy_exception, DataError):
        raise InvalidInputError(
            "a text is too long or holds a character that cannot be kept; mend it"
        )


def _without_secret(error: Exception, url: URL) -> str:
    """The error in the database's own words; a driver may quote what it was given."""
    words = str(getattr(error, "orig", None) or error).strip()
    return words.replace(str(url.password), "***") if url.password else words
