"""Child processes that certainly end with their parent's block, and the environment they need."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.federation_parts.measure import note
from hansa.core.quiet import stay_offline

ROOT = Path(__file__).parents[2]
_PACKAGES = ("", "core", "server", "client", "audit", "compression", "protos")
_GRACE_S = 10.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def environment() -> dict[str, str]:
    """The own environment, with the repository on the path and every report home forbidden."""
    own = dict(os.environ)
    stay_offline(own)
    own["PYTHONPATH"] = os.pathsep.join(str(ROOT / name) for name in _PACKAGES)
    # numpy and torch would start a thread a core in each of the many processes
    own.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    return own


def end_on_sigterm() -> None:
    """Lets SIGTERM end this process as an exception does, so that every block is left in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def die_with_parent() -> None:
    """For child programs: even a parent that is killed leaves nothing behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    """A port of the loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, ready: Callable[[], bool], timeout_s: float) -> None:
    """Waits for something to become true.

    Raises:
        TimeoutError: it did not within ``timeout_s``.
    """
    until = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > until:
            raise TimeoutError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.02)


class Processes:
    """Starts processes in a session of their own each, so that whatever they start ends too.

    with Processes(folder) as processes:
        server = processes.python("server", "-m", "http.server")
    """

    def __init__(self, logs: Path) -> None:
        """Writes what a process says to ``logs/NAME.log``."""
        self._logs = logs
        self._running: list[subprocess.Popen[bytes]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def python(self, name: str, *arguments: object) -> subprocess.Popen[bytes]:
        """A process of the same Python."""
        return self.start(name, [sys.executable, *map(str, arguments)])

    def start(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Any process; ``settings`` are added to its environment."""
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env={**environment(), **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As ``kill -9`` does, for the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_GRACE_S)
        if process in self._running:
            self._running.remove(process)

    def log(self, name: str) -> str:
        """What the processes of that name have said."""
        path = self._logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def show_last_words(self, size: int = 2_000) -> None:
        """Writes the end of every process's log to standard error."""
        for path in sorted(self._logs.iterdir()):
            note(f"{path.name}: {path.read_text(errors='replace')[-size:]}")

    def __enter__(self) -> Self:
        """Ready to start processes."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends them all, the newest first."""
        for process in reversed(list(self._running)):
            self.kill(process)
