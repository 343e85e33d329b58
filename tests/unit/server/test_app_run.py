"""A foreign ServerApp is run once at a time, and pays neither for outages nor for one bad reply."""

import errno
import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from hansa.core.content import Content
from hansa.core.envelope import RECORD, Envelope, seal
from hansa.core.errors import ConflictError, QuorumNotMetError, TransportError
from hansa.core.flower_plan import FlowerPlan
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.storage import BlobStore
from hansa.server.rounds import worker as worker_module
from hansa.server.rounds.app_grid import AppEnded, AppGrid
from hansa.server.rounds.app_rounds import AppRounds
from hansa.server.rounds.app_run import AppRun
from hansa.server.rounds.app_script import AppScript
from hansa.server.rounds.flower import adopt_identity
from hansa.server.rounds.grid import Plane
from hansa.server.rounds.loop import RunInterrupted
from hansa.server.rounds.worker import RunWorker
from hansa.server.state.database import open_database
from hansa.server.state.journal import Journal
from hansa.server.state.members import Joining, Members
from hansa.server.state.references import BlobReferences
from hansa.server.state.runs import Runs
from hansa.server.state.tasks import Result, Tasks
from hansa.server.switchboard import Switchboard
from tests.fakes import guest_apps

RUN = RunId("run")
LONG_S = 20.0
OUTAGES = [
    OperationalError("SELECT 1", {}, sqlite3.OperationalError("the server closed the connection")),
    OSError(errno.ENOSPC, "no space left on device"),
    TransportError("the blob store does not answer"),
]


class World:
    """A server without wires: its merchants answer what this test says."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_database(folder / "hansa.db")
        self.runs = Runs(self.engine, time.time)
        self.members = Members(self.engine, time.time)
        self.tasks = Tasks(self.engine, time.time)
        self.blobs = BlobStore(folder / "blobs")
        self.journal = Journal(self.engine, time.time)
        self.plane = Plane(
            members=self.members, tasks=self.tasks, blobs=self.blobs, switchboard=Switchboard()
        )
        self.over = threading.Event()
        self.forged: dict[str, str] = {}
        for name in ("a", "b", "c"):
            self.join(MerchantId(name))

    def join(self, name: MerchantId) -> None:
        self.members.invite(name, serial="1", expires=9e9)
        self.members.join(name, Joining(
            request_sha256="r" * 64, certificate_der=b"c", certificate_expires=9e12,
            ledger_public_key=b"k" * 32,
        ))  # fmt: skip
        self.members.open_session(name, "test")

    def plan(self, app: str, *, quorum: int = 1) -> FlowerPlan:
        plan = FlowerPlan(
            name="p",
            server_app=f"tests.fakes.guest_apps:{app}",
            client_app=guest_apps.CLIENT,
            quorum=quorum,
            deadline_s=LONG_S,
        )
        self.runs.queue(RUN, plan, b"signed")
        return plan

    def run(self, plan: FlowerPlan, stopped: Callable[[], bool] = lambda: False) -> AppRun:
        return AppRun(
            run_id=RUN,
            plan=plan,
            plane=self.plane,
            runs=self.runs,
            journal=self.journal,
            stopped=stopped,
            allowed=(plan.server_app, plan.client_app),
        )

    def worker(self, plan: FlowerPlan) -> RunWorker:
        return RunWorker(
            plane=self.plane,
            runs=self.runs,
            journal=self.journal,
            releaser=None,
            ledgers=lambda _merchant: (),
            trust=None,
            allowed_apps=lambda: (plan.server_app, plan.client_app),
        )

    def grid(self, plan: FlowerPlan, stopped: Callable[[], bool] = lambda: False) -> AppGrid:
        adopt_identity()
        script = AppScript(RUN, self.journal)
        rounds = AppRounds(RUN, self.runs, plan.quorum)
        return AppGrid(RUN, plan, self.plane, script, rounds, stopped)

    def answer(self, merchant: str) -> None:
        for row in self.tasks.open_for(merchant):
            content = seal(
                Content(metrics={"m": {"num-examples": 1}}), Envelope(message_type=row.phase)
            )
            if merchant in self.forged:
                content.configs[RECORD]["not-finite"] = self.forged[merchant]
            data = content.to_bytes()
            result = Result(sha256=self.blobs.put(data), size_bytes=len(data))
            self.tasks.complete(row.task_id, merchant, result)

    def answer_always(self) -> None:
        while not self.over.wait(0.05):
            for merchant in ("a", "b", "c"):
                self.answer(merchant)

    def end(self) -> str:
        """Waits for the run's end; says how it ended."""
        until = time.monotonic() + LONG_S
        while (row := self.runs.get(RUN)).state in ("queued", "running"):
            assert time.monotonic() < until, "the run does not end"
            time.sleep(0.05)
        return f"{row.state}: {row.sentence}"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(worker_module, "_PAUSE_S", 0.05)
    for event in (guest_apps.HOLD, guest_apps.ENTERED):
        event.clear()
    for kept in (guest_apps.MAINS, guest_apps.PACE):
        kept.clear()
    world = World(tmp_path)
    thread = threading.Thread(target=world.answer_always)
    thread.start()
    yield world
    guest_apps.HOLD.set()
    world.over.set()
    thread.join()
    world.engine.dispose()


