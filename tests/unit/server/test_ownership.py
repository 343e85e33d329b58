"""Which server works on which run: claimed by one, renewed, handed over, fenced off."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.exc import OperationalError

from hansa.core.errors import ConflictError
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.plan import parse_plan
from hansa.server.rounds.lease import Lease
from hansa.server.state.database import open_database
from hansa.server.state.journal import LedgerCopies
from hansa.server.state.runs import RoundRecord, Runs

ONE, OTHER = "one", "other"
PLAN = parse_plan(
    {
        "name": "plan",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 3, "quorum": 2},
    },
    "plan",
)
RECORD = RoundRecord(
    number=1,
    cohort=[MerchantId("harbour")],
    accepted={MerchantId("harbour"): Sha256("a" * 64)},
    refused={},
    aggregate_sha256=Sha256("b" * 64),
    seconds=1.0,
    down_bytes=1,
    up_bytes=1,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001  # no two runs begin at the same moment
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def engine(database):
    engine = open_database(database)
    yield engine
    engine.dispose()


@pytest.fixture
def runs(engine, clock):
    return Runs(engine, clock)


def queue(runs: Runs, *names: str) -> None:
    for name in names:
        runs.queue(RunId(name), PLAN, b"signed")


def claimed(runs: Runs, owner: str, lease_s: float = 10.0) -> str | None:
    row = runs.claim(owner, lease_s)
    return None if row is None else row.run_id


class TestClaiming:
    def test_the_oldest_run_goes_to_the_first_server_and_the_next_to_the_second(self, runs) -> None:
        queue(runs, "first", "second")
        assert [claimed(runs, owner) for owner in (ONE, OTHER)] == ["first", "second"]

    def test_nothing_is_left_for_a_third(self, runs) -> None:
        queue(runs, "first")
        assert [claimed(runs, owner) for owner in (ONE, OTHER)] == ["first", None]

    def test_a_server_finds_its_own_run_again(self, runs) -> None:
        queue(runs, "first")
        assert [claimed(runs, ONE) for _ in range(2)] == ["first", "first"]

    def test_a_silent_servers_run_is_taken_over_once_its_lease_has_ended(self, runs, clock) -> None:
        queue(runs, "first")
        claimed(runs, ONE)
        clock.now += 9.0
        assert claimed(runs, OTHER) is None
        clock.now += 2.0
        assert claimed(runs, OTHER) == "first"
        assert not runs.renew("first", ONE, 10.0)

    def test_a_renewed_lease_lasts(self, runs, clock) -> None:
        queue(runs, "first")
        claimed(runs, ONE)
        for _ in range(5):
            clock.now += 9.0
            assert runs.renew("first", ONE, 10.0)
            assert claimed(runs, OTHER) is None

    def test_a_released_run_is_free_at_once(self, runs) -> None:
        queue(runs, "first")
        claimed(runs, ONE)
        runs.release("first", OTHER)
        assert claimed(runs, OTHER) is None
        runs.release("first", ONE)
        assert claimed(runs, OTHER) == "first"

    def test_a_finished_run_is_claimed_by_nobody(self, runs, clock) -> None:
        queue(runs, "first")
        runs.enter("first", "completed")
        assert claimed(runs, ONE) is None

    def test_of_many_servers_at_the_same_moment_one_gets_each_run(self, runs) -> None:
        names = [f"run-{number}" for number in range(4)]
        queue(runs, *names)
        barrier = threading.Barrier(6)

        def claim(number: int) -> str | None:
            barrier.wait()
            return claimed(runs, f"server-{number}", 600.0)

        with ThreadPoolExecutor(6) as pool:
            got = list(pool.map(claim, range(6)))
        assert sorted(filter(None, got)) == names


class TestFencing:
    """Whoever slept through its lease may wake at any line of its work."""

    @pytest.mark.parametrize(
        "write",
        [
            lambda runs: runs.checkpoint("first", RECORD),
            lambda runs: runs.enter("first", "completed"),
            lambda runs: runs.enter("first", "failed"),
            lambda runs: runs.note_context("first", Sha256("c" * 64)),
            lambda runs: runs.note_release("first", 7),
            lambda runs: runs.note_evaluation("first", {"recall": 1.0}),
        ],
        ids=["checkpoint", "completed", "failed", "context", "release", "evaluation"],
    )
    def test_a_server_that_lost_the_run_writes_nothing(
        self, runs, clock, write: Callable[[Runs], None]
    ) -> None:
        queue(runs, "first")
        claimed(runs, ONE)
        clock.now += 11.0
        claimed(runs, OTHER)
        with pytest.raises(ConflictError, match="another server carries run 'first' out now"):
            write(runs.owned_by(ONE))
        assert runs.rounds("first") == []
        assert runs.get("first").state == "queued"
        write(runs.owned_by(OTHER))

    def test_a_lease_that_ended_unnoticed_by_all_still_lets_its_holder_write(
        self, runs, clock
    ) -> None:
        queue(runs, "first")
        claimed(runs, ONE)
        clock.now += 100.0
        runs.owned_by(ONE).checkpoint("first", RECORD)
        assert runs.rounds("first") == [RECORD]

    def test_the_operator_stops_a_run_whoever_has_it(self, runs) -> None:
        queue(runs, "first")
        claimed(runs, ONE)
        runs.enter("first", "running")
        runs.request_stop("first")
        assert runs.owned_by(ONE).stop_requested("first")


class TestTheLease:
    @staticmethod
    def of(runs: Runs, lost: threading.Event, *, lease_s: float = 0.3) -> Lease:
        return Lease(
            runs,
            "first",
            owner=ONE,
            lease_s=lease_s,
            claimed_at=time.monotonic(),
            on_loss=lost.set,
        )

    @pytest.fixture
    def really(self, engine):
        """With the real time, as the lease's own thread has it."""
        runs = Runs(engine, time.time)
        queue(runs, "first")
        return runs

    def test_it_is_renewed_for_as_long_as_the_work_lasts_and_given_up_then(self, really) -> None:
        claimed(really, ONE, 0.3)
        with self.of(really, threading.Event(), lease_s=0.3):
            first = really.get("first").owned_until
            until = time.monotonic() + 20.0
            while really.get("first").owned_until < first + 1.0:
                assert time.monotonic() < until
                time.sleep(0.02)
        assert claimed(really, OTHER) == "first"

    def test_it_tells_when_another_server_has_the_run(self, really) -> None:
        lost = threading.Event()
        claimed(really, ONE, 0.3)
        with self.of(really, lost) as lease:
            really.release("first", ONE)
            claimed(really, OTHER, 600.0)
            assert lost.wait(20.0)
            assert not lease.is_held
        assert really.get("first").owner == OTHER

    def test_it_ends_by_itself_where_it_cannot_be_renewed(self, really) -> None:
        """The database is away: before anybody else can take the run, its holder stops."""

        class Away(Runs):
            def renew(self, run_id: str, owner: str, lease_s: float) -> bool:
                raise OperationalError("UPDATE", {}, Exception("no route to host"))

        lease = self.of(Away(really._engine, time.time), threading.Event())
        with lease:
            assert lease.is_held
            until = time.monotonic() + 20.0
            while lease.is_held:
                assert time.monotonic() < until
                time.sleep(0.02)


