"""A federation in which everything breaks all the time, and what must hold nevertheless.

Server and clients are processes of their own. In every round each of them is killed with
``kill -9`` with a probability of 30 %, at a random moment, and started again as a service manager
would; lines are cut after a random number of bytes, which mostly is in the middle of a transfer;
and once in a run the server's disk is full for some seconds, and once a client's.
"""

import contextlib
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.federation_parts.chaos_verdict import Verdict, judge
from benchmarks.federation_parts.full_disk import FillableDisk
from benchmarks.federation_parts.link import Link
from benchmarks.federation_parts.measure import note
from benchmarks.federation_parts.payload import PAYLOADS, bench_plan
from benchmarks.federation_parts.world import World
from hansa.client.site import Site
from hansa.core.errors import HansaError
from hansa.core.evidence import read_pack
from hansa.core.storage import BlobStore

PAYLOAD = "chaos"
_LOOK_S = 0.05
_ASK_EVERY_S = 0.5
_ENDED = ("completed", "failed", "stopped")
_SERVER = "server"
_START_UP_S = 15.0
"""A process that is younger may not have opened its files yet."""


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How bad it gets."""

    rounds: int
    clients: int
    seed: int
    kill_probability: float = 0.3
    """For each process, in each round."""
    cut_probability: float = 0.3
    """For each line, in each round."""
    within_s: float = 1.5
    """A kill comes at a random moment within this of its round's first training."""
    train_s: float = 0.2
    full_for_s: float = 3.0
    """So long a disk stays full."""
    deadline_s: float = 60.0
    """Of a round; nothing here takes so long, so whatever closes by it was wedged or lost."""


@dataclass
class Count:
    """What was done to the federation."""

    server_kills: int = 0
    client_kills: int = 0
    server_disk_full: int = 0
    client_disk_full: int = 0
    gave_up: list[str] = field(default_factory=list)
    """Processes that ended by themselves; a federation must not need a service manager for that."""
    not_started: int = 0
    """So often a process that was killed could not start, since its disk was full at that time."""


