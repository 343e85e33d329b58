import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, update
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError, UnauthorisedError
from hansa.core.ids import MerchantId, RunId, Sha256, task_id
from hansa.core.plan import parse_plan
from hansa.server.state.database import open_database
from hansa.server.state.members import HEARTBEAT_PERIOD_S, Joining, Members
from hansa.server.state.runs import Refusal, RoundRecord, Runs
from hansa.server.state.tables import Table, TaskRow
from hansa.server.state.tasks import NewTask, Outcome, Result, Tasks

HARBOUR, MARKET = MerchantId("harbour"), MerchantId("market")
RUN = RunId("run")
SHA = Sha256("a" * 64)
OTHER = Sha256("b" * 64)
PLAN = parse_plan(
    {
        "name": "plan",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 3, "quorum": 2},
    },
    "plan",
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
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
def members(engine, clock):
    return Members(engine, clock)


def _join(members: Members, name: MerchantId = HARBOUR, request: str = "r" * 64) -> None:
    members.invite(name, serial="1", expires=2000.0)
    members.check_invitation(name, "1", request)
    members.join(
        name,
        Joining(
            request_sha256=request,
            certificate_der=b"cert",
            certificate_expires=9e9,
            ledger_public_key=b"k" * 32,
        ),
    )


def test_the_migrations_lead_to_exactly_the_tables_of_the_code(engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_a_database_survives_being_opened_again(tmp_path) -> None:
    for _attempt in range(2):
        engine = open_database(tmp_path / "hansa.db")
        Runs(engine, lambda: 1.0).newest_first()
        engine.dispose()


def test_sqlite_is_durable_and_lets_readers_in_beside_a_writer(tmp_path) -> None:
    engine = open_database(tmp_path / "hansa.db")
    with engine.connect() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous")
        }
    engine.dispose()
    assert pragma == {"journal_mode": "wal", "synchronous": 2}


def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    path = tmp_path / "hansa.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(InvalidInputError, match="cannot open the database"):
        open_database(path)


def test_an_invitation_is_used_once(members) -> None:
    _join(members)
    with pytest.raises(UnauthorisedError, match="used already"):
        members.check_invitation(HARBOUR, "1", "s" * 64)


def test_a_lost_reply_can_be_asked_for_again_with_the_same_request(members) -> None:
    _join(members)
    assert members.check_invitation(HARBOUR, "1", "r" * 64).certificate_der == b"cert"


def test_an_expired_invitation_is_refused(members, clock) -> None:
    members.invite(HARBOUR, serial="1", expires=2000.0)
    clock.now = 2001.0
    with pytest.raises(UnauthorisedError, match="expired"):
        members.check_invitation(HARBOUR, "1", "r" * 64)


def test_a_new_invitation_ends_the_older_one(members) -> None:
    members.invite(HARBOUR, serial="1", expires=2000.0)
    members.invite(HARBOUR, serial="2", expires=2000.0)
    with pytest.raises(UnauthorisedError, match="not valid any more"):
        members.check_invitation(HARBOUR, "1", "r" * 64)


def test_a_member_cannot_be_invited_over(members) -> None:
    _join(members)
    with pytest.raises(ConflictError):
        members.invite(HARBOUR, serial="2", expires=2000.0)


def test_only_the_present_certificate_of_a_present_member_passes(members) -> None:
    _join(members)
    members.check_member(HARBOUR, b"cert")
    members.renew(HARBOUR, b"newer", 9e9)
    members.check_member(HARBOUR, b"newer")
    members.retire_previous(HARBOUR, b"newer")
    with pytest.raises(UnauthorisedError, match="replaced"):
        members.check_member(HARBOUR, b"cert")
    members.revoke(HARBOUR)
    for name in (HARBOUR, MARKET):
        with pytest.raises(UnauthorisedError, match="not a member"):
            members.check_member(name, b"newer")


def test_a_lost_renewal_does_not_lock_the_member_out(members) -> None:
    _join(members)
    members.renew(HARBOUR, b"lost", 9e9)
    members.retire_previous(HARBOUR, b"cert")
    members.check_member(HARBOUR, b"cert")
    members.renew(HARBOUR, b"newer", 9e9)
    members.retire_previous(HARBOUR, b"newer")
    members.check_member(HARBOUR, b"newer")
    for older in (b"cert", b"lost"):
        with pytest.raises(UnauthorisedError, match="replaced"):
            members.check_member(HARBOUR, older)


def test_a_session_goes_on_with_the_previous_certificate_beside_calls_with_the_new_one(
    members,
) -> None:
    """The client's other connection fetches releases; only a new session ends the old one."""
    _join(members)
    members.renew(HARBOUR, b"newer", 9e9)
    for certificate in (b"newer", b"cert", b"newer", b"cert"):
        members.check_member(HARBOUR, certificate)


