"""Trains a round on several devices of one merchant: a process for each, under ``torchrun``.

The task and the result are files in a folder of their own, which only this user may read. No port
is opened to the network: the processes meet in a file and talk over the loopback. They end when the
work is done, when one of them fails, when the work is not wanted any more, and when this process
ends, however it ends.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hansa.client.interruption import WorkInterruptedError, is_unwanted
from hansa.client.site import Site
from hansa.client.training.rank import LAUNCHER, RESULT, TASK, TRAINED
from hansa.client.training.round_task import RoundTask
from hansa.core.content import Content
from hansa.core.errors import HansaError
from hansa.core.quiet import stay_offline
from hansa.core.storage import write_atomically
from hansa.core.update import Arrays

_log = logging.getLogger(__name__)

WORKER: Final = "hansa.client.training.worker"

_PREFIX: Final = "training-"
_LOG: Final = "log.txt"
_LOOK_S: Final = 0.1
_GRACE_S: Final = 1
"""Seconds between asking the processes to end and ending them."""
_LOG_CHARACTERS: Final = 4000


class DevicesFailedError(HansaError):
    """The processes that trained on several devices did not come to a result."""


@dataclass(frozen=True, kw_only=True)
class DeviceTraining:
    """A site's training on as many devices as the plan asks for."""

    site: Site
    threads: int = 1
    """CPU threads of all processes together."""
    worker: str = WORKER
    """The module that each process runs."""

    @classmethod
    def at(cls, site: Site) -> "DeviceTraining":
        """The training of a site that has joined, within its own settings."""
        return cls(site=site, threads=site.settings().threads)

    def train(self, task: RoundTask) -> Arrays:
        """The round's trained arrays after this merchant's noised steps.

        Raises:
            DevicesFailedError: a process failed or died; the sentence names it, the log says more.
            WorkInterruptedError: the work is not wanted any more.
        """
        with self._folder() as folder:
            write_atomically(folder / TASK, task.to_bytes(), mode=0o600)
            code = self._run(folder, task.plan.training.devices)
            result = folder / RESULT
            if code != 0 or not result.exists():
                raise DevicesFailedError(_reason(folder, task.plan.training.devices, code))
            return Content.from_bytes(result.read_bytes()).arrays[TRAINED]

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """A folder of this training, held as long as this process lives; old ones are removed."""
        self.site.cache.mkdir(parents=True, exist_ok=True)
        for left in self.site.cache.glob(f"{_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.site.cache))
        try:
            with (folder / LAUNCHER).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, folder: Path, devices: int) -> int:
        """Runs the processes to their end; returns the exit code of ``torchrun``."""
        with (folder / _LOG).open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                self._command(folder, devices),
                env=self._environment(devices),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                return _wait(process)
            finally:
                _end(process)

    def _command(self, folder: Path, devices: int) -> list[str]:
        """One node whose processes meet in a file; ``--standalone`` would open a port for it."""
        options = {
            "nnodes": 1,
            "nproc-per-node": devices,
            "max-restarts": 0,
            "monitor-interval": _LOOK_S,
            "shutdown-timeout": _GRACE_S,
            "rdzv-backend": "c10d",
            "rdzv-endpoint": folder / "rendezvous",
            "rdzv-conf": "store_type=file",
            "rdzv-id": "training",
            "local-addr": "127.0.0.1",
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        launch = [sys.executable, "-m", "torch.distributed.run", *flags, "-m", self.worker]
        return [*launch, str(self.site.path.resolve()), str(folder.resolve())]

    def _environment(self, devices: int) -> Mapping[str, str]:
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(max(1, self.threads // devices)),
            "GLOO_SOCKET_IFNAME": loopback,
            "NCCL_SOCKET_IFNAME": loopback,
            # Otherwise torchrun listens for its workers on every interface.
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        stay_offline(environment)
        return environment


def _wait(process: "subprocess.Popen[bytes]") -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_S)
        if is_unwanted():
            _end(process)
            raise WorkInterruptedError("the work is not wanted any more")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the launcher to end its processes, then ends whatever is left of it.

    A rank that outlives its launcher sees the folder's lock fall, and ends too.
    """
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(2 * _GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(folder: Path, devices: int, code: int) -> str:
    """Which process failed first and why; the whole story goes to the site's own log."""
    log = (folder / _LOG).read_text(encoding="utf-8", errors="replace")
    _log.error("training on %s devices failed:\n%s", devices, log[-_LOG_CHARACTERS:])
    faults = sorted(folder.glob("fault-*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not faults:
        return f"training on {devices} devices ended with code {code}; see the log for the reason"
    first: dict[str, Any] = json.loads(faults[0].read_bytes())
    return (
        f"training on {devices} devices failed: rank {first['rank']}: {first['kind']}: "
        f"{first['sentence']}"
    )