class Storm:
    """One run under chaos; ``seed`` decides what happens, the machine's speed what it meets."""

    def __init__(self, folder: Path, weather: Weather) -> None:
        self._weather = weather
        self._random = random.Random(weather.seed)
        self._folder = folder
        self._count = Count()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restart_at: dict[str, float] = {}
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._killed: set[int] = set()
        self._full: set[str] = set()
        self._begun: dict[str, float] = {}
        self._begun_on_full_disk: set[int] = set()

    def run(self) -> dict[str, object]:
        """The whole run; every process has ended and every disk is unmounted when it returns."""
        began = time.monotonic()
        server_disk = FillableDisk(self._folder / "world" / "server")
        client_disk = FillableDisk(self._folder / "world" / "sites" / "m-0")
        with contextlib.ExitStack() as stack:
            self._disks = [stack.enter_context(disk) for disk in (server_disk, client_disk)]
            self._world = stack.enter_context(World(self._folder / "world"))
            self._sites, self._links = self._members(stack)
            run_id, ended = self._storm()
            result = self._result(run_id, ended)
        return {**result, "seconds": round(time.monotonic() - began, 1)}

    def _members(self, stack: contextlib.ExitStack) -> tuple[list[Site], list[Link]]:
        self._processes[_SERVER] = self._world.start_server()
        links = [stack.enter_context(Link(self._world.port)) for _ in range(self._weather.clients)]
        sites = [self._world.join(self._world.fresh_name(), through_port=one.port) for one in links]
        self._world.start_clients([[site] for site in sites], train_s=self._weather.train_s)
        for site, process in zip(sites, self._world.clients, strict=True):
            self._processes[site.path.name] = process
        return sites, links

    def _storm(self) -> tuple[str, str]:
        """From the launch to the end; returns the run's name and how it ended."""
        limits = {
            "rounds": self._weather.rounds,
            "quorum": 1,
            "cohort": self._weather.clients,  # a round begins when all are there again
            "deadline_s": self._weather.deadline_s,
            "quarantine": {"faults": 1000},
        }
        run_id = self._world.queue(bench_plan(PAYLOAD, **limits))
        round_number, since, asked = 0, time.monotonic(), 0.0
        while True:
            time.sleep(_LOOK_S)
            now = time.monotonic()
            if (newest := self._newest_round()) > round_number:
                round_number, since = newest, now
                self._roll(round_number, now)
            self._do_what_is_due(now)
            self._restart_the_dead(now)
            if now - asked > _ASK_EVERY_S:
                asked = now
                if (state := self._state(run_id)) in _ENDED:
                    return run_id, state
            if now - since > 2 * self._weather.deadline_s:
                note(f"round {round_number} is wedged")
                return run_id, "wedged"

    def _newest_round(self) -> int:
        return max((mark.round for mark in self._world.marks()), default=0)

    def _state(self, run_id: str) -> str:
        """The run's state; nothing while the server is down."""
        try:
            with self._world.operator() as client:
                return str(client.run(run_id).state)
        except HansaError:
            return ""

    def _roll(self, round_number: int, now: float) -> None:
        """A new round: who will be killed, which lines break, and when."""
        note(f"round {round_number}")
        for name in list(self._processes):
            if self._random.random() < self._weather.kill_probability:
                self._at(now + self._random.uniform(0, self._weather.within_s), self._kill, name)
        for link in self._links:
            if self._random.random() < self._weather.cut_probability:
                link.cut_after(self._random.randrange(2 * PAYLOADS[PAYLOAD].size_bytes))
        third = max(1, self._weather.rounds // 3)
        if round_number == third:
            self._fill(now, 0, _SERVER)
        if round_number == 2 * third:
            self._fill(now, 1, "m-0")

    def _at(self, when: float, action: Callable[[str], None], name: str) -> None:
        self._due.append((when, lambda: action(name)))

    def _fill(self, now: float, disk: int, name: str) -> None:
        def fill(_: str) -> None:
            note(f"the disk of {name} is full ({self._disks[disk].method})")
            self._disks[disk].fill(self._processes[name].pid)
            self._full.add(name)
            if time.monotonic() - self._begun.get(name, 0.0) < _START_UP_S:
                self._begun_on_full_disk.add(self._processes[name].pid)

        def free(_: str) -> None:
            note(f"the disk of {name} has room again")
            self._disks[disk].free(self._processes[name].pid)
            self._full.discard(name)

        if name == _SERVER:
            self._count.server_disk_full += 1
        else:
            self._count.client_disk_full += 1
        self._at(now + self._random.uniform(0, 0.3), fill, name)
        self._at(now + self._weather.full_for_s, free, name)

    def _do_what_is_due(self, now: float) -> None:
        due = [item for item in self._due if item[0] <= now]
        self._due = [item for item in self._due if item[0] > now]
        for _, action in due:
            action()

    def _kill(self, name: str) -> None:
        process = self._processes[name]
        if process.poll() is not None:
            return  # it is dead already
        self._killed.add(process.pid)
        self._world.processes.kill(process)
        if name == _SERVER:
            self._count.server_kills += 1
        else:
            self._count.client_kills += 1

    def _restart_the_dead(self, now: float) -> None:
        for name, process in self._processes.items():
            if process.poll() is None:
                continue
            if name not in self._restart_at:
                self._restart_at[name] = now + self._random.uniform(0.1, 0.5)
                self._note_end(name, process)
            elif now >= self._restart_at[name]:
                del self._restart_at[name]
                self._processes[name] = self._start(name)
                self._begun[name] = now
                if name in self._full:
                    self._begun_on_full_disk.add(self._processes[name].pid)

    def _note_end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if process.pid in self._killed:
            return
        if process.pid in self._begun_on_full_disk:
            self._count.not_started += 1
            return
        note(f"{name} ended by itself with code {process.returncode}")
        last = self._world.processes.log(self._log(name)).rstrip().rpartition("\n")[2]
        self._count.gave_up.append(f"{name}: {last[:300]}")

    def _log(self, name: str) -> str:
        return name if name == _SERVER else f"client-{name}"

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        if name == _SERVER:
            return self._world.launch_server()
        site = next(one for one in self._sites if one.path.name == name)
        return self._world.launch_client([site], train_s=self._weather.train_s)

    def _result(self, run_id: str, ended: str) -> dict[str, object]:
        """Everything is made to work again, and then judged."""
        for link in self._links:
            link.cut_after(1 << 60)
        for when, action in self._due:
            time.sleep(max(0.0, when - time.monotonic()))
            action()
        self._due = []
        self._wait_for_the_server()
        verdict, done = self._verdict(run_id)
        for name in [_SERVER] if ended != "completed" else []:
            note(self._world.processes.log(name)[-4000:])
        return {
            "rounds": done,
            "kills": self._count.server_kills + self._count.client_kills,
            "wedged": int(ended != "completed"),
            "lost_updates": verdict.lost_updates,
            "wrong_charges": verdict.wrong_charges,
            "final_equal": verdict.final_equal and ended == "completed",
            "ended": ended,
            "accepted": verdict.accepted,
            "late": verdict.late,
            "interrupted": verdict.interrupted,
            "server_kills": self._count.server_kills,
            "client_kills": self._count.client_kills,
            "cuts": sum(link.cuts for link in self._links),
            "disk_full": self._count.server_disk_full + self._count.client_disk_full,
            "disk_full_by": self._disks[0].method,
            "gave_up": self._count.gave_up,
            "not_started_on_full_disk": self._count.not_started,
            "findings": verdict.findings,
            "clients": self._weather.clients,
            "seed": self._weather.seed,
            "kill_probability": self._weather.kill_probability,
        }

    def _wait_for_the_server(self) -> None:
        until = time.monotonic() + 60.0
        while not self._world.answers() and time.monotonic() < until:
            self._restart_the_dead(time.monotonic())
            time.sleep(_LOOK_S)

    def _verdict(self, run_id: str) -> tuple[Verdict, int]:
        with self._world.operator() as client:
            evidence = read_pack(client.pack(run_id))
        blobs = BlobStore(self._world.state.blobs)
        plan_key = self._sites[0].settings().plan_public_key
        verdict = judge(evidence, self._sites, blobs, PAYLOAD, plan_key)
        return verdict, len(evidence.run.rounds)
