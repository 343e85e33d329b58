"""Whoever dies in the middle of a round: nothing is lost, and nobody pays or trains twice."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hansa.client.node.outbox import Letter, Outbox
from hansa.client.site import Site
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import TaskId
from hansa.core.privacy.entries import Commit, Reserve
from hansa.server.serve import assemble, running
from tests.fakes.toy_federation import (
    Crash,
    ToyApplication,
    open_toy_releases,
    toy_plan,
)
from tests.integration.federation_harness import (
    TIMEOUT_S,
    Federation,
    Server,
    aggregates,
    free_port,
    refused,
    wait_until,
)
from tests.integration.round_checks import assert_same, bodies, moved

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


class TestAServerThatGoesDown:
    """Whatever the merchants paid for still counts, and nobody trains a round twice."""

    @pytest.fixture
    def hold(self) -> threading.Event:
        return threading.Event()

    @pytest.fixture
    def toys(self, hold: threading.Event) -> list[ToyApplication]:
        """One that answers at once, and two whose training of round 2 outlives the server."""
        held = [ToyApplication(step, hold=hold, hold_from=2) for step in (2.0, 4.0, 8.0)]
        return [ToyApplication(1.0), *held]

    def launch(self, federation: Federation, toys: list[ToyApplication], **limits: object) -> str:
        names = ("harbour", "market", "mill", "quarry")
        sites = [federation.join(name) for name in names]
        federation.start_clients(dict(zip(sites, toys, strict=True)))
        run_id = federation.launch(toy_plan(rounds=3, **{"quorum": 4, **limits}))
        for toy in toys[1:]:
            assert toy.held.wait(TIMEOUT_S)
        return run_id

    def check(self, server: Server, federation: Federation, run_id: str, toys: list) -> None:
        run = federation.wait_for(run_id)
        assert (run.state, run.rounds_done, run.sentence) == (
            "completed",
            3,
            "trained; the plan releases nothing",
        )
        assert [toy.rounds for toy in toys] == [[1, 2, 3]] * 4
        for number, aggregate in enumerate(aggregates(server, run_id), 1):
            assert_same(aggregate, moved(3.75 * number))

    def test_a_killed_server_goes_on_with_its_round(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        killed = federation.start_server_process()
        run_id = self.launch(federation, toys)
        killed.stop()
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_a_server_that_is_told_to_stop_goes_on_with_its_round(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        server = federation.start_server()
        run_id = self.launch(federation, toys)
        server.stop()
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_a_server_that_was_down_beyond_the_deadline_takes_the_round_up_again(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        server = federation.start_server()
        run_id = self.launch(federation, toys)
        server.stop()
        make_long_ago(server)
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_merchants_that_come_back_after_the_quorum_still_count(
        self, federation: Federation, hold: threading.Event, toys: list[ToyApplication]
    ) -> None:
        """The restarted server goes on with the first that it sees, but it had asked four."""
        server = federation.start_server()
        run_id = self.launch(federation, toys, quorum=1)
        server.stop()
        make_long_ago(server)
        hold.set()
        self.check(federation.start_server(), federation, run_id, toys)

    def test_a_second_server_beside_a_running_one_is_refused(
        self, federation: Federation, server: Server
    ) -> None:
        """Two would carry out the same run twice; also a port of its own does not make it right."""

        async def second() -> None:
            async with running(assemble(federation.state, open_toy_releases, port=free_port())):
                raise AssertionError("two servers run on one state")

        with pytest.raises(ConflictError, match=r"another server runs on .*stop it first"):
            asyncio.run(second())

    def test_a_taken_port_is_refused(self, federation: Federation) -> None:
        async def bound() -> None:
            async with running(assemble(federation.state, open_toy_releases)):
                raise AssertionError("two processes listen on one port")

        host, _, port = federation.address.rpartition(":")
        refused = pytest.raises(InvalidInputError, match="is another server running there")
        with socket.create_server((host, int(port))), refused:
            asyncio.run(bound())

    def test_finished_rounds_are_not_run_again(self, federation: Federation) -> None:
        """Killed between two rounds: the merchant has finished one and not begun the next."""
        killed = federation.start_server_process()
        site, toy = federation.join("harbour"), ToyApplication(1.0)
        first = federation.start_client(site, toy)
        run_id = federation.launch(toy_plan(rounds=400, quorum=1))
        with federation.operator() as client:
            wait_until("three rounds", lambda: client.run(run_id).rounds_done >= 3)
            first.tell_to_stop()
            first.wait()
            before = list(client.run(run_id).rounds)
        killed.stop()
        done = len(toy.rounds)
        server = federation.start_server()
        again = ToyApplication(1.0)
        federation.start_client(site, again)
        wait_until("two more rounds", lambda: len(again.rounds) >= 2)
        with federation.operator() as client:
            client.stop_run(run_id)
        after = list(federation.wait_for(run_id).rounds)
        assert after[: len(before)] == before
        assert toy.rounds == list(range(1, done + 1))
        assert again.rounds[0] == done + 1
        for number, aggregate in enumerate(aggregates(server, run_id), 1):
            assert_same(aggregate, moved(float(number)))


def make_long_ago(server: Server) -> None:
    """As if the server had been down beyond every deadline and heartbeat."""
    with server.parts.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE merchants SET last_seen = 0")
        connection.exec_driver_sql("UPDATE tasks SET deadline = 0")


class CrashAfterKeeping(Outbox):
    """The process dies with the update on disk, before the ledger and the server know of it."""

    def put(self, task: TaskId, content: bytes) -> Letter:
        super().put(task, content)
        raise Crash


class TestAClientThatCrashes:
    def test_between_payment_and_update_it_answers_interrupted_and_stays_charged(
        self, federation: Federation, server: Server
    ) -> None:
        site, dying, again = federation.join("harbour"), ToyApplication(die=True), ToyApplication()
        federation.start_clients({federation.join("market"): ToyApplication()})
        crashed = federation.start_client(site, dying)
        federation.wait_online({"harbour"})
        run_id = federation.launch(toy_plan(rounds=2, quorum=1))
        assert isinstance(crashed.wait(), Crash)
        federation.start_client(site, again)
        run = federation.wait_for(run_id)
        assert [refused(row) for row in run.rounds] == [{"harbour": "interrupted"}, {}]
        assert (dying.rounds, again.rounds) == ([1], [2])
        assert [type(body) for body in bodies(site)] == [Reserve, Reserve, Commit]

    def test_after_the_update_was_kept_it_sends_the_same_bytes_without_training_again(
        self, federation: Federation, server: Server
    ) -> None:
        site, dying, again = federation.join("harbour"), ToyApplication(3.0), ToyApplication(5.0)
        crashed = federation.start_client(site, dying, CrashAfterKeeping)
        federation.wait_online({"harbour"})
        run_id = federation.launch(toy_plan(rounds=1, quorum=1))
        assert isinstance(crashed.wait(), Crash)
        kept = Outbox(site.outbox).find(TaskId(f"{run_id}/1/train/harbour"))
        assert kept is not None
        federation.start_client(site, again)
        assert federation.wait_for(run_id).state == "completed"
        assert (dying.rounds, again.rounds) == ([1], [])
        assert server.parts.runs.rounds(run_id)[0].accepted == {"harbour": kept.sha256}
        assert_same(aggregates(server, run_id)[0], moved(3.0))
        reserve, commit = bodies(site)
        assert isinstance(reserve, Reserve)
        assert isinstance(commit, Commit)
        assert commit.sha256 == kept.sha256

    def test_of_two_clients_of_one_merchant_the_older_one_ends(
        self, federation: Federation, server: Server
    ) -> None:
        """A copied site (a restored backup, a cloned machine) must not duel with the original."""
        site = federation.join("harbour")
        older = federation.start_client(site, ToyApplication())
        federation.wait_online({"harbour"})
        copy = Site(federation.folder / "copy" / "harbour")
        shutil.copytree(site.path, copy.path)
        newer = federation.start_client(copy, ToyApplication())
        fault = older.wait()
        assert isinstance(fault, ConflictError)
        assert "took over" in str(fault)
        assert federation.finish(toy_plan(rounds=1, quorum=1)).state == "completed"
        assert newer.fault is None
