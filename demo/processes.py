"""Processes of the demo: started with a log each, waited for, and stopped whatever happens."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end.

        Raises:
            StepError: it failed, with what it said.
        """
        command = [str(_BIN / words[0]), *words[1:]]
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), check=False
        )
        if check and done.returncode != 0:
            raise StepError(
                f"'{' '.join(words)}' failed with exit code {done.returncode}: "
                f"{done.stderr.strip()}"
            )
        return done

    def json(self, *words: str) -> Any:
        """Runs a command with ``--json`` and returns what it printed."""
        return json.loads(self.run(*words, "--json").stdout)

    def start(self, name: str, *words: str, threads: int = 1) -> None:
        """Starts a command that goes on running; its output goes to a log of that name."""
        command = [str(_BIN / words[0]), *words[1:]]
        with (self._logs / f"{name}.log").open("wb") as log:
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
        """Ends all: asks first, kills those that do not listen."""
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
        self._running.clear()

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
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    return {**os.environ, **quiet, "TOKENIZERS_PARALLELISM": "false"}


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    peak = next((line for line in lines if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(peak.split()[1]) / 1024
