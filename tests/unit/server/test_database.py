"""One schema on two databases, opened by path or URL."""

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import MerchantId, RunId, Sha256, task_id
from hansa.core.plan import parse_plan
from hansa.server.settings import ServerSettings, StateFolder
from hansa.server.state.database import (
    check_url,
    open_database,
    retried,
    server_name,
    shown,
    sole_server,
    writing,
)
from hansa.server.state.journal import Journal
from hansa.server.state.members import Members
from hansa.server.state.runs import Runs
from hansa.server.state.tables import MerchantRow
from hansa.server.state.tasks import NewTask, Outcome, Result, Tasks
from tests.fakes.postgres import Postgres

HARBOUR, RUN = MerchantId("harbour"), RunId("run")
SECRET = "correct-horse"
PLAN = parse_plan(
    {
        "name": "plan",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 3, "quorum": 2},
    },
    "plan",
)


@pytest.fixture
def engine(database):
    engine = open_database(database)
    yield engine
    engine.dispose()


@pytest.fixture
def tasks(engine):
    Runs(engine, lambda: 1.0).queue(RUN, PLAN, b"signed")
    return Tasks(engine)


def a_task(number: int = 1, size: int = 10) -> NewTask:
    return NewTask(
        task_id=task_id(RUN, number, "train", HARBOUR),
        run_id=RUN,
        round_number=number,
        phase="train",
        merchant=HARBOUR,
        content_sha256=Sha256("a" * 64),
        content_bytes=size,
        deadline=9e9,
    )


class TestTheUrl:
    @pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
    def test_both_spellings_mean_our_driver(self, scheme) -> None:
        assert check_url(f"{scheme}://host/db").drivername == "postgresql+psycopg"

    @pytest.mark.parametrize(
        "url",
        [f"mysql://u:{SECRET}@h/d", f"postgresql+asyncpg://u:{SECRET}@h/d", SECRET, "sqlite:///x"],
    )
    def test_another_database_is_refused_without_repeating_the_password(self, url) -> None:
        with pytest.raises(InvalidInputError, match="must look like") as caught:
            check_url(url)
        assert SECRET not in str(caught.value)

    def test_a_password_is_never_shown(self) -> None:
        assert shown(f"postgresql://u:{SECRET}@h/d") == "postgresql+psycopg://u:***@h/d"

    def test_a_server_that_does_not_answer_is_named_without_the_password(self, tmp_path) -> None:
        with pytest.raises(InvalidInputError, match="cannot open the database") as caught:
            open_database(f"postgresql://u:{SECRET}@/d?host={tmp_path}")
        assert str(tmp_path) in str(caught.value)
        assert SECRET not in str(caught.value)

    def test_settings_keep_the_url_to_themselves(self, tmp_path) -> None:
        settings = ServerSettings(
            address="127.0.0.1:1",
            base_models={},
            database_url=f"postgresql://u:{SECRET}@h/d",
            blobs_url=f"ftp://u:{SECRET}@h/d",
        )
        state = StateFolder(tmp_path)
        state.write(settings)
        assert SECRET not in repr(settings)
        assert stat.S_IMODE((tmp_path / "server.json").stat().st_mode) == 0o600
        assert state.settings() == settings

    def test_a_refused_setting_is_not_repeated_either(self) -> None:
        with pytest.raises(InvalidInputError, match="database_url") as caught:
            ServerSettings.checked(
                address="127.0.0.1:1", base_models={}, database_url=f"mysql://u:{SECRET}@h/d"
            )
        assert SECRET not in str(caught.value)


class TestMigrating:
    def test_servers_that_start_at_the_same_moment_make_the_schema_once(self, postgres) -> None:
        url = postgres.bare_database()
        with ThreadPoolExecutor(4) as pool:
            engines = list(pool.map(open_database, [url] * 4))
        assert Runs(engines[0], lambda: 1.0).newest_first() == []
        for engine in engines:
            engine.dispose()

    def test_another_programs_database_is_refused(self, postgres: Postgres) -> None:
        """A table of the same name, but not ours: nothing is written into it."""
        url = postgres.bare_database()
        postgres.run("CREATE TABLE merchants (id int)", url)
        with pytest.raises(InvalidInputError, match=r"merchants.*already exists"):
            open_database(url)