class TestNames:
    def test_each_plan_counts_its_own_runs(self, runs) -> None:
        other = PLAN.model_copy(update={"name": "other"})
        names = [runs.queue_next(plan, b"signed") for plan in (PLAN, other, PLAN)]
        assert names == ["plan-0001", "other-0001", "plan-0002"]

    def test_the_number_after_the_highest_is_taken_not_the_count(self, runs) -> None:
        runs.queue(RunId("plan-0041"), PLAN, b"signed")
        assert runs.queue_next(PLAN, b"signed") == "plan-0042"

    def test_a_plan_whose_name_ends_in_a_number_is_not_mistaken_for_a_run(self, runs) -> None:
        tricky = PLAN.model_copy(update={"name": "plan-0001"})
        names = [runs.queue_next(plan, b"signed") for plan in (tricky, PLAN, tricky)]
        assert names == ["plan-0001-0001", "plan-0001", "plan-0001-0002"]

    def test_a_name_that_a_merchant_has_booked_is_not_given_again(self, runs, engine) -> None:
        """The database was restored from a backup; the merchants remember what came after."""
        line = '{"body":{"kind":"reserve","run":"plan-0002"},"position":0}'
        LedgerCopies(engine).append("harbour", 0, [line])
        runs.queue(RunId("plan-0001"), PLAN, b"signed")
        assert runs.queue_next(PLAN, b"signed") == "plan-0003"

    def test_names_made_at_the_same_moment_differ(self, runs) -> None:
        barrier = threading.Barrier(4)

        def queue_one(_number: int) -> str:
            barrier.wait()
            return runs.queue_next(PLAN, b"signed")

        with ThreadPoolExecutor(4) as pool:
            names = list(pool.map(queue_one, range(4)))
        assert sorted(names) == [f"plan-000{number}" for number in range(1, 5)]
