"""A real PostgreSQL for a test session, from the binaries of the Debian package.

with running_postgres() as postgres, postgres.database() as url:
    engine = open_database(url)

It listens on a Unix socket in a folder of its own, and does not wait for the disk.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from hansa.server.state.database import open_database

USER = "postgres"
_EMPTY_ALL_TABLES = """
DO $$ BEGIN
  SET LOCAL lock_timeout = '2s';
  EXECUTE (SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ')
           || ' RESTART IDENTITY CASCADE'
           FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version');
END $$
"""
_SCHEMA = """
SELECT (SELECT version_num FROM alembic_version), table_name, column_name, data_type
FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 2, 3
"""
_START_S = 60.0
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "deadlock_timeout": "100ms",
}


def binaries() -> Path | None:
    """The folder of the newest installed version."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: path.parts[-3]
    )
    on_path = shutil.which("postgres")
    if found:
        return found[-1].parent
    return None if on_path is None else Path(on_path).parent


def reason_for_absence() -> str | None:
    """Why no server can be started here; None: one can."""
    if binaries() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.getuid() == 0 and not _has_user():
        return f"PostgreSQL does not run as root, and there is no user {USER}"
    return None


class Postgres:
    """A running server; a database that a test has left is emptied for the next one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        self._empty: list[str] = []

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with the newest schema and nothing in it."""
        url = self._empty.pop() if self._empty else self._with_schema()
        schema = self._schema(url)
        yield url
        with contextlib.suppress(psycopg.Error):  # somebody is still connected: it is left alone
            self.run(_EMPTY_ALL_TABLES, url)
            if self._schema(url) == schema:
                self._empty.append(url)

    @staticmethod
    def _schema(url: str) -> list[Any]:
        """The migration and all columns: a test that changes them spoils the database."""
        with psycopg.connect(url) as connection:
            return connection.execute(_SCHEMA).fetchall()

    def _with_schema(self) -> str:
        url = self.bare_database()
        open_database(url).dispose()
        return url

    def bare_database(self) -> str:
        """The URL of a database of its own, without any table."""
        name = f"hansa_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def run(self, statement: str, url: str | None = None) -> None:
        """Runs a statement, in a database of the server or in the one of the URL."""
        with psycopg.connect(url or self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server that lives as long as the block."""
    programs = binaries()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="hansa-postgres-"))
    try:
        _give_away(folder)
        data = folder / "data"
        initdb = [programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run([*initdb, "--locale=C"], check=True, capture_output=True, **_as_user())
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", folder, *_settings()],
                stdout=log,
                stderr=log,
                **_as_user(),
            )
        try:
            postgres = Postgres(folder)
            _wait_for(postgres, process)
            yield postgres
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nobody needs the data any more
            process.wait(_START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settings() -> list[str]:
    return [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]


def _wait_for(postgres: Postgres, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            postgres.run("SELECT 1")
        except psycopg.OperationalError:
            assert process.poll() is None, (postgres.folder / "log").read_text()
            assert time.monotonic() < until, "PostgreSQL did not start in time"
            time.sleep(0.05)
        else:
            return


def _has_user() -> bool:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(USER) is not None
    return False


def _give_away(folder: Path) -> None:
    """PostgreSQL refuses root: where the tests are root, the server is somebody else."""
    folder.chmod(0o755)
    if os.getuid() == 0:
        shutil.chown(folder, USER, USER)


def _as_user() -> dict[str, Any]:
    return {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}
