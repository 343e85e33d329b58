"""The peer of the engine: Flower's own SuperLink and SuperNodes, with the same model and work.

The engine runs as its maker ships it, one process for the link and one for each node (which start
further ones for each message), over plain HTTP on the loopback with its state in memory: faster
than with TLS and a database, so the comparison favours it. Telemetry, the search for updates and
the installation of dependencies are off. The app is a folder that only names an installed module.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.federation_parts.measure import cpu_seconds
from benchmarks.federation_parts.processes import Processes, environment, free_port, wait_until

_PROJECT = """\
[project]
name = "hansa-peer"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "benchmarks.federation_parts.peers.flower_app:server_app"
clientapp = "benchmarks.federation_parts.peers.flower_app:client_app"
[tool.flwr.app.config]
rounds = {rounds}
nodes = {nodes}
arrays = {arrays}
values = {values}
marks = "{marks}"
"""
_CONFIG = """\
[superlink]
default = "bench"
[superlink.bench]
address = "127.0.0.1:{port}"
insecure = true
"""
_START_S = 120.0
_RUN_S = 900.0


@dataclass(frozen=True, kw_only=True)
class EngineRound:
    """One round of Flower's engine."""

    wall_s: float
    """From the strategy's configuration of the round to its aggregate."""


@dataclass(frozen=True, kw_only=True)
class EngineRun:
    """One run."""

    rounds: list[EngineRound]
    link_cpu_s: float
    """CPU seconds of the SuperLink's process over the whole run."""


class FlowerEngine:
    """A SuperLink and its SuperNodes on the loopback.

    with FlowerEngine(folder, nodes=2) as engine:
        engine.run(rounds=3, arrays=100, values=2_500)
    """

    def __init__(self, folder: Path, *, nodes: int) -> None:
        """Everything that Flower writes lies in ``folder``."""
        self._folder = folder
        self._nodes = nodes
        self._port = free_port()
        self._processes = Processes(folder / "logs")
        self._home = folder / "home"
        self._home.mkdir(parents=True)
        (self._home / "config.toml").write_text(_CONFIG.format(port=self._port))
        self._settings = {
            "FLWR_HOME": str(self._home),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        }

    def __enter__(self) -> Self:
        """All nodes are online."""
        where = ("--host", "127.0.0.1", "--port")
        self._link = self._start(
            "superlink",
            ["flower-superlink", "--insecure", *where, str(self._port)],
            "--disable-runtime-dependency-installation",
        )
        wait_until("the SuperLink's answer", lambda: self._online() is not None, _START_S)
        for number in range(self._nodes):
            self._start(
                f"supernode-{number}",
                ["flower-supernode", "--insecure", *where, str(free_port())],
                "--superlink",
                f"127.0.0.1:{self._port}",
            )
        wait_until("the SuperNodes", lambda: self._online() == self._nodes, _START_S)
        return self

    def _start(self, name: str, command: list[str], *more: str) -> subprocess.Popen[bytes]:
        program = str(Path(sys.executable).parent / command[0])
        return self._processes.start(name, [program, *command[1:], *more], self._settings)

    def _flwr(self, *arguments: str) -> dict[str, Any] | None:
        command = [str(Path(sys.executable).parent / "flwr"), *arguments, "--format", "json"]
        own = {**environment(), **self._settings}
        done = subprocess.run(command, env=own, cwd=self._folder, capture_output=True, check=False)
        try:
            return dict(json.loads(done.stdout))
        except ValueError:
            return None

    def _online(self) -> int | None:
        answer = self._flwr("supernode", "list", "bench")
        if answer is None or not answer.get("success"):
            return None
        return len([node for node in answer.get("nodes", []) if node.get("status") == "online"])

    def run(self, *, rounds: int, arrays: int, values: int) -> EngineRun:
        """A run of ``rounds`` over ``arrays`` float32 arrays of ``values`` values each.

        Raises:
            RuntimeError: Flower refused the run, or a round lacked a reply.
            TimeoutError: the run did not end.
        """
        app, marks = self._folder / "hansa-peer", self._folder / "marks.jsonl"
        shutil.rmtree(app, ignore_errors=True)
        app.mkdir()
        marks.unlink(missing_ok=True)
        numbers = {"rounds": rounds, "nodes": self._nodes, "arrays": arrays, "values": values}
        (app / "pyproject.toml").write_text(_PROJECT.format(marks=marks, **numbers))
        used = cpu_seconds(self._link.pid)
        answer = self._flwr("run", str(app), "bench")
        if answer is None or not answer.get("success"):
            raise RuntimeError(f"flwr run: {answer}\n{self._processes.log('superlink')[-2000:]}")
        wait_until("the end of Flower's run", lambda: len(_marks(marks)) == rounds, _RUN_S)
        if any(mark["valid"] != self._nodes for mark in _marks(marks)):
            raise RuntimeError(f"Flower's engine lost replies: {_marks(marks)}")
        return EngineRun(
            rounds=[EngineRound(wall_s=mark["wall_s"]) for mark in _marks(marks)],
            link_cpu_s=cpu_seconds(self._link.pid) - used,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends every process that Flower started."""
        self._processes.__exit__(kind, error, trace)


def _marks(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
