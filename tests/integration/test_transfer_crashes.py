"""Whoever dies in the middle of a transfer: only what is missing is sent, nothing made twice."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hansa.client.node.outbox import Outbox
from hansa.client.site import Site
from hansa.core.ids import TaskId
from hansa.core.privacy.entries import Commit
from hansa.core.storage import CHUNK_BYTES
from tests.fakes.toy_federation import Crash, ToyApplication, toy_plan
from tests.integration.federation_harness import ROOT, Federation, Server, wait_until
from tests.integration.round_checks import bodies, reserved_rounds
from tests.integration.slow_client import SlowOutbox, enlarge

pytestmark = pytest.mark.integration

ENOUGH = 3 * CHUNK_BYTES


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


def stored(federation: Federation) -> int:
    """Bytes of the only upload that is under way."""
    sizes = [part.stat().st_size for part in federation.state.uploads.rglob("*.part")]
    return max(sizes, default=0)


def recorded(server: Server) -> list[int]:
    """The offsets at which uploads begin from now on."""
    offsets: list[int] = []
    begin = server.parts.uploads.begin

    def recording(slot, offset: int):
        offsets.append(offset)
        return begin(slot, offset)

    server.parts.uploads.begin = recording  # type: ignore[method-assign]
    return offsets


def done(server: Server, run_id: str) -> Callable[[], bool]:
    def look() -> bool:
        row = server.parts.tasks.find(f"{run_id}/1/train/harbour", "harbour")
        return row is not None and row.state == "done"

    return look


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait(20)


def test_a_client_killed_while_uploading_sends_only_what_is_missing(
    federation: Federation,
) -> None:
    server = federation.start_server()
    offsets, site = recorded(server), federation.join("harbour")
    command = [sys.executable, "-m", "tests.integration.slow_client", str(site.path)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        run_id = federation.launch(toy_plan(rounds=1, quorum=1))
        wait_until("some of the upload", lambda: stored(federation) >= ENOUGH, 60.0)
    finally:
        kill(process)
    again = ToyApplication()
    federation.start_client(site, again)
    wait_until("the rest", done(server, run_id))
    assert offsets[0] == 0
    assert offsets[-1] >= ENOUGH
    assert again.rounds == []
    assert reserved_rounds(site) == [1]
    assert stored(federation) == 0


def test_a_server_killed_while_receiving_goes_on_where_it_was(federation: Federation) -> None:
    killed = federation.start_server_process()
    site, toy = federation.join("harbour"), ToyApplication(change=enlarge)
    federation.start_client(site, toy, SlowOutbox)
    run_id = federation.launch(toy_plan(rounds=1, quorum=1))
    wait_until("some of the upload", lambda: stored(federation) >= ENOUGH, 60.0)
    killed.stop()
    server = federation.start_server()
    offsets = recorded(server)
    wait_until("the rest", done(server, run_id), 60.0)
    assert offsets[0] >= ENOUGH
    assert toy.rounds == reserved_rounds(site) == [1]


class CrashBeforeForgetting(Outbox):
    """The process dies when the server has the update, and its word did not come back."""

    def drop(self, task: TaskId) -> None:
        raise Crash


class CrashBeforeSending(Outbox):
    """The process dies with the update on disk, before a byte of it has left."""

    def put(self, task: TaskId, content: bytes):
        super().put(task, content)
        raise Crash


def letters(site: Site) -> list[str]:
    return [letter.task_id for letter in Outbox(site.outbox).letters()]


def test_an_update_whose_acknowledgement_was_lost_does_not_stay_in_the_outbox(
    federation: Federation,
) -> None:
    """The run is over: no task will ever bring it up again."""
    federation.start_server()
    site = federation.join("harbour")
    crashed = federation.start_client(site, ToyApplication(), CrashBeforeForgetting)
    run_id = federation.launch(toy_plan(rounds=1, quorum=1))
    assert isinstance(crashed.wait(), Crash)
    assert federation.wait_for(run_id).state == "completed"
    assert letters(site) == [f"{run_id}/1/train/harbour"]
    federation.start_client(site, ToyApplication())
    wait_until("an empty outbox", lambda: letters(site) == [])


def test_an_update_of_a_round_that_was_closed_does_not_stay_in_the_outbox(
    federation: Federation,
) -> None:
    """Its blob was never sent, and need not be; what was paid for it stays in the ledger."""
    federation.start_server()
    site = federation.join("harbour")
    kept = federation.start_client(site, ToyApplication(), CrashBeforeSending)
    run_id = federation.launch(toy_plan(rounds=1, quorum=1))
    assert isinstance(kept.wait(), Crash)
    with federation.operator() as client:
        client.stop_run(run_id)
    federation.wait_for(run_id)
    federation.start_client(site, ToyApplication())
    wait_until("an empty outbox", lambda: letters(site) == [])
    assert reserved_rounds(site) == [1]
    assert [type(body) for body in bodies(site)][-1] is Commit
    assert not any(federation.state.uploads.rglob("*.part"))
