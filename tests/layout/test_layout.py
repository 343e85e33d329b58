"""Rules about the repository itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("core", "client", "server", "audit", "compression", "protos")


@pytest.mark.parametrize("folder", FOLDERS)
def test_hansa_stays_a_namespace_and_each_folder_holds_one_package(folder) -> None:
    assert not (ROOT / folder / "__init__.py").exists()
    assert not (ROOT / folder / "hansa" / "__init__.py").exists()
    packages = [
        path
        for path in (ROOT / folder / "hansa").iterdir()
        if path.is_dir() and path.name != "__pycache__"
    ]
    assert [path.name for path in packages] == [folder]


def test_regenerating_the_protocol_changes_nothing(tmp_path) -> None:
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    subprocess.run([ROOT / "protos/generate.sh", tmp_path], check=True, env=environment)
    generated = sorted((tmp_path / "hansa/protos/v1").iterdir())
    assert len(generated) >= 18
    for path in generated:
        assert path.read_bytes() == (ROOT / "protos/hansa/protos/v1" / path.name).read_bytes(), (
            path.name
        )


def _fields(proto: str) -> list[str]:
    body = re.compile(r"^\s+(?!rpc|option|oneof|reserved)[\w.<>, ]+ \w+ = \d+;.*$", re.MULTILINE)
    return [match.group() for match in body.finditer(proto)]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "protos/hansa/protos/v1").glob("*.proto")), ids=lambda path: path.name
)
def test_every_field_of_the_protocol_is_explained(path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    assert _fields(text)
    for field in _fields(text):
        number = lines.index(field.strip("\n"))
        explained = "//" in field or lines[number - 1].strip().startswith("//")
        assert explained, f"{path.name}: {field.strip()}"


def test_no_private_name_of_flower_is_imported_outside_its_one_adapter() -> None:
    private = re.compile(
        r"^\s*(?:from|import) flwr\.(?!app\b|serverapp\b|clientapp\b|simulation\b)", re.MULTILINE
    )
    users = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if private.search(path.read_text())
    ]
    assert users == ["server/hansa/server/rounds/flower.py"]


def test_modules_stay_small() -> None:
    large = {
        str(path.relative_to(ROOT)): count
        for folder in (*FOLDERS, "demo", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if "_pb2" not in path.name and (count := path.read_text().count("\n")) > 400
    }
    assert large == {}


def test_pins_hold_no_index_address_and_no_path() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert not re.search(r"https?:|file:|/|\+cpu", path.read_text()), path.name
