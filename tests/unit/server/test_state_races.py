"""What must hold when several calls reach the database at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from hansa.core.errors import UnauthorisedError
from hansa.core.ids import MerchantId, RunId, Sha256, task_id
from hansa.core.plan import parse_plan
from hansa.server.state.database import open_database
from hansa.server.state.members import Joining, Members
from hansa.server.state.runs import Runs
from hansa.server.state.tasks import NewTask, Outcome, Result, Tasks

CALLERS = 6
ATTEMPTS = 4
HARBOUR, RUN = MerchantId("harbour"), RunId("run")
PLAN = parse_plan(
    {
        "name": "plan",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 100, "quorum": 2},
    },
    "plan",
)


@pytest.fixture
def engine(database):
    engine = open_database(database)
    yield engine
    engine.dispose()


def together(call):
    """What the calls return, each made by a thread of its own, all at the same moment."""
    barrier = Barrier(CALLERS)

    def one(number):
        barrier.wait()
        return call(number)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(one, range(CALLERS)))


def joined(number):
    return Joining(
        request_sha256=f"{number:064x}",
        certificate_der=bytes([number]),
        certificate_expires=9e9,
        ledger_public_key=bytes([number]) * 32,
    )


def test_of_different_results_at_the_same_moment_exactly_the_kept_one_was_accepted(engine) -> None:
    Runs(engine, lambda: 1.0).queue(RUN, PLAN, b"signed")
    tasks = Tasks(engine)
    for number in range(1, ATTEMPTS + 1):
        name = task_id(RUN, number, "train", HARBOUR)
        blob = Sha256("c" * 64)
        tasks.post([NewTask(
            task_id=name, run_id=RUN, round_number=number, phase="train", merchant=HARBOUR,
            content_sha256=blob, content_bytes=1, deadline=9e9,
        )])  # fmt: skip
        outcomes = together(
            lambda caller, name=name: tasks.complete(
                name, HARBOUR, Result(sha256=Sha256(f"{caller:064x}"), size_bytes=1)
            )
        )
        assert sorted(outcomes) == [Outcome.ACCEPTED] + [Outcome.CONFLICT] * (CALLERS - 1)
        kept = tasks.states([name])[0].result_sha256
        assert kept == f"{outcomes.index(Outcome.ACCEPTED):064x}"


def test_of_joins_at_the_same_moment_exactly_the_kept_one_succeeds(engine) -> None:
    members = Members(engine, lambda: 1.0)

    def join(name, number):
        try:
            members.join(name, joined(number))
        except UnauthorisedError:
            return False
        return True

    for attempt in range(ATTEMPTS):
        name = MerchantId(f"merchant-{attempt}")
        members.invite(name, serial="1", expires=9e9)
        outcomes = together(lambda number, name=name: join(name, number))
        assert sum(outcomes) == 1
        members.check_member(name, bytes([outcomes.index(True)]))


def test_sessions_opened_at_the_same_moment_have_different_numbers(engine) -> None:
    members = Members(engine, lambda: 1.0)
    members.invite(HARBOUR, serial="1", expires=9e9)
    members.join(HARBOUR, joined(1))
    numbers = [
        number
        for _attempt in range(ATTEMPTS)
        for number in together(lambda _: members.open_session(HARBOUR, "test"))
    ]
    assert sorted(numbers) == list(range(1, CALLERS * ATTEMPTS + 1))
    assert members.holds_session(HARBOUR, max(numbers))