def test_the_objections_to_many_callers_are_found_at_once(members) -> None:
    _join(members)
    callers = {(HARBOUR, b"cert"), (HARBOUR, b"other"), (MARKET, b"cert")}
    assert members.objections(callers) == {
        (HARBOUR, b"other"): "this certificate was replaced by a newer one",
        (MARKET, b"cert"): "merchant 'market' is not a member of this federation",
    }
    assert members.objections([]) == {}


def test_a_revoked_merchant_can_be_invited_again(members) -> None:
    _join(members)
    members.revoke(HARBOUR)
    members.invite(HARBOUR, serial="2", expires=2000.0)
    row = members.check_invitation(HARBOUR, "2", "s" * 64)
    assert (row.certificate_der, row.ledger_public_key) == (None, b"k" * 32)


def test_a_silent_client_is_not_online(members, clock) -> None:
    _join(members)
    number = members.open_session(HARBOUR, "test")
    assert HARBOUR in members.online().values()
    clock.now += 60
    assert members.online() == {}
    assert members.heartbeat(HARBOUR, number)
    assert HARBOUR in members.online().values()


def test_heartbeats_of_many_clients_are_one_commit_a_period(engine, members, clock) -> None:
    """A commit waits for the disk; 64 clients beat twice in each period of two seconds."""
    numbers = {}
    for name in (HARBOUR, MARKET):
        _join(members, name)
        numbers[name] = members.open_session(name, "test")
    commits = []
    event.listen(engine, "commit", commits.append)
    for _beat in range(20):
        clock.now += HEARTBEAT_PERIOD_S / 2
        for name, number in numbers.items():
            assert members.heartbeat(name, number)
            assert set(members.online().values()) == {HARBOUR, MARKET}
    assert len(commits) == 10


def test_another_server_sees_who_is_online_here(engine, members, clock) -> None:
    _join(members)
    number = members.open_session(HARBOUR, "test")
    elsewhere = Members(engine, clock)
    for _beat in range(30):
        clock.now += HEARTBEAT_PERIOD_S / 2
        members.heartbeat(HARBOUR, number)
        assert HARBOUR in elsewhere.online().values()
    clock.now += 60
    assert elsewhere.online() == members.online() == {}


def test_a_heartbeat_never_makes_a_client_older(engine, members, clock) -> None:
    """Two servers, one of which still writes what it heard before the client moved on."""
    _join(members)
    number = members.open_session(HARBOUR, "test")
    slow = Members(engine, lambda: 1000.0)
    clock.now += 60
    members.heartbeat(HARBOUR, number)
    slow.heartbeat(HARBOUR, number)
    assert HARBOUR in Members(engine, clock).online().values()


def test_a_newer_session_fences_off_the_older(members) -> None:
    _join(members)
    older, newer = members.open_session(HARBOUR, "a"), members.open_session(HARBOUR, "b")
    assert not members.heartbeat(HARBOUR, older)
    assert members.holds_session(HARBOUR, newer)


@pytest.fixture
def tasks(engine, clock):
    Runs(engine, clock).queue(RUN, PLAN, b"signed")
    return Tasks(engine)


def _task(
    merchant: MerchantId = HARBOUR, content: Sha256 = SHA, deadline: float = 1100.0
) -> NewTask:
    return NewTask(
        task_id=task_id(RUN, 1, "train", merchant),
        run_id=RUN,
        round_number=1,
        phase="train",
        merchant=merchant,
        content_sha256=content,
        content_bytes=10,
        deadline=deadline,
    )


def test_posting_the_same_work_again_keeps_what_came_back(tasks) -> None:
    tasks.post([_task()])
    assert tasks.complete(_task().task_id, HARBOUR, Result(sha256=SHA)) is Outcome.ACCEPTED
    tasks.post([_task(content=OTHER)])
    assert [row.state for row in tasks.states([_task().task_id])] == ["done"]
    assert tasks.open_for(HARBOUR) == []


def test_a_repeated_result_is_harmless_and_a_different_one_is_a_conflict(tasks) -> None:
    tasks.post([_task()])
    outcomes = [
        tasks.complete(_task().task_id, HARBOUR, Result(sha256=sha)) for sha in (SHA, SHA, OTHER)
    ]
    assert outcomes == [Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.CONFLICT]
    assert tasks.states([_task().task_id])[0].result_sha256 == SHA


def test_what_comes_after_the_deadline_counts_as_long_as_the_round_is_open(tasks) -> None:
    """A server that was down closes no round; what was paid for in the meantime is not lost."""
    tasks.post([_task(deadline=0.0)])
    assert tasks.complete(_task().task_id, HARBOUR, Result(sha256=SHA)) is Outcome.ACCEPTED


def test_a_result_for_a_closed_round_is_late(tasks) -> None:
    tasks.post([_task()])
    tasks.expire([_task().task_id])
    assert tasks.complete(_task().task_id, HARBOUR, Result(sha256=SHA)) is Outcome.LATE


