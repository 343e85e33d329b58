"""A whole federation of real processes on the loopback: one server, clients in groups, real TLS.

with World(folder) as world:
    world.start_server()
    sites = [world.join(f"m-{number}") for number in range(2)]
    world.start_clients([[site] for site in sites])
    run = world.run(bench_plan("small", rounds=10, quorum=2))
"""

import contextlib
import datetime as dt
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.federation_parts.measure import cpu_seconds
from benchmarks.federation_parts.payload import PAYLOADS
from benchmarks.federation_parts.processes import Processes, free_port, wait_until
from hansa.client.enrol import Terms, join
from hansa.client.ledger_store import LedgerStore
from hansa.client.site import Site
from hansa.core.contract import Contract
from hansa.core.errors import HansaError
from hansa.core.invitation import Invitation
from hansa.core.plan import RunPlan
from hansa.server.initialise import initialise
from hansa.server.operator_client import OperatorClient, connect
from hansa.server.settings import ServerSettings, StateFolder

_START_S = 180.0
_RUN_S = 1_800.0
_LOOK_S = 0.5  # asking costs the server CPU time, and the walls come from the marks
_ENDED = ("completed", "failed", "stopped")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One call of a client's application; times of the monotonic clock in seconds."""

    site: str
    round: int
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Round:
    """One measured round."""

    wall_s: float
    """From the round's beginning to the next one's: nothing of the plane's work is left out."""
    application_s: float
    """The slowest client's own work, which stands for training."""

    @property
    def plane_s(self) -> float:
        """What is left of the round when the training is taken off."""
        return self.wall_s - self.application_s


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that was completed."""

    run_id: str
    rounds: list[Round]
    server_cpu_s: float
    """CPU seconds of the server from the run's launch to its end."""