@pytest.fixture
def work(world: World) -> Iterator[Callable[[FlowerPlan], None]]:
    """Starts a worker, which ends with the test."""
    workers: list[RunWorker] = []

    def work(plan: FlowerPlan) -> None:
        workers.append(world.worker(plan))
        workers[0].start()

    yield work
    for worker in workers:
        worker.stop()


def failing_at(
    patch: pytest.MonkeyPatch, owner: object, name: str, error: Exception, *, at: int, thread: str
) -> None:
    """The so manieth call from that thread meets an outage, and no other."""
    real, calls = getattr(owner, name), itertools.count(1)

    def flaky(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread().name.startswith(thread) and next(calls) == at:
            raise error
        return real(*args, **kwargs)

    patch.setattr(owner, name, flaky)


class TestAnOutage:
    @pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize(("owner", "name"), [(Members, "online"), (BlobStore, "checked")])
    def test_that_a_call_of_the_app_meets_is_not_the_runs_fault(
        self,
        world: World,
        work: Callable[[FlowerPlan], None],
        monkeypatch: pytest.MonkeyPatch,
        owner: type,
        name: str,
        error: Exception,
    ) -> None:
        failing_at(monkeypatch, owner, name, error, at=2, thread="server-app")
        work(world.plan("looking"))
        assert world.end().startswith("completed")
        assert guest_apps.MAINS == [0, 1]
        assert len(world.tasks.of_run(RUN, "train", since_round=0)) == 3  # nobody trained twice

    def test_that_hides_whether_the_run_is_to_end_leaves_the_app_alone(
        self,
        world: World,
        work: Callable[[FlowerPlan], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        failing_at(monkeypatch, Runs, "stop_requested", OUTAGES[0], at=3, thread="runs")
        work(world.plan("looking"))
        assert world.end().startswith("completed")
        assert guest_apps.MAINS == [0]


class TestAnAppThatIsCutOff:
    def test_it_ends_at_its_next_look_whatever_the_lease_says_by_then(self, world: World) -> None:
        grid = world.grid(world.plan("looking"))
        grid.get_node_ids()
        grid.cut()
        for call in (grid.get_node_ids, lambda: grid.push_messages([])):
            with pytest.raises(AppEnded):
                call()

    def test_it_is_not_begun_again_beside_itself(self, world: World) -> None:
        plan = world.plan("computing")
        with pytest.raises(RunInterrupted):
            world.run(plan, guest_apps.ENTERED.is_set).run()
        guest_apps.ENTERED.clear()
        looks = itertools.count()
        with pytest.raises(RunInterrupted):
            world.run(plan, lambda: next(looks) == 3).run()
        assert not guest_apps.ENTERED.is_set()
        guest_apps.HOLD.set()
        assert world.run(plan).run() is None
        assert guest_apps.ENTERED.is_set()

    def test_its_lease_is_its_own_and_not_that_of_the_next_run(self, world: World) -> None:
        class Held:
            def __init__(self, held: bool) -> None:
                self.is_held = held

        worker = world.worker(world.plan("looking"))
        worker._lease = Held(True)
        assert worker._stopped(RUN, Held(False))
        assert not worker._stopped(RUN, Held(True))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([["metrics", "m", "num-examples", None, 10**400]]),
        json.dumps([["metrics", "m", "num-examples", None, "7.0"]]),
        "[" * 20_000 + "]" * 20_000,
    ],
    ids=["overflow", "finite", "deep"],
)
def test_one_merchants_forged_envelope_is_its_own_rejection_and_ends_no_run(
    world: World, work: Callable[[FlowerPlan], None], text: str
) -> None:
    world.forged["b"] = text
    work(world.plan("looking"))
    assert world.end().startswith("completed")
    (record,) = world.runs.rounds(RUN)
    assert sorted(record.accepted) == ["a", "c"]
    assert record.refused[MerchantId("b")].reason == "rejected"


class TestMessagesToSingleNodes:
    def interrupted(self, world: World, plan: FlowerPlan, *steps: str) -> None:
        """Carries the run out so far; then the server goes down."""
        guest_apps.PACE[:] = [*steps, "wait"]
        with pytest.raises(RunInterrupted):
            world.run(plan, guest_apps.ENTERED.is_set).run()

    def test_an_app_that_was_ahead_with_one_node_goes_on_with_another(self, world: World) -> None:
        plan = world.plan("pacing")
        self.interrupted(world, plan, "0", "0")
        guest_apps.PACE[:] = ["0", "0", "1"]
        world.run(plan).run()
        first, second = world.runs.rounds(RUN)
        assert (sorted(first.accepted), sorted(second.accepted)) == (["a", "b"], ["a"])

    def test_an_earlier_message_to_a_node_that_was_further_is_another_course(
        self, world: World
    ) -> None:
        plan = world.plan("pacing")
        self.interrupted(world, plan, "1", "0+1")
        guest_apps.PACE[:] = ["0", "0+1"]
        with pytest.raises(ConflictError, match="asked other merchants"):
            world.run(plan).run()

    @pytest.mark.parametrize("other", ["0+2", "2+1"])
    def test_a_round_to_other_merchants_is_another_course(self, world: World, other: str) -> None:
        plan = world.plan("pacing")
        self.interrupted(world, plan, "0+1")
        guest_apps.PACE[:] = [other]
        with pytest.raises(ConflictError, match="asked other merchants"):
            world.run(plan).run()

    def test_a_round_is_judged_once_none_of_its_answers_is_under_way(self, world: World) -> None:
        world.over.set()  # they answer when this test says so
        plan = world.plan("pacing", quorum=2)
        grid = world.grid(plan)
        one, two = sorted(grid.get_node_ids())[:2]
        first = grid.push_messages(guest_apps._questions([one]))
        late = grid.push_messages(guest_apps._questions([two]))
        world.answer("a")
        assert len(grid.pull_messages(first)) == 1
        grid.push_messages(guest_apps._questions([one]))  # round 2; round 1 has one answer of two
        world.tasks.expire(late)
        assert [reply.has_error() for reply in grid.pull_messages(late)] == [True]
        with pytest.raises(AppEnded) as ended:
            grid.push_messages(guest_apps._questions([one]))
        assert isinstance(ended.value.fault, QuorumNotMetError)


def test_the_arrays_of_an_app_that_trains_nothing_are_kept_and_needed(world: World) -> None:
    kept = world.run(world.plan("measuring")).run()
    assert kept is not None
    world.runs.enter(RUN, "completed")
    (record,) = world.runs.rounds(RUN)
    assert (record.number, record.cohort, record.aggregate_sha256) == (0, [], kept)
    read = BlobReferences(world.engine).read(over_since=9e12, releases=[])
    assert Sha256(kept) in read.needed
