"""For all tests: nothing reports to its maker while they run, and where a database comes from."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.core.quiet import stay_offline
from tests.fakes.postgres import Postgres, reason_for_absence, running_postgres

stay_offline(os.environ)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One real PostgreSQL for the session; each test takes a database of its own from it."""
    if (reason := reason_for_absence()) is not None:
        pytest.skip(reason)
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty PostgreSQL database with the newest schema."""
    with postgres.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where an empty database is; the test runs on either kind."""
    if request.param == "sqlite":
        return tmp_path / "hansa.db"
    return str(request.getfixturevalue("postgres_url"))