class World:
    """The operator's state, the merchants' sites and the processes at work on them."""

    def __init__(self, folder: Path) -> None:
        """Makes an operator in ``folder``."""
        self.folder = folder
        self.state = StateFolder(folder / "server")
        self.processes = Processes(folder / "logs")
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.clients: list[subprocess.Popen[bytes]] = []
        self._marks = folder / "marks.jsonl"
        self._numbers = itertools.count()
        self._base = folder / "model"
        self._base.mkdir(parents=True)
        (self._base / "config.json").write_text("{}")
        settings = ServerSettings.checked(
            address=f"127.0.0.1:{self.port}",
            listen="127.0.0.1",
            base_models=dict.fromkeys(PAYLOADS, self._base),
        )
        initialise(self.state, settings, dt.datetime.now(dt.UTC))

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends every process; after a fault it shows the last words of each."""
        self.processes.__exit__(kind, error, trace)
        if error is not None:
            self.processes.show_last_words()

    def start_server(self) -> subprocess.Popen[bytes]:
        """The server, once it answers."""
        server = self.launch_server()
        wait_until("the server's answer", self.answers, _START_S)
        return server

    def launch_server(self) -> subprocess.Popen[bytes]:
        """The server's process, ready or not."""
        module = "benchmarks.federation_parts.server_process"
        self.server = self.processes.python("server", "-m", module, self.state.path)
        return self.server

    def answers(self) -> bool:
        """Whether the server answers its operator."""
        try:
            with self.operator() as client:
                client.merchants()
        except HansaError:
            return False
        return True

    @contextlib.contextmanager
    def operator(self) -> Iterator[OperatorClient]:
        """The operator's own client."""
        with connect(self.state) as client:
            yield client

    def join(self, name: str, *, through_port: int | None = None) -> Site:
        """A member's site; afterwards it reaches the server through another port, if given."""
        with self.operator() as client:
            invitation = Invitation.from_token(client.invite(name, 24).token)
        site = Site(self.folder / "sites" / name)
        terms = Terms(
            epsilon_cap=1e4,
            delta=1e-5,
            base_models=dict.fromkeys(PAYLOADS, self._base),
            serving_port=0,
            update_period_s=60.0,
        )
        now = dt.datetime.now(dt.UTC)
        settings = join(site, invitation, terms, now)
        with LedgerStore.open(site.ledger) as store:
            store.accept(Contract(noise=("distributed", "local")), now=dt.datetime.now(dt.UTC))
        if through_port is not None:
            where = {"server_address": f"127.0.0.1:{through_port}"}
            site.write(settings.model_copy(update=where))
        return site

    def launch_client(
        self, sites: Sequence[Site], *, train_s: float = 0.0
    ) -> subprocess.Popen[bytes]:
        """A process with the clients of these sites, ready or not."""
        module = "benchmarks.federation_parts.client_process"
        options = ("--marks", self._marks, "--train-s", train_s)
        paths = [site.path for site in sites]
        name = f"client-{sites[0].path.name}"
        client = self.processes.python(name, "-m", module, *options, *paths)
        self.clients.append(client)
        return client

    def stop_clients(self) -> None:
        """Ends the clients' processes, as a crash would, and waits until they count as offline."""
        for client in self.clients:
            self.processes.kill(client)
        self.clients = []
        wait_until("all merchants offline", lambda: not self.online(), _START_S)

    def start_clients(self, groups: Sequence[Sequence[Site]], *, train_s: float = 0.0) -> list[int]:
        """A process for each group of sites; they are online when this returns. Gives the pids."""
        pids = [self.launch_client(group, train_s=train_s).pid for group in groups]
        names = {site.path.name for group in groups for site in group}
        wait_until(f"{len(names)} merchants online", lambda: names <= self.online(), _START_S)
        return pids

    def online(self) -> set[str]:
        """The merchants that the server could ask now."""
        with self.operator() as client:
            return {row.merchant for row in client.merchants() if row.online}

    def queue(self, plan: RunPlan) -> str:
        """Launches a run; returns its name."""
        with self.operator() as client:
            return str(client.start_run(plan).run_id)

    def run(self, plan: RunPlan) -> FinishedRun:
        """A run from its launch to its end.

        Raises:
            RuntimeError: it was not completed.
            TimeoutError: it did not end.
        """
        first, used = len(self.marks()), self._server_cpu_s()
        run_id = self.queue(plan)
        self._wait_for_end(run_id)
        rounds = _rounds(self.marks()[first:])
        return FinishedRun(run_id=run_id, rounds=rounds, server_cpu_s=self._server_cpu_s() - used)

    def _wait_for_end(self, run_id: str) -> None:
        with self.operator() as client:
            until = time.monotonic() + _RUN_S
            while (run := client.run(run_id)).state not in _ENDED:
                if time.monotonic() > until:
                    raise TimeoutError(f"{run_id} did not end within {_RUN_S:g} s")
                time.sleep(_LOOK_S)
        if run.state != "completed":
            raise RuntimeError(f"{run_id} {run.state}: {run.sentence}")

    def _server_cpu_s(self) -> float:
        return cpu_seconds(self.server.pid) if self.server is not None else 0.0

    def marks(self) -> list[Mark]:
        """Every call of an application so far; a line that a killed client left torn is not one."""
        lines = self._marks.read_text().splitlines() if self._marks.exists() else []
        return [Mark(**json.loads(line)) for line in lines if line.endswith("}")]

    def fresh_name(self) -> str:
        """A merchant's name that nobody has."""
        return f"m-{next(self._numbers)}"


def _rounds(marks: Sequence[Mark]) -> list[Round]:
    """The rounds between the first call of each round; the last one has no successor to end it."""
    by_round: dict[int, list[Mark]] = {}
    for mark in marks:
        by_round.setdefault(mark.round, []).append(mark)
    begins = {number: min(mark.began for mark in group) for number, group in by_round.items()}
    return [
        Round(
            wall_s=begins[number + 1] - begins[number],
            application_s=max(mark.ended - mark.began for mark in by_round[number]),
        )
        for number in sorted(by_round)
        if number + 1 in by_round
    ]


def scratch() -> Path:
    """A folder on the disk for what the benchmarks write; ``TMPDIR`` chooses another disk."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / "hansa-benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
