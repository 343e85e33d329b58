"""What ``doctor`` learns of a database without touching it."""

from pathlib import Path

import pytest
from sqlalchemy import text

from hansa.core.errors import InvalidInputError
from hansa.core.ids import MerchantId
from hansa.server.state.database import open_database
from hansa.server.state.inspection import Inspection, inspect_database
from hansa.server.state.journal import Journal
from hansa.server.state.members import Members


@pytest.fixture
def used(database):
    """One invitation, and one entry in the journal."""
    engine = open_database(database)
    Members(engine, lambda: 1000.0).invite(MerchantId("harbour"), serial="1", expires=2000.0)
    Journal(engine, lambda: 1234.5).note("invited", merchant="harbour")
    yield database
    engine.dispose()


def test_a_database_in_use_is_read_and_counted(used) -> None:
    seen = inspect_database(used)
    assert seen == Inspection(damage=None, merchants=1, runs=0, newest_event=1234.5)


def test_a_database_of_a_newer_version_is_told(used) -> None:
    engine = open_database(used)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    damage = inspect_database(used).damage
    assert damage is not None
    assert "version 9999" in damage


def test_an_empty_file_is_no_database_of_hansa(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    assert inspect_database(path).damage == "the database holds no tables of Hansa"


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database at all, but long enough to look at" * 100)
    with pytest.raises(InvalidInputError, match="cannot be read"):
        inspect_database(path)


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no database"):
        inspect_database(tmp_path / "hansa.db")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_answer_is_told_without_its_password() -> None:
    url = "postgresql://hansa:secret@127.0.0.1:1/hansa"
    with pytest.raises(InvalidInputError) as refused:
        inspect_database(url)
    assert "127.0.0.1:1" in str(refused.value)
    assert "secret" not in str(refused.value)
