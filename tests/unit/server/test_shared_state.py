"""``hansa-server init`` with PostgreSQL and a place for blobs, and what it tells nobody."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hansa.core.errors import ConflictError, HansaError, InvalidInputError, TransportError
from hansa.server.cli import app
from hansa.server.settings import StateFolder
from hansa.server.state.database import open_database
from hansa.server.state.members import Members

SECRET = "correct-horse"


@pytest.fixture
def url(postgres_url: str) -> str:
    """Where trust is the rule, a password is not looked at."""
    return postgres_url.replace("postgres@", f"postgres:{SECRET}@")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    """The command's outcome; a deliberate error is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=env or {})
    if isinstance(result.exception, HansaError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def init(state: Path, model: Path, *more: str, env: dict[str, str] | None = None) -> Result:
    arguments = ["--address", "127.0.0.1:8600", "--base-model", f"toy={model}", "--state", state]
    return run("init", *arguments, *more, env=env)


def test_the_databases_url_may_come_from_the_environment_and_is_printed_by_nothing(
    tmp_path, model, url
) -> None:
    """An argument would stand in the list of processes."""
    state, shared = tmp_path / "server", f"file://{tmp_path}/shared"
    said = init(state, model, "--blobs-url", shared, env={"HANSA_DATABASE_URL": url}).output
    said += run("clean", "--dry-run", "--json", "--state", state).output
    settings = StateFolder(state).settings()
    assert (settings.database_url, settings.blobs_url) == (url, shared)
    assert not (state / "hansa.db").exists()
    for text in (said, repr(settings)):
        assert SECRET not in text


def test_a_database_that_holds_a_federation_is_refused_before_anything_is_made(
    tmp_path, model, url
) -> None:
    engine = open_database(url)
    Members(engine, lambda: 1.0).invite("harbour", serial="1", expires=2.0)
    engine.dispose()
    with pytest.raises(ConflictError, match="holds a federation already") as caught:
        init(tmp_path / "server", model, "--database-url", url)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "server" / "authority").exists()


def test_a_database_that_does_not_answer_is_refused_before_anything_is_made(
    tmp_path, model
) -> None:
    url = f"postgresql://u:{SECRET}@/d?host={tmp_path}"
    with pytest.raises(InvalidInputError, match="cannot open the database") as caught:
        init(tmp_path / "server", model, "--database-url", url)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "server" / "authority").exists()


def test_a_place_for_blobs_that_cannot_be_written_is_refused_before_anything_is_made(
    tmp_path, model
) -> None:
    (tmp_path / "shared").write_bytes(b"")
    with pytest.raises(TransportError, match="cannot be used"):
        init(tmp_path / "server", model, "--blobs-url", f"file://{tmp_path}/shared")
    assert not (tmp_path / "server" / "authority").exists()


def test_clean_says_what_it_did_in_words_and_in_json(tmp_path, model) -> None:
    state = tmp_path / "server"
    init(state, model)
    words = run("clean", "--dry-run", "--state", state).output
    assert words == "0 blobs (0.0 MB) would be removed; 0 (0.0 MB) are kept\n"
    figures = json.loads(run("clean", "--json", "--state", state).output)
    assert figures == {"blobs": 0, "size_bytes": 0, "kept_blobs": 0, "kept_bytes": 0}


@pytest.mark.parametrize(
    ("address", "ports", "hosts"),
    [
        ("shop.example:443", 443, ("shop.example",)),
        ("ipv4:192.0.2.1:8600,192.0.2.2:8700", 8600, ("192.0.2.1", "192.0.2.2")),
        ("ipv6:[2001:db8::1]:8600", 8600, ("2001:db8::1",)),
    ],
)
def test_an_address_may_name_several_servers(tmp_path, model, address, ports, hosts) -> None:
    run("init", "--address", address, "--base-model", f"toy={model}", "--state", tmp_path / "s")
    settings = StateFolder(tmp_path / "s").settings()
    assert (settings.port, settings.hosts) == (ports, hosts)


@pytest.mark.parametrize(
    "address",
    [
        "shop.example",
        "a:1,b:2",
        "ipv4:shop.example:1",
        "ipv4:192.0.2.1:1,",
        "https://a:1",
        "a:123456",
    ],
)
def test_an_address_that_gRPC_would_not_understand_is_refused(tmp_path, model, address) -> None:
    with pytest.raises(InvalidInputError, match="address"):
        run("init", "--address", address, "--base-model", f"toy={model}", "--state", tmp_path / "s")
