"""Wake-ups within a process, and between two processes at one PostgreSQL."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest

from hansa.server.state.database import open_database
from hansa.server.state.notices import Notices
from hansa.server.switchboard import Switchboard
from tests.fakes.postgres import Postgres

LONG_S = 20.0
"""A wake-up that takes so long is none."""


@dataclass
class Ear:
    """What a process heard, in order."""

    heard: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, text: str) -> None:
        with self.changed:
            self.heard.append(text)
            self.changed.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        with self.changed:
            came = self.changed.wait_for(lambda: self.heard.count(text) >= times, LONG_S)
        assert came, f"{text!r} was not heard, but {self.heard}"


@pytest.fixture
def relays(postgres_url: str) -> Iterator[list[Notices]]:
    engines = [open_database(postgres_url) for _ in range(2)]
    relays = [Notices(engine) for engine in engines]
    yield relays
    for relay, engine in zip(relays, engines, strict=True):
        relay.stop()
        engine.dispose()


@pytest.fixture
def ears(relays: list[Notices]) -> list[Ear]:
    """Both processes, once they listen."""
    ears = [Ear() for _ in relays]
    for relay, ear in zip(relays, ears, strict=True):
        relay.start(ear)
    for ear in ears:
        ear.wait_for("")
    return ears


class TestTheRelay:
    def test_a_text_reaches_the_other_process_and_not_its_sender(self, relays, ears) -> None:
        relays[0].send("from the first")
        ears[1].wait_for("from the first")
        relays[1].send("from the second")
        ears[0].wait_for("from the second")
        assert [set(ear.heard) for ear in ears] == [
            {"", "from the second"},
            {"", "from the first"},
        ]

    def test_many_texts_all_arrive_from_both_sides_at_once(self, relays, ears) -> None:
        for number in range(300):
            for side, relay in enumerate(relays):
                relay.send(f"{side}/{number}")
        for side, ear in enumerate(ears):
            for number in range(300):
                ear.wait_for(f"{1 - side}/{number}")

    def test_a_text_that_is_sent_at_the_very_end_still_arrives(self, relays, ears) -> None:
        relays[0].send("farewell")
        relays[0].stop()
        ears[1].wait_for("farewell")

    def test_a_text_that_a_breaking_connection_took_along_is_sent_by_the_next(self, relays) -> None:
        """The receiver's own connection is whole, so nothing would tell it to look for itself."""
        sent: list[str] = []

        class Breaking:
            def execute(self, _statement: str, values: tuple[str, list[str]]) -> None:
                if not sent:
                    sent.append("nothing")
                    relays[0].send("meanwhile")
                    raise psycopg.OperationalError("the server closed the connection")
                sent.extend(values[1])

        relays[0].send("before")
        with pytest.raises(psycopg.OperationalError):
            relays[0]._send_all(Breaking())
        relays[0]._send_all(Breaking())
        assert sent == ["nothing", "before", "meanwhile"]

    def test_after_a_broken_connection_the_receiver_looks_and_listens_again(
        self, relays, ears, postgres: Postgres, postgres_url: str
    ) -> None:
        name = psycopg.conninfo.conninfo_to_dict(postgres_url)["dbname"]
        postgres.run(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        for ear in ears:
            ear.wait_for("", times=3)  # it looked for itself, and once more when connected again
        for _attempt in range(100):
            relays[0].send("again")
            with contextlib.suppress(AssertionError):
                with ears[1].changed:
                    assert ears[1].changed.wait_for(lambda: "again" in ears[1].heard, 0.2)
                break
        assert "again" in ears[1].heard


class TestTheSwitchboard:
    @pytest.fixture
    def boards(self, relays) -> Iterator[list[Switchboard]]:
        boards = [Switchboard(relay) for relay in relays]
        yield boards
        for board in boards:
            board.close()

    @pytest.mark.parametrize("waker", [0, 1], ids=["same process", "other process"])
    def test_a_merchants_stream_wakes_wherever_it_was_called(self, boards, waker) -> None:
        async def woken() -> list[bool]:
            for board in boards:
                board.attach(asyncio.get_running_loop())
            mine, other = boards[0].listen("harbour"), boards[0].listen("market")
            await asyncio.sleep(1.0)  # the first look of a relay that has just connected
            mine.clear()
            other.clear()
            boards[waker].wake("harbour")
            await asyncio.wait_for(mine.wait(), LONG_S)
            boards[0].hang_up("harbour", mine)
            boards[0].hang_up("market", other)
            return [mine.is_set(), other.is_set()]

        assert asyncio.run(woken()) == [True, False]

    def test_a_round_loop_hears_of_results_that_came_to_the_other_process(self, boards) -> None:
        async def attach() -> None:
            for board in boards:
                board.attach(asyncio.get_running_loop())

        asyncio.run(attach())
        seen = boards[0].announced
        boards[0].wait(2.0, seen)  # the first look of a relay that has just connected
        seen = boards[0].announced
        boards[1].announce()
        boards[0].wait(LONG_S, seen)
        assert boards[0].announced > seen

    def test_what_was_announced_before_the_wait_is_not_missed(self) -> None:
        board = Switchboard()
        seen = board.announced
        board.announce()
        board.wait(10 * LONG_S, seen)  # returns at once
        assert board.announced == seen + 1


def test_a_server_on_sqlite_wakes_without_a_thread_of_its_own() -> None:
    async def woken() -> int:
        board, before = Switchboard(), threading.active_count()
        board.attach(asyncio.get_running_loop())
        event = board.listen("harbour")
        board.wake("harbour")
        await asyncio.wait_for(event.wait(), LONG_S)
        board.announce()
        board.close()
        return threading.active_count() - before

    assert asyncio.run(woken()) == 0
