import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hansa.core.signing import key_id_of
from tests.fakes.audit_world import PLAN_KEY, AuditWorld, members_of, zip_of

Audit = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:click", "ignore::DeprecationWarning:typer"
)

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "opacus", "flwr", "grpc", "transformers"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from hansa.audit.cli import main
main()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> AuditWorld:
    return AuditWorld(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def pack(world: AuditWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "pack.zip"
    path.write_bytes(world.pack())
    return path


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Audit:
    """The command in this process."""
    from typer.testing import CliRunner

    from hansa.audit.cli import app

    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(one) for one in arguments])


def test_an_honest_pack_verifies_without_torch_opacus_flwr_and_grpc(
    world: AuditWorld, pack: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(world.releases.root)
    trust = ["--root", str(root), "--plan-key", key_id_of(PLAN_KEY)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "verify", str(pack), *trust, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert report["root_pinned"] is True
    assert {one["merchant"] for one in report["spends"]} == {"harbour", "market"}


def test_a_person_reads_a_table_and_is_told_that_the_root_is_not_pinned(
    audit: Audit, pack: Path
) -> None:
    done = audit("verify", pack)
    assert done.exit_code == 0, done.output
    assert "All checks passed" in done.stdout
    assert "ledgers/harbour.jsonl" in done.stdout
    assert "pass --root" in done.stdout


def test_a_pack_that_fails_a_check_exits_with_13(
    audit: Audit, world: AuditWorld, tmp_path: Path
) -> None:
    path = tmp_path / "pack.zip"
    run = world.run.model_copy(update={"plan_digest": "0" * 64})
    path.write_bytes(world.pack(run=run))
    done = audit("verify", path, "--json")
    assert done.exit_code == 13
    assert json.loads(done.stdout)["passed"] is False


def test_a_changed_pack_exits_with_13_and_names_the_member(
    audit: Audit, pack: Path, tmp_path: Path
) -> None:
    members = members_of(pack.read_bytes())
    members["run.json"] = members["run.json"].replace(b"2026", b"2025")
    path = tmp_path / "pack.zip"
    path.write_bytes(zip_of(list(members.items())))
    done = audit("verify", path)
    assert done.exit_code == 13
    assert "run.json" in done.stderr


def test_bad_input_exits_with_2_and_one_sentence(audit: Audit, tmp_path: Path) -> None:
    done = audit("verify", tmp_path / "absent.zip")
    assert done.exit_code == 2
    assert done.stderr.startswith("InvalidInputError: cannot read")
    assert "Traceback" not in done.stderr


def test_epsilon_recomputes_with_three_accountants(audit: Audit, pack: Path) -> None:
    done = audit("epsilon", pack, "--json")
    assert done.exit_code == 0, done.output
    first = json.loads(done.stdout)["merchants"][0]
    assert first["epsilon_pld"] < first["epsilon_prv"] < first["epsilon_rdp"]


def test_show_tells_what_is_in_the_pack(audit: Audit, pack: Path) -> None:
    done = audit("show", pack)
    assert done.exit_code == 0, done.output
    assert "Run run-1" in done.stdout
    assert "harbour" in done.stdout


def test_help_and_version_are_there(audit: Audit) -> None:
    assert "verify" in audit("--help").stdout
    assert audit("--version").stdout.startswith("hansa-audit ")
