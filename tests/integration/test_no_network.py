"""Nothing but the configured server is ever connected to, whatever a library would like to do.

Two watchers look at the same short federation. Python's audit hook sees what Python code does
(Flower's telemetry and update check, Hugging Face's hub, child processes), but neither gRPC's core
nor ONNX Runtime, which call the kernel themselves; so the process is watched from outside as well:
by ``strace`` where it is installed and permitted, otherwise by Linux' tables of sockets. Controls
show that each watcher sees what is not allowed.

ONNX Runtime reports to its maker only some ten seconds after its import, when the federation has
ended, but it makes a device id at once: an empty home folder shows that it was switched off.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.connections import Address, watches
from tests.integration.federation_harness import ROOT

pytestmark = pytest.mark.integration

NOWHERE = "127.0.0.2"
"""An address of this machine's that no part of Hansa has any business with."""


def environment(home: Path) -> Mapping[str, str]:
    """As a merchant's machine may be: a proxy is set, and nobody switched any telemetry off."""
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), f"http://{NOWHERE}:9")
    # ONNX Runtime keeps quiet by itself where it sees a CI machine; a merchant has none.
    ours = ("CI", "FLWR", "HF", "ORT", "TRANSFORMERS")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    plain = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**plain, **proxy, "HOME": str(home), "PYTHONPATH": path}


@dataclass(frozen=True)
class Watched:
    """What the watchers saw."""

    run: str
    server: Address
    by_python: list[list[str]]
    by_kernel: set[Address]
    home: list[Path]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder, home = tmp_path_factory.mktemp("watched"), tmp_path_factory.mktemp("home")
    watch = next(iter(watches().values()))
    command = [sys.executable, "-m", "tests.fakes.watched_federation", str(folder)]
    kernel = watch(command, environment(home), folder)
    report = json.loads((folder / "seen.json").read_text())
    host, _, port = report["server"].rpartition(":")
    server = (host, int(port))
    return Watched(report["run"], server, report["seen"], kernel, list(home.rglob("*")))


def test_python_connects_to_nothing_looks_nothing_up_and_starts_no_process(
    watched: Watched,
) -> None:
    assert watched.run == "completed"
    assert watched.by_python == []


def test_the_process_connects_to_the_configured_server_and_to_nothing_else(
    watched: Watched,
) -> None:
    assert watched.by_kernel == {watched.server}


def test_no_library_leaves_an_identity_in_the_home_folder(watched: Watched) -> None:
    """Flower's telemetry would keep one in ``~/.flwr``, ONNX Runtime's in ``~/.cache``."""
    assert watched.home == []


def test_onnx_runtime_would_leave_one_unless_it_is_switched_off(tmp_path: Path) -> None:
    """The control, and the reason why the commands switch it off."""
    python("import onnxruntime", tmp_path)
    assert [path.name for path in tmp_path.rglob("deviceid")] == ["deviceid"]


@pytest.mark.parametrize("name", watches())
def test_each_watcher_from_outside_sees_a_foreign_connection(name: str, tmp_path: Path) -> None:
    script = (
        "import socket, time\n"
        f"listener = socket.create_server(('{NOWHERE}', 0))\n"
        "line = socket.create_connection(listener.getsockname())\n"
        "print(listener.getsockname()[1], file=open('port', 'w'))\n"
        "time.sleep(0.2)\n"
    )
    command = [sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{script}"]
    seen = watches()[name](command, environment(tmp_path), tmp_path)
    assert (NOWHERE, int((tmp_path / "port").read_text())) in seen


def test_the_hook_sees_what_flowers_telemetry_would_do(tmp_path: Path) -> None:
    """The control of the hook, and the reason why the commands switch the telemetry off."""
    script = (
        "import json, sys\n"
        "from tests.fakes import watched_federation as watch\n"
        "sys.addaudithook(watch.note)\n"
        "from flwr.supercore.telemetry import EventType, event\n"
        "event(EventType.PING).result()\n"
        "print(json.dumps(watch.seen))\n"
    )
    seen = json.loads(python(script, tmp_path))
    assert [NOWHERE in " ".join(words) for words in seen if words[0] == "socket.connect"] == [True]


@pytest.mark.parametrize("name", ["client", "server"])
def test_a_command_switches_every_telemetry_off_before_anything_is_imported(
    name: str, tmp_path: Path
) -> None:
    """Flower and ONNX Runtime read their settings when they are imported, and never again."""
    script = (
        "import os, sys\n"
        f"from hansa.{name}.cli import app, main\n"
        "assert not {'flwr', 'onnxruntime', 'transformers'} & sys.modules.keys()\n"
        "@app.command()\n"
        "def look() -> None:\n"
        "    import onnxruntime\n"
        "    from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED\n"
        "    print(FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'])\n"
        "sys.argv[1:] = ['look']\n"
        "main()\n"
    )
    assert python(script, tmp_path).split() == ["0", "1"]
    assert list(tmp_path.iterdir()) == []


def python(script: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(home),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