def test_another_merchants_task_does_not_exist(tasks) -> None:
    tasks.post([_task()])
    assert tasks.find(_task().task_id, MARKET) is None
    assert tasks.complete(_task().task_id, MARKET, Result(sha256=SHA)) is Outcome.UNKNOWN


def test_a_round_is_found_again_after_a_restart(tmp_path, clock) -> None:
    engine = open_database(tmp_path / "hansa.db")
    runs = Runs(engine, clock)
    runs.queue(RUN, PLAN, b"signed")
    record = RoundRecord(
        number=1,
        cohort=[HARBOUR, MARKET],
        accepted={HARBOUR: SHA},
        refused={MARKET: Refusal(reason="budget", sentence="over the cap")},
        aggregate_sha256=OTHER,
        seconds=1.5,
        down_bytes=10,
        up_bytes=20,
    )
    runs.checkpoint(RUN, record)
    engine.dispose()
    again = Runs(open_database(tmp_path / "hansa.db"), clock)
    assert again.rounds(RUN) == [record]
    assert again.next_unfinished().run_id == RUN


def test_a_run_of_a_name_exists_once(engine, clock) -> None:
    runs = Runs(engine, clock)
    runs.queue(RUN, PLAN, b"signed")
    with pytest.raises(ConflictError):
        runs.queue(RUN, PLAN, b"signed")
    with pytest.raises(NotFoundError, match="run list"):
        runs.get("other")


class TestTheEndOfARun:
    @pytest.fixture
    def runs(self, engine, clock):
        runs = Runs(engine, clock)
        runs.queue(RUN, PLAN, b"signed")
        runs.enter(RUN, "running")
        return runs

    @pytest.fixture
    def tasks(self, engine, runs):
        tasks = Tasks(engine)
        self.post(tasks)
        return tasks

    def post(self, tasks: Tasks) -> None:
        tasks.post([NewTask(
            task_id=task_id(RUN, 1, "train", merchant), run_id=RUN, round_number=1, phase="train",
            merchant=merchant, content_sha256=SHA, content_bytes=1, deadline=9e9,
        ) for merchant in (HARBOUR, MARKET)])  # fmt: skip

    def test_it_closes_the_runs_open_tasks_and_says_whose_they_were(self, runs, tasks) -> None:
        answered = task_id(RUN, 1, "train", MARKET)
        tasks.complete(answered, MARKET, Result(sha256=SHA, size_bytes=1))
        assert runs.enter(RUN, "releasing") == set()
        assert len(tasks.open_for(HARBOUR)) == 1
        assert runs.enter(RUN, "completed") == {HARBOUR}
        states = {row.merchant: row.state for row in tasks.of_run(RUN, "train", since_round=1)}
        assert states == {HARBOUR: "expired", MARKET: "done"}

    def test_it_is_not_written_without_closing_them(self, engine, runs, tasks) -> None:
        """A crash in between would leave merchants training, and paying, for nothing."""

        def crash(_connection, _cursor, statement: str, *_more: object) -> None:
            if statement.startswith("UPDATE tasks"):
                raise RuntimeError("the power is gone")

        event.listen(engine, "before_cursor_execute", crash)
        with pytest.raises(RuntimeError):
            runs.enter(RUN, "stopped")
        event.remove(engine, "before_cursor_execute", crash)
        assert runs.get(RUN).state == "running"
        assert len(tasks.open_for(HARBOUR)) == 1

    def test_a_request_to_stop_closes_them_at_once_whoever_works_on_the_run(
        self, runs, tasks
    ) -> None:
        assert runs.claim("some server", lease_s=60.0) is not None
        assert runs.request_stop(RUN) == {HARBOUR, MARKET}
        assert runs.get(RUN).state == "running"
        assert tasks.open_for(HARBOUR) == []

    def test_what_was_left_open_of_runs_that_have_ended_can_be_closed_later(
        self, runs, tasks
    ) -> None:
        assert runs.close_ended() == set()
        runs.enter(RUN, "failed")
        with Session(runs._engine) as session:
            session.execute(update(TaskRow).values(state="open"))
            session.commit()
        assert runs.close_ended() == {HARBOUR, MARKET}
        assert tasks.open_for(HARBOUR) == []

    def test_a_new_deadline_is_given_to_open_tasks_alone(self, tasks) -> None:
        answered = task_id(RUN, 1, "train", MARKET)
        tasks.complete(answered, MARKET, Result(sha256=SHA, size_bytes=1))
        tasks.postpone(RUN, "train", 5.0)
        deadlines = {
            row.merchant: row.deadline for row in tasks.of_run(RUN, "train", since_round=1)
        }
        assert deadlines == {HARBOUR: 5.0, MARKET: 9e9}
