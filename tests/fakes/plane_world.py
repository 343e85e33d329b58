"""The plane without its wire: a real database and blob store, loops and worker over them.

The test plays the merchants: ``world.join("harbour")``, ``world.answer("run/1/train/harbour")``.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from hansa.core.content import Content
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays
from hansa.server.rounds.buffered import BufferedLoop
from hansa.server.rounds.checkpoints import Checkpoints
from hansa.server.rounds.flower import adopt_identity
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.loop import RoundLoop, RunInterrupted, RunParts
from hansa.server.rounds.strategies import make_strategy
from hansa.server.state.database import open_database
from hansa.server.state.journal import Journal
from hansa.server.state.members import Joining, Members
from hansa.server.state.runs import Runs
from hansa.server.state.tasks import Outcome, Result, Tasks
from hansa.server.switchboard import Switchboard
from tests.fakes.toy_federation import FIRST_MODEL

RUN = RunId("run")
LONG_S = 30.0


class Clock:
    """The true time, and what the test adds to it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class PlaneWorld:
    """One queued run of a toy plan, and merchants that are online."""

    def __init__(self, folder: Path, plan: RunPlan, names: Iterable[str] = ("a", "b")) -> None:
        adopt_identity()
        self.plan = plan
        self.clock = Clock()
        self.engine = open_database(folder / "hansa.db")
        self.runs = Runs(self.engine, self.clock)
        self.tasks = Tasks(self.engine, self.clock)
        self.members = Members(self.engine, self.clock)
        self.journal = Journal(self.engine, self.clock)
        self.blobs = BlobStore(folder / "blobs")
        self.plane = Plane(
            members=self.members,
            tasks=self.tasks,
            blobs=self.blobs,
            switchboard=Switchboard(),
        )
        self.runs.queue(RUN, plan, b"signed")
        for name in names:
            self.join(name)

    def join(self, name: str) -> None:
        """A new member that is online."""
        self.members.invite(MerchantId(name), serial="1", expires=9e9)
        joining = Joining(
            request_sha256="r" * 64,
            certificate_der=b"c",
            certificate_expires=9e12,
            ledger_public_key=b"k" * 32,
        )
        self.members.join(name, joining)
        self.members.open_session(name, "test")

    def parts(self, stopped: Callable[[], bool] = lambda: False) -> RunParts:
        """As a server that has just been started makes them."""
        return RunParts(
            run_id=RUN,
            plan=self.plan,
            strategy=make_strategy(self.plan.federation),
            grid=self.grid(stopped),
            checkpoints=Checkpoints(RUN, self.runs, self.blobs),
            stopped=stopped,
            note=lambda _kind, _sentence: None,
        )

    def grid(self, stopped: Callable[[], bool] = lambda: False) -> GrpcGrid:
        return GrpcGrid(RUN, self.plane, stopped=stopped, federation=self.plan.federation)

    def run_loop(self, parts: RunParts | None = None) -> Arrays:
        """The plan's loop from here to the run's end."""
        parts = parts or self.parts()
        buffer = self.plan.federation.asynchronous
        if buffer is None:
            return RoundLoop(parts).run(FIRST_MODEL)
        assert isinstance(parts.grid, GrpcGrid)
        return BufferedLoop(parts, parts.grid, self.plane, buffer).run(FIRST_MODEL)

    def run_until(self, reached: Callable[[], bool]) -> None:
        """A server that goes down as soon as something is so."""
        stop = threading.Event()

        def watch() -> None:
            wait_for(reached)
            stop.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.run_loop(self.parts(stop.is_set))
        except RunInterrupted:
            return
        finally:
            watcher.join()
        raise AssertionError("the run ended before its server went down")

    def is_open(self, *task_ids: str) -> bool:
        """Whether these tasks wait for their merchants."""
        rows = self.tasks.states(list(task_ids))
        return [row.state for row in rows] == ["open"] * len(task_ids)

    def answer(self, task_id: str, step: float = 1.0, base: Arrays | None = None) -> Outcome:
        """The merchant's update: the base and a step in every number."""
        arrays = {
            name: (array + np.float32(step)).astype(array.dtype).reshape(array.shape)
            for name, array in (base or FIRST_MODEL).items()
        }
        metrics = {"metrics": {"num-examples": 1}}
        return self._complete(task_id, Content(arrays={"arrays": arrays}, metrics=metrics))

    def count(self, task_id: str, hits: float, shoppers: float) -> Outcome:
        """The merchant's noised counts."""
        metrics = {"metrics": {"recall-at-10-sum": hits, "shoppers": shoppers}}
        return self._complete(task_id, Content(metrics=metrics))

    def refuse(self, task_id: str, reason: str) -> Outcome:
        """The merchant gives no update."""
        return self._done(task_id, Result(reason=reason, sentence="it says"))

    def _complete(self, task_id: str, content: Content) -> Outcome:
        data = content.to_bytes()
        return self._done(task_id, Result(sha256=self.blobs.put(data), size_bytes=len(data)))

    def _done(self, task_id: str, result: Result) -> Outcome:
        outcome = self.tasks.complete(task_id, task_id.rpartition("/")[2], result)
        self.plane.switchboard.announce()
        return outcome


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.02)


def meanwhile(*steps: Callable[[], object]) -> threading.Thread:
    """Does these things one after the other while the test goes on."""

    def act() -> None:
        for step in steps:
            step()

    thread = threading.Thread(target=act)
    thread.start()
    return thread
