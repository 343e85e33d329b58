"""What the worker does when a server, a stop or what lies under it ends a run in the middle."""

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.exc import OperationalError

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, TransportError
from hansa.core.ids import ReleaseVersion, RunId
from hansa.core.plan import RunPlan
from hansa.core.storage import BlobStore
from hansa.server.rounds.grid import Plane
from hansa.server.rounds.worker import Published, RunWorker
from hansa.server.state.database import open_database
from hansa.server.state.journal import Journal
from hansa.server.state.members import Members
from hansa.server.state.runs import UNFINISHED, Runs
from hansa.server.state.tasks import Tasks
from hansa.server.switchboard import Switchboard
from tests.fakes.plane_world import RUN, PlaneWorld, wait_for
from tests.fakes.toy_federation import CONTEXT, FIRST_MODEL, toy_plan

LONG_S = 30.0
PLAN = toy_plan()
FAR = "this far, and nobody was asked yet"


class Releaser:
    """Stands on a disk, a database and a blob store that fail as often as the test says."""

    def __init__(self, faults: list[Exception]) -> None:
        self.faults = faults

    def newest(self) -> int:
        return 0

    def initial(self, plan: RunPlan, parent: int):
        raise InvalidInputError(FAR)

    def context(self, plan: RunPlan, inherited: Content | None) -> Content:
        if self.faults:
            raise self.faults.pop()
        return CONTEXT

    def release(self, *_arguments: object):
        raise AssertionError("the plan releases nothing")

    def made_by(self, run_id: str) -> None:
        return None