class TestTransactions:
    def test_two_that_wait_for_each_other_both_succeed(self, engine) -> None:
        """PostgreSQL ends one of them as a deadlock, which is then repeated."""
        members = Members(engine, lambda: 1.0)
        for name in ("harbour", "market"):
            members.invite(MerchantId(name), serial="1", expires=9e9)
        both_hold_one = threading.Barrier(2)
        attempts = []

        @retried
        def rename(first: str, second: str) -> None:
            attempts.append(first)
            with writing(engine) as session:
                for place, name in enumerate((first, second)):
                    row = session.scalar(
                        select(MerchantRow).where(MerchantRow.name == name).with_for_update()
                    )
                    row.software += first[0]
                    session.flush()
                    if place == 0 and len(attempts) <= 2 and engine.dialect.name == "postgresql":
                        both_hold_one.wait(10)

        with ThreadPoolExecutor(2) as pool:
            for done in [
                pool.submit(rename, "harbour", "market"),
                pool.submit(rename, "market", "harbour"),
            ]:
                done.result()
        assert [sorted(row.software) for row in members.everyone()] == [["h", "m"]] * 2
        assert len(attempts) == (3 if engine.dialect.name == "postgresql" else 2)

    def test_what_fails_for_its_own_sake_is_not_repeated(self, engine) -> None:
        attempts = []

        @retried
        def impossible() -> None:
            attempts.append(1)
            with writing(engine) as session:
                session.add(MerchantRow(name=None, state="x", invitation_serial="1"))

        with pytest.raises(IntegrityError):
            impossible()
        assert attempts == [1]

    def test_of_equal_names_at_the_same_moment_one_is_refused_with_a_sentence(self, engine) -> None:
        runs, barrier = Runs(engine, lambda: 1.0), threading.Barrier(2)

        def queue() -> str:
            barrier.wait()
            try:
                runs.queue(RUN, PLAN, b"signed")
            except ConflictError as error:
                return str(error)
            return "queued"

        with ThreadPoolExecutor(2) as pool:
            outcomes = [done.result() for done in [pool.submit(queue) for _ in range(2)]]
        assert sorted(outcomes) == ["queued", "run 'run' exists already"]


class TestValues:
    def test_sizes_beyond_four_gibibytes_are_kept(self, tasks) -> None:
        tasks.post([a_task(size=5 << 30)])
        tasks.complete(
            a_task().task_id, HARBOUR, Result(sha256=Sha256("b" * 64), size_bytes=6 << 30)
        )
        (row,) = tasks.states([a_task().task_id])
        assert (row.content_bytes, row.result_bytes) == (5 << 30, 6 << 30)

    def test_times_are_kept_to_the_microsecond(self, engine) -> None:
        journal = Journal(engine, lambda: 1_764_000_000.123456)
        journal.note("something", words="öß ↦ 商")
        (event,) = journal.events()
        assert (event.time, event.body) == (1_764_000_000.123456, {"words": "öß ↦ 商"})

    def test_a_text_that_postgresql_cannot_keep_is_the_senders_fault(
        self, postgres_url, request
    ) -> None:
        """SQLite takes a NUL; PostgreSQL does not, and the sender must not see INTERNAL."""
        engine = open_database(postgres_url)
        request.addfinalizer(engine.dispose)
        Runs(engine, lambda: 1.0).queue(RUN, PLAN, b"signed")
        tasks = Tasks(engine)
        tasks.post([a_task()])
        with pytest.raises(InvalidInputError, match="cannot be kept"):
            tasks.complete(a_task().task_id, HARBOUR, Result(reason="failed", sentence="a\0b"))
        with pytest.raises(InvalidInputError, match="cannot be kept"):
            tasks.find("no\0task", HARBOUR)
        assert tasks.complete(a_task().task_id, HARBOUR, Result(reason="x")) is Outcome.ACCEPTED

    def test_many_tasks_are_posted_at_once_and_again(self, tasks) -> None:
        posted = [a_task(number) for number in range(1, 401)]
        for _attempt in range(2):
            tasks.post(reversed(posted))
        assert len(tasks.open_for(HARBOUR)) == 400


class TestTheSoleServer:
    def test_a_second_process_at_one_sqlite_file_is_refused(self, tmp_path: Path) -> None:
        first, second = (open_database(tmp_path / "hansa.db") for _ in range(2))
        with (
            sole_server(first),
            pytest.raises(ConflictError, match=r"another server runs on .*hansa\.db; stop it"),
            sole_server(second),
        ):
            raise AssertionError("two servers at one SQLite file")
        with sole_server(second):
            pass
        assert server_name(first) == server_name(second)
        for engine in (first, second):
            engine.dispose()

    def test_a_commands_own_reading_is_not_hindered(self, tmp_path: Path) -> None:
        engine = open_database(tmp_path / "hansa.db")
        with sole_server(engine):
            reader = open_database(tmp_path / "hansa.db")
            assert Runs(reader, lambda: 1.0).newest_first() == []
            reader.dispose()
        engine.dispose()

    def test_servers_at_one_postgresql_have_names_of_their_own(self, postgres_url) -> None:
        engine = open_database(postgres_url)
        names = {server_name(engine) for _ in range(3)}
        assert len(names) == 3
        assert max(map(len, names)) <= 64
        with sole_server(engine), sole_server(engine):
            pass
        engine.dispose()


def test_a_reader_sees_a_whole_transaction_or_nothing_of_it(engine) -> None:
    runs = Runs(engine, lambda: 1.0)
    with writing(engine) as session:
        session.add(runs._queued(RUN, PLAN, b"signed"))
        session.flush()
        with Session(engine) as reader:
            assert reader.scalars(select(MerchantRow)).all() == []
        assert runs.newest_first() == []
    assert [row.run_id for row in runs.newest_first()] == [RUN]
