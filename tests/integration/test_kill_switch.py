"""Stopping at either end while a merchant trains: nothing more leaves, and nothing is forgotten."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from hansa.client.halt import HaltSwitch
from hansa.client.interruption import is_unwanted
from hansa.client.ledger_store import read_ledger
from hansa.core.ids import RunId
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Commit, Reserve
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.records import array_record
from tests.fakes.toy_federation import CONTEXT, FIRST_MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import Federation, utc_now, wait_until

pytestmark = pytest.mark.integration


class Endless(ToyApplication):
    """Trains until somebody gives the work up."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up = threading.Event()

    def __call__(self, plan: RunPlan, phase: str, contents: object) -> bytes:
        self.held.set()
        wait_until("the end of the wish", is_unwanted, 30.0)
        self.given_up.set()
        return super().__call__(plan, phase, contents)  # type: ignore[arg-type]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


def online(federation: Federation) -> set[str]:
    with federation.operator() as client:
        return {row.merchant for row in client.merchants() if row.online}


def test_a_stopped_merchant_is_gone_at_once_its_work_never_leaves_and_its_budget_stays_spent(
    federation: Federation,
) -> None:
    server = federation.start_server()
    site, work = federation.join("mill"), Endless()
    switch = HaltSwitch(site.halt)
    participant = federation.participate(site, work)
    federation.wait_online({"mill"})
    run_id = federation.launch(toy_plan(rounds=1, quorum=1, deadline_s=60.0))
    assert work.held.wait(20)
    switch.set(at_once=True, reason="audit", now=utc_now())
    assert work.given_up.wait(5)
    wait_until("the merchant gone", lambda: "mill" not in online(federation), 10.0)
    (task,) = server.parts.tasks.of_run(run_id, "train", since_round=1)
    assert (task.state, task.result_sha256) == ("open", None)
    kinds = [type(entry.body) for entry in read_ledger(site.ledger).entries[2:]]
    assert kinds == [Reserve] or kinds == [Reserve, Commit]
    switch.clear()
    federation.wait_online({"mill"})
    participant.stop()


def test_a_run_that_the_operator_stops_gives_up_the_merchants_work_too(
    federation: Federation,
) -> None:
    server = federation.start_server()
    work = Endless()
    federation.start_clients({federation.join("mill"): work})
    run_id = federation.launch(toy_plan(rounds=1, quorum=1, deadline_s=60.0))
    assert work.held.wait(20)
    with federation.operator() as client:
        client.stop_run(run_id)
    assert work.given_up.wait(5)
    run = federation.wait_for(run_id)
    assert (run.state, run.sentence) == ("stopped", "stopped by the operator")
    kinds = [event.kind for event in server.parts.journal.events()]
    assert "stop requested" in kinds
    assert "run stopped" in kinds


def test_a_stop_reaches_the_merchants_also_when_no_server_works_on_the_run(
    federation: Federation,
) -> None:
    """The server waits for another run's quorum; this one's task is from before."""
    server = federation.start_server()
    federation.launch(toy_plan(name="first", rounds=1, quorum=2, deadline_s=60.0))
    run_id = RunId(federation.launch(toy_plan(rounds=1, quorum=1, deadline_s=60.0)))
    parts, work = server.parts, Endless()
    federation.start_clients({federation.join("mill"): work})
    plane = Plane(
        members=parts.members,
        tasks=parts.tasks,
        blobs=parts.blobs,
        switchboard=parts.switchboard,
    )
    parts.runs.note_context(run_id, parts.blobs.put(CONTEXT.to_bytes()))
    record = RecordDict(
        {"arrays": array_record(FIRST_MODEL), "config": ConfigRecord({"server-round": 1})}
    )
    (node,) = parts.members.names()
    grid = GrpcGrid(run_id, plane)
    grid.begin(1, "train")
    grid.post([Message(record, dst_node_id=node, message_type="train")], timeout=60.0)
    assert work.held.wait(20)
    with federation.operator() as client:
        assert client.stop_run(run_id).state == "stopped"
    assert work.given_up.wait(5)


def test_a_stopped_run_stays_stopped_after_a_restart(federation: Federation) -> None:
    server = federation.start_server()
    run_id = federation.launch(toy_plan(rounds=1, quorum=1, deadline_s=60.0))
    with federation.operator() as client:
        client.stop_run(run_id)
    federation.wait_for(run_id)
    server.stop()
    federation.start_server()
    federation.start_clients({federation.join("mill"): ToyApplication()})
    with federation.operator() as client:
        assert client.run(run_id).state == "stopped"