Start = Callable[[list[Exception]], Runs]


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Starts a worker over such a releaser; gives its runs, in which one is queued."""
    engine = open_database(tmp_path / "hansa.db")
    workers: list[RunWorker] = []

    def start(faults: list[Exception]) -> Runs:
        runs = Runs(engine, time.time)
        runs.queue(RunId("run"), PLAN, b"signed")
        plane = Plane(
            members=Members(engine, time.time),
            tasks=Tasks(engine),
            blobs=BlobStore(tmp_path / "blobs"),
            switchboard=Switchboard(),
        )
        workers.append(
            RunWorker(
                plane=plane,
                runs=runs,
                journal=Journal(engine, time.time),
                releaser=Releaser(faults),
                ledgers=lambda _merchant: (),
                trust=None,
            )
        )
        workers[0].start()
        return runs

    yield start
    for worker in workers:
        worker.stop()
    engine.dispose()


def ended(runs: Runs) -> str:
    """The state in which the run has ended."""
    until = time.monotonic() + LONG_S
    while (row := runs.get("run")).state in UNFINISHED:
        assert time.monotonic() < until, "the run never came to an end"
        time.sleep(0.05)
    return f"{row.state}: {row.sentence}"


@pytest.mark.parametrize(
    "outage",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")),
        TransportError("the blobs in s3://bucket cannot be used: connection refused"),
    ],
    ids=["disk full", "database full or away", "blob store away"],
)
def test_a_run_waits_for_what_it_stands_on_and_goes_on_then(start: Start, outage) -> None:
    faults = [outage, outage]
    assert ended(start(faults)) == f"failed: {FAR}"
    assert faults == []


def test_a_file_that_is_missing_is_no_outage(start: Start) -> None:
    missing = FileNotFoundError(errno.ENOENT, "no such file")
    assert "FileNotFoundError" in ended(start([missing, missing]))


def test_a_run_can_be_stopped_while_it_waits(start: Start) -> None:
    runs = start([OSError(errno.ENOSPC, "No space left on device")] * 1000)
    runs.request_stop("run")
    assert ended(runs).startswith("stopped")


class Publishing:
    """Releases without an artifact; the test may look in while the release is built."""

    def __init__(self) -> None:
        self.building = threading.Event()
        self.built = threading.Event()
        self.published: list[str] = []

    def newest(self) -> int:
        return 0

    def initial(self, plan: RunPlan, parent: int):
        return FIRST_MODEL

    def context(self, plan: RunPlan, inherited: Content | None) -> Content:
        return CONTEXT

    def release(self, run, *_facts: object) -> Published:
        *_, go_on = _facts
        self.building.set()
        assert self.built.wait(LONG_S)
        go_on()  # type: ignore[operator]
        self.published.append(run.run_id)
        return Published(version=ReleaseVersion(7), figures={})

    def made_by(self, run_id: str) -> Published | None:
        known = run_id in self.published
        return Published(version=ReleaseVersion(7), figures={}) if known else None


class TestFromTheAggregateToTheRelease:
    PLAN = toy_plan(releases=True, rounds=1, quorum=2)

    @pytest.fixture
    def world(self, tmp_path) -> PlaneWorld:
        return PlaneWorld(tmp_path, self.PLAN)

    @pytest.fixture
    def releaser(self) -> Publishing:
        return Publishing()

    @pytest.fixture
    def worker(self, world: PlaneWorld, releaser: Publishing) -> Iterator[RunWorker]:
        worker = RunWorker(
            plane=world.plane,
            runs=world.runs,
            journal=world.journal,
            releaser=releaser,
            ledgers=lambda _merchant: (),
            trust=None,
        )
        yield worker
        releaser.built.set()
        worker.stop()

    def train(self, world: PlaneWorld) -> None:
        tasks = ["run/1/train/a", "run/1/train/b"]
        wait_for(lambda: world.is_open(*tasks))
        for task in tasks:
            world.answer(task)

    def count(self, world: PlaneWorld, *names: str) -> None:
        wait_for(lambda: world.is_open("run/1/evaluate/a", "run/1/evaluate/b"))
        for name in names:
            world.count(f"run/1/evaluate/{name}", 30.0, 100.0)

    def test_a_run_that_is_stopped_while_its_release_is_built_publishes_nothing(
        self, world, releaser, worker
    ) -> None:
        worker.start()
        self.train(world)
        self.count(world, "a", "b")
        assert releaser.building.wait(LONG_S)
        world.runs.request_stop(RUN)
        releaser.built.set()
        assert ended(world.runs) == "stopped: stopped by the operator"
        assert releaser.published == []

    def test_a_run_that_fails_after_it_was_stopped_counts_as_stopped(
        self, world, releaser, worker
    ) -> None:
        """A stop closes the run's tasks, and some loops then miss the answers first."""

        def release(run, *_facts: object) -> Published:
            world.runs.request_stop(run.run_id)
            raise InvalidInputError("too few answers")

        releaser.release = release
        worker.start()
        self.train(world)
        self.count(world, "a", "b")
        assert ended(world.runs) == "stopped: stopped by the operator"

    def test_a_release_that_was_published_before_a_crash_is_noted_whatever_was_asked_later(
        self, world, releaser, worker
    ) -> None:
        world.runs.enter(RUN, "releasing")
        releaser.published.append(RUN)
        world.runs.request_stop(RUN)
        worker.start()
        assert ended(world.runs) == "completed: release 7 is published"
        assert world.runs.get(RUN).release_version == 7

    def test_figures_of_a_part_of_the_merchants_are_never_noted(self, world, worker) -> None:
        worker.start()
        self.train(world)
        self.count(world, "a")
        world.runs.request_stop(RUN)
        assert ended(world.runs).startswith("stopped")
        assert world.runs.get(RUN).evaluation is None

    def test_an_evaluation_that_was_noted_before_a_restart_is_not_asked_for_again(
        self, world, releaser, worker
    ) -> None:
        world.runs.note_evaluation(RUN, {"merchants": 2, "recall_at_10": 0.5})
        releaser.built.set()
        worker.start()
        self.train(world)
        assert ended(world.runs) == "completed: release 7 is published"
        assert world.runs.get(RUN).evaluation == {
            "merchants": 2,
            "recall_at_10": 0.5,
            "release": {},
        }
        assert world.tasks.of_run(RUN, "evaluate", since_round=1) == []

    def test_a_server_that_starts_closes_what_was_left_open_of_ended_runs(
        self, world, worker
    ) -> None:
        world.runs.enter(RUN, "stopped")
        parts = world.parts()
        parts.grid.begin(1, "train")
        parts.grid.push_messages(parts.configure(1, FIRST_MODEL))
        assert len(world.tasks.open_for("a")) == 1
        worker.start()
        assert world.tasks.open_for("a") == []
