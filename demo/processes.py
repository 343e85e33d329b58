"""Processes of the demo: started with a log each, waited for, and stopped whatever happens."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hansa.core.quiet import stay_offline

_STOP_S = 8.0
_BIN = Path(sys.executable).parent


class StepError(Exception):
    """A step of the demo failed; the sentence names it and where to look."""


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Processes:
    """Starts Hansa's commands; as a context manager it stops every one that still runs."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: set[subprocess.Popen[str]] = set()
        self._stopping = False
        self._lock = threading.Lock()
        # Ctrl-C raises in the main thread only: a start in another is never torn from its record.
        self._starter = ThreadPoolExecutor(1)
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; callable from several threads.

        Raises:
            StepError: it failed, with what it said, or the demo is being stopped.
        """
        command = [str(_BIN / words[0]), *words[1:]]
        child = self._starter.submit(self._begin, command).result()
        out, err = child.communicate()
        self._commands.discard(child)  # after a Ctrl-C it stays listed, and stop() kills it
        if check and child.returncode != 0:
            code = child.returncode
            raise StepError(f"'{' '.join(words)}' failed with exit code {code}: {err.strip()}")
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    def _begin(self, command: list[str]) -> subprocess.Popen[str]:
        with self._lock:
            self._refuse_when_stopping()
            pipe = subprocess.PIPE
            child = subprocess.Popen(
                command, stdout=pipe, stderr=pipe, text=True, env=_environment()
            )
            self._commands.add(child)
            return child

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise StepError("the demo is being stopped")

    def json(self, *words: str) -> Any:
        """Runs a command with ``--json`` and returns what it printed."""
        return json.loads(self.run(*words, "--json").stdout)

    def start(self, name: str, *words: str, threads: int = 1) -> None:
        """Starts a command that goes on running; its output goes to a log of that name."""
        self._starter.submit(self._start, name, *words, threads=threads).result()

    def _start(self, name: str, *words: str, threads: int) -> None:
        command = [str(_BIN / words[0]), *words[1:]]
        with self._lock, (self._logs / f"{name}.log").open("wb") as log:
            self._refuse_when_stopping()
            self._running[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**_environment(), "OMP_NUM_THREADS": str(threads)},
                start_new_session=True,
            )

    def wait_until(self, what: str, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Waits for a condition while every started process lives.

        Raises:
            StepError: the time is over, or a process ended.
        """
        until = time.monotonic() + timeout_s
        while not ready():
            self._check_alive()
            if time.monotonic() > until:
                raise StepError(f"{what} did not happen within {timeout_s:.0f} s; see {self._logs}")
            time.sleep(0.3)

    def peak_memory_mb(self) -> Mapping[str, float]:
        """The largest resident memory of each running process so far, in MB (Linux)."""
        return {name: _peak_mb(process.pid) for name, process in self._running.items()}

    def stop(self) -> None:
        """Ends all and starts nothing more: asks first, kills those that do not listen."""
        with self._lock:
            self._stopping = True
            for command in list(self._commands):
                command.kill()
                command.wait()
            for process in self._running.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _STOP_S
        for process in self._running.values():
            try:
                process.wait(timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _check_alive(self) -> None:
        for name, process in self._running.items():
            if process.poll() is not None:
                last = (
                    (self._logs / f"{name}.log")
                    .read_text(errors="replace")
                    .strip()
                    .splitlines()[-3:]
                )
                raise StepError(
                    f"{name} ended with exit code {process.returncode}: {' / '.join(last)}"
                )

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _environment() -> dict[str, str]:
    """One thread each, as five processes share the cores; nothing may call a hub or telemetry."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stay_offline(environment)
    return environment


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    peak = next((line for line in lines if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(peak.split()[1]) / 1024
