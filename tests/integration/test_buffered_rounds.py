"""Asynchronous runs over real gRPC: nobody waits for the slowest, and stale updates weigh less."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hansa.audit.verifier import verify
from hansa.core.evidence import read_pack
from hansa.core.plan import BufferSpec
from hansa.server.rounds.buffered import discounted, staleness_weight
from tests.fakes.toy_federation import FIRST_MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import Federation, Server, aggregates, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


def first_weights(server: Server, run_id: str) -> list[float]:
    return [float(arrays["weights"][0]) for arrays in aggregates(server, run_id)]


def test_a_stale_update_becomes_a_shorter_step_from_the_present_model() -> None:
    """A step of 4 that began 3 aggregates ago weighs 4 ** -0.5 = 1/2."""
    weight = staleness_weight(3, BufferSpec(updates=1, staleness_exponent=0.5))
    old, new = {"w": np.float32([1.0])}, {"w": np.float32([10.0])}
    update = {"w": np.float32([5.0])}
    assert discounted(update, old, new, weight)["w"] == np.float32(12.0)
    assert staleness_weight(0, BufferSpec(updates=1)) == 1.0


def test_the_others_go_on_while_one_is_slow_and_its_update_is_still_used(
    federation: Federation,
) -> None:
    """Nine aggregates of one fresh update each; the slow merchant's comes in stale, once."""
    server = federation.start_server()
    released = threading.Event()
    slow, fast = ToyApplication(100.0, hold=released), ToyApplication(1.0)
    slow_site, fast_site = federation.join("slow"), federation.join("fast")
    federation.start_clients({slow_site: slow, fast_site: fast})
    plan = toy_plan(rounds=9, quorum=1, asynchronous={"updates": 1, "staleness_exponent": 1.0})
    run_id = federation.launch(plan)
    assert slow.held.wait(20)
    wait_until("five aggregates", lambda: len(server.parts.runs.rounds(run_id)) >= 5)
    released.set()
    run = federation.wait_for(run_id)
    assert (run.state, run.rounds_done) == ("completed", 9)
    records = server.parts.runs.rounds(run_id)
    late = next(record for record in records if "slow" in record.accepted)
    staleness = late.number - 1
    assert late.began == {"slow": 1}
    assert staleness >= 4
    before, after = first_weights(server, run_id)[late.number - 2 : late.number]
    assert after - before == pytest.approx(100.0 / (1 + staleness), rel=1e-5)
    with federation.operator() as client:
        report = verify(
            read_pack(client.pack(run_id)), plan_key=fast_site.settings().plan_public_key
        )
    assert [check for check in report.checks if not check.passed] == []


def test_an_update_staler_than_the_plan_allows_is_refused_and_named(
    federation: Federation,
) -> None:
    server = federation.start_server()
    released = threading.Event()
    slow = ToyApplication(100.0, hold=released)
    federation.start_clients(
        {federation.join("slow"): slow, federation.join("fast"): ToyApplication(1.0)}
    )
    plan = toy_plan(rounds=40, quorum=1, asynchronous={"updates": 1, "max_staleness": 2})
    run_id = federation.launch(plan)
    assert slow.held.wait(20)
    wait_until("five aggregates", lambda: len(server.parts.runs.rounds(run_id)) >= 5)
    released.set()
    run = federation.wait_for(run_id)
    assert run.state == "completed"
    reasons = {
        name: refusal.reason
        for record in server.parts.runs.rounds(run_id)
        for name, refusal in record.refused.items()
    }
    assert reasons == {"slow": "stale"}


def test_a_killed_server_goes_on_with_the_same_buffer_and_nobody_trains_twice(
    federation: Federation,
) -> None:
    server = federation.start_server()
    released = threading.Event()
    toys = {
        "harbour": ToyApplication(1.0),
        "market": ToyApplication(3.0, hold=released, hold_from=2),
    }
    federation.start_clients({federation.join(name): toy for name, toy in toys.items()})
    plan = toy_plan(rounds=3, quorum=1, asynchronous={"updates": 2})
    run_id = federation.launch(plan)
    assert toys["market"].held.wait(20)
    wait_until("the first aggregate", lambda: len(server.parts.runs.rounds(run_id)) == 1)
    server.stop()
    released.set()
    server = federation.start_server()
    run = federation.wait_for(run_id)
    assert (run.state, run.rounds_done) == ("completed", 3)
    assert first_weights(server, run_id) == [
        float(FIRST_MODEL["weights"][0]) + 2.0 * n for n in (1, 2, 3)
    ]
    assert all(len(set(toy.rounds)) == len(toy.rounds) for toy in toys.values())


def test_a_run_in_which_nobody_answers_fails_loudly(federation: Federation) -> None:
    federation.start_server()
    released = threading.Event()
    federation.start_clients({federation.join("slow"): ToyApplication(hold=released)})
    try:
        plan = toy_plan(rounds=1, quorum=1, deadline_s=1.5, asynchronous={"updates": 1})
        run = federation.finish(plan)
    finally:
        released.set()
    assert run.state == "failed"
    assert "aggregate 1 has 0 valid updates" in run.sentence
    assert "slow: deadline: no answer before the deadline" in run.sentence
