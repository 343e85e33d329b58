"""Schedules on several servers: what is due happens once, and what went wrong is still due."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from hansa.core.ids import RunId
from hansa.core.signing import signing_key
from hansa.server.launch import Launcher
from hansa.server.scheduler import Scheduler, StandingOrders
from hansa.server.settings import ServerSettings
from hansa.server.state.database import open_database
from hansa.server.state.journal import Journal
from hansa.server.state.runs import Along, Runs
from hansa.server.state.schedules import Schedules, TakenError, next_time
from hansa.server.state.tables import RunRow, ScheduleRow
from hansa.server.switchboard import Switchboard
from tests.fakes.toy_federation import MODEL, toy_plan

PLAN = toy_plan(releases=True, begins_with="last-release")
MONTHLY = "0 3 1 * *"
YEAR = 366 * 86_400


class Clock:
    """Seconds since 1970; the test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """One database, and servers that work on it."""

    engine: Engine
    clock: Clock
    folder: Path

    def __post_init__(self) -> None:
        self.runs = Runs(self.engine, self.clock)
        self.schedules = Schedules(self.engine, self.clock)
        self.journal = Journal(self.engine, self.clock)

    def server(self) -> Scheduler:
        orders = StandingOrders(
            schedules=self.schedules,
            runs=self.runs,
            journal=self.journal,
            launcher=Launcher(
                settings=ServerSettings(
                    address="127.0.0.1:1", listen="127.0.0.1", base_models={MODEL: self.folder}
                ),
                plan_key=key(),
                runs=self.runs,
                journal=self.journal,
                switchboard=Switchboard(),
            ),
        )
        return Scheduler(orders)

    def look_at_once(self, servers: list[Scheduler]) -> None:
        """All servers look at the same moment."""
        barrier = threading.Barrier(len(servers))

        def look(server: Scheduler) -> None:
            barrier.wait(20)
            server.look()

        threads = [threading.Thread(target=look, args=(server,)) for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    def run_ids(self) -> list[str]:
        with Session(self.engine) as session:
            return list(session.scalars(select(RunRow.run_id).order_by(RunRow.run_id)))

    def row(self) -> ScheduleRow:
        (row,) = self.schedules.everything()
        return row

    def notes(self) -> list[str]:
        events = self.journal.events()
        return [str(event.body["sentence"]) for event in events if event.kind == "schedule"]

    def released(self, recall: float) -> None:
        """A run whose model was released as version 3, and was as good as that."""
        run = RunId("old-0001")
        self.runs.queue(run, PLAN, b"signed")
        self.runs.note_release(run, 3)
        self.runs.note_evaluation(run, {"recall_at_10": recall})
        self.runs.enter(run, "completed")

    def watched(self, recall: float, state: str = "completed", sentence: str = "") -> str:
        """The schedule's watch, which the clock has begun, after its end."""
        self.clock.now += YEAR
        self.server().look()
        watch = self.row().watch_run
        self.runs.note_parent(watch, 3)
        self.runs.note_evaluation(watch, {"recall_at_10": recall})
        self.runs.enter(watch, state, sentence)
        return watch


def key() -> Ed25519PrivateKey:
    return signing_key(bytes(32))


def busy_at_first(queue_next: Callable[..., RunId]) -> Callable[..., RunId]:
    """The same, but the first call meets a database that somebody else has locked."""
    faults = [OperationalError("INSERT", {}, Exception("database is locked"))]

    def queue(*args: object, **kwargs: object) -> RunId:
        if faults:
            raise faults.pop()
        return queue_next(*args, **kwargs)

    return queue


@pytest.fixture
def desk(database: Path | str, tmp_path: Path) -> Iterator[Desk]:
    engine = open_database(database)
    yield Desk(engine, Clock(), tmp_path)
    engine.dispose()


def test_of_servers_that_look_at_the_same_moment_one_begins_what_is_due(desk: Desk) -> None:
    desk.schedules.add("monthly", PLAN, MONTHLY, drift=None)
    desk.clock.now += YEAR
    desk.look_at_once([desk.server() for _ in range(4)])
    assert desk.run_ids() == ["toy-0001"]
    assert desk.row().last_run == "toy-0001"
    assert desk.row().next_due == next_time(MONTHLY, desk.clock.now)


def test_of_servers_that_judge_a_watch_at_the_same_moment_one_trains(desk: Desk) -> None:
    desk.released(0.5)
    desk.schedules.add("drifting", PLAN, MONTHLY, drift=0.05)
    watch = desk.watched(0.1)
    desk.look_at_once([desk.server() for _ in range(4)])
    assert desk.run_ids() == ["old-0001", "toy-0002", watch]
    assert (desk.row().last_run, desk.row().watch_run) == ("toy-0002", "")
    assert desk.notes() == ["noised recall@10 0.1000, at the release 0.5000: fell by 0.4000"]


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_watch_that_did_not_complete_begins_nothing_and_is_noted(desk: Desk, state: str) -> None:
    desk.released(0.5)
    desk.schedules.add("drifting", PLAN, MONTHLY, drift=0.05)
    watch = desk.watched(0.1, state, "stopped by the operator")
    for _ in range(2):
        desk.server().look()
    assert desk.run_ids() == ["old-0001", watch]
    assert desk.notes() == [f"watch {watch} says nothing: stopped by the operator"]
    assert desk.row().watch_run == ""


def test_a_fault_with_one_schedule_leaves_the_others_alone_and_it_is_still_due(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        plan = PLAN.model_copy(update={"name": f"plan-{name}"})
        desk.schedules.add(name, plan, MONTHLY, drift=None)
    desk.clock.now += YEAR
    server = desk.server()
    with monkeypatch.context() as patch:
        patch.setattr(Runs, "queue_next", busy_at_first(Runs.queue_next))
        server.look()
    assert len(desk.run_ids()) == 2
    assert len(desk.schedules.due()) == 1
    server.look()
    assert desk.run_ids() == ["plan-a-0001", "plan-b-0001", "plan-c-0001"]
    assert desk.schedules.due() == []


def test_a_server_that_dies_after_queueing_a_watch_has_noted_it_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Died

    desk.schedules.add("drifting", PLAN, MONTHLY, drift=0.05)
    desk.clock.now += YEAR
    server = desk.server()
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note", die)  # the first thing after the transaction
        with pytest.raises(Died):
            server.look()
    assert desk.run_ids() == ["toy-watch-0001"]
    assert desk.row().watch_run == "toy-watch-0001"
    desk.server().look()
    assert desk.run_ids() == ["toy-watch-0001"]


def test_what_another_server_has_taken_queues_nothing(desk: Desk) -> None:
    desk.schedules.add("monthly", PLAN, MONTHLY, drift=None)
    desk.clock.now += YEAR
    turn = desk.schedules.time_of(desk.row())
    assert desk.schedules.take(turn)
    assert not desk.schedules.take(turn)
    along: Along = lambda session, run_id: turn.take(session, last_run=run_id)  # noqa: E731
    with pytest.raises(TakenError):
        desk.runs.queue_next(PLAN, b"signed", along)
    with Session(desk.engine) as session:
        assert session.scalar(select(func.count()).select_from(RunRow)) == 0


def test_a_plan_that_cannot_be_started_is_noted_once_and_waits_for_its_next_time(
    desk: Desk,
) -> None:
    plan = PLAN.model_copy(update={"model": PLAN.model.model_copy(update={"base": "gone"})})
    desk.schedules.add("monthly", plan, MONTHLY, drift=None)
    desk.clock.now += YEAR
    for _ in range(2):
        desk.server().look()
    (note,) = desk.notes()
    assert note.startswith("not started: this server has no base model 'gone'")
    assert desk.run_ids() == []
