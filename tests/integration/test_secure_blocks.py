"""Blocks of secure rounds over the real plane: keys and shares once, killed ends at any moment.

Seven rounds in blocks of three: 1 to 3, 4 to 6, and 7 alone.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hansa.audit.verifier import verify
from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.evidence import read_pack
from hansa.core.plan import RunPlan
from tests.fakes.toy_federation import FIRST_MODEL, Crash, ToyApplication, toy_plan
from tests.integration.federation_harness import (
    FINISHED,
    TIMEOUT_S,
    Federation,
    Server,
    aggregates,
    refused,
    wait_until,
)
from tests.integration.test_secure_rounds import FaultyOutbox

pytestmark = pytest.mark.integration

STEPS = {"bazaar": 1.0, "harbour": 2.0, "market": 4.0, "stall": 5.0}
ROUNDS = 7
ALL = {"threshold_fraction": 1.0, "prepared_rounds": 3}
"""Everybody must answer to the end of every round."""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


@pytest.fixture
def server(federation: Federation) -> Server:
    return federation.start_server()


@pytest.fixture
def sites(federation: Federation, server: Server) -> dict[str, Site]:
    return {name: federation.join(name) for name in STEPS}


@pytest.fixture
def toys() -> dict[str, ToyApplication]:
    return {name: ToyApplication(step) for name, step in STEPS.items()}


def block_plan(**federation: object) -> RunPlan:
    secure = {"prepared_rounds": 3}
    return toy_plan(**{"secure_aggregation": secure, "quorum": 3, "rounds": ROUNDS, **federation})


def secrets_of(site: Site) -> list[Path]:
    return sorted((site.path / "secure").glob("*.json"))


def wipe(site: Site) -> None:
    """As somebody does who installs the client anew."""
    for path in secrets_of(site):
        path.unlink()


def die() -> None:
    raise Crash


def assert_means(server: Server, run_id: str, steps: list[float]) -> None:
    """By how much each round moved the model."""
    models = [FIRST_MODEL, *aggregates(server, run_id)]
    assert len(models) == len(steps) + 1
    for before, after, step in zip(models, models[1:], steps, strict=False):
        for name, array in before.items():
            assert np.allclose(after[name], array + step, rtol=0, atol=1e-5)


def asked(server: Server, run_id: str, stage: str) -> list[int]:
    """The rounds in which anybody was asked for a stage."""
    rounds = range(1, ROUNDS + 1)
    return [number for number in rounds if server.parts.tasks.asked(run_id, number, stage)]


def paid(site: Site) -> list[str]:
    names = [type(entry.body).__name__ for entry in read_ledger(site.ledger).entries[1:]]
    return [name for name in names if name in ("Reserve", "Commit")]


def test_keys_and_shares_are_exchanged_once_in_a_block_and_every_round_has_its_mean(
    federation: Federation, server: Server, sites: dict[str, Site], toys: dict[str, ToyApplication]
) -> None:
    """The auditor accepts the run's pack."""
    federation.start_clients({sites[name]: toys[name] for name in STEPS})
    run = federation.finish(block_plan())
    assert run.state == "completed", run.sentence
    assert_means(server, run.run_id, [3.0] * ROUNDS)
    for stage in ("keys", "shares"):
        assert asked(server, run.run_id, stage) == [1, 4, 7]
    for stage in ("train", "survivors", "unmask"):
        assert asked(server, run.run_id, stage) == [1, 2, 3, 4, 5, 6, 7]
    for row in run.rounds:
        assert sorted(row.accepted) == sorted(row.cohort) == sorted(STEPS)
    for name, site in sites.items():
        assert toys[name].rounds == [1, 2, 3, 4, 5, 6, 7]
        assert paid(site) == ["Reserve", "Commit"] * ROUNDS
    with federation.operator() as client:
        pack = read_pack(client.pack(run.run_id))
    report = verify(pack, plan_key=sites["market"].settings().plan_public_key)
    assert [check for check in report.checks if not check.passed] == []
    assert [(spend.reservations, spend.commits) for spend in report.spends] == [(7, 7)] * 4


@pytest.mark.parametrize(
    ("stage", "after"),
    [("1/shares", True), ("2/survivors", False), ("2/unmask", False)],
)
def test_a_client_killed_in_the_middle_of_a_block_goes_on_with_its_secrets(
    federation: Federation,
    server: Server,
    sites: dict[str, Site],
    toys: dict[str, ToyApplication],
    stage: str,
    after: bool,
) -> None:
    """All four must answer to the end of every round, so one lost secret would fail the run."""
    federation.start_clients({sites[name]: toys[name] for name in STEPS if name != "stall"})
    killed = federation.start_client(
        sites["stall"],
        toys["stall"],
        lambda folder: FaultyOutbox(folder, stage, die, after=after),
    )
    federation.wait_online(set(STEPS))
    run_id = federation.launch(block_plan(secure_aggregation=ALL, quorum=4, rounds=3))
    assert isinstance(killed.wait(), Crash)
    assert len(secrets_of(sites["stall"])) == 1
    federation.start_client(sites["stall"], toys["stall"])
    run = federation.wait_for(run_id)
    assert run.state == "completed", run.sentence
    assert_means(server, run_id, [3.0] * 3)
    assert toys["stall"].rounds == [1, 2, 3]
    assert paid(sites["stall"]) == ["Reserve", "Commit"] * 3


def test_who_drops_out_of_one_round_of_a_block_is_in_its_next_one(
    federation: Federation, server: Server, sites: dict[str, Site], toys: dict[str, ToyApplication]
) -> None:
    """Killed between the note that it masks and its update: it does not mask a second time."""
    hold = threading.Event()
    toys["bazaar"] = ToyApplication(STEPS["bazaar"], hold=hold, hold_from=3)
    federation.start_clients({sites[name]: toys[name] for name in STEPS if name != "stall"})
    killed = federation.start_client(
        sites["stall"],
        toys["stall"],
        lambda folder: FaultyOutbox(folder, "2/train", die, after=False),
    )
    federation.wait_online(set(STEPS))
    run_id = federation.launch(block_plan(cohort=4, rounds=3))
    assert isinstance(killed.wait(), Crash)
    federation.start_client(sites["stall"], toys["stall"])
    hold.set()
    run = federation.wait_for(run_id)
    assert run.state == "completed", run.sentence
    assert [sorted(refused(row)) for row in run.rounds] == [[], ["stall"], []]
    assert_means(server, run_id, [3.0, 7.0 / 3.0, 3.0])
    assert asked(server, run_id, "keys") == [1]
    assert toys["stall"].rounds == [1, 2, 3]


def test_who_lost_its_secrets_refuses_until_the_next_block(
    federation: Federation, server: Server, sites: dict[str, Site], toys: dict[str, ToyApplication]
) -> None:
    stall = sites["stall"]
    federation.start_clients({sites[name]: toys[name] for name in STEPS if name != "stall"})
    federation.start_client(
        stall,
        toys["stall"],
        lambda folder: FaultyOutbox(folder, "1/survivors", lambda: wipe(stall), after=True),
    )
    federation.wait_online(set(STEPS))
    run = federation.finish(block_plan(rounds=4))
    assert run.state == "completed", run.sentence
    lost = {"stall": "interrupted"}
    assert [refused(row) for row in run.rounds] == [{}, lost, lost, {}]
    assert_means(server, run.run_id, [3.0, *[7.0 / 3.0] * 2, 3.0])
    assert toys["stall"].rounds == [1, 4]


def test_a_merchant_without_budget_is_asked_no_more_in_the_block_either(
    federation: Federation, server: Server, sites: dict[str, Site], toys: dict[str, ToyApplication]
) -> None:
    poor, toy = federation.join("poor", cap=0.001), ToyApplication(9.0)
    federation.start_clients({poor: toy, **{sites[name]: toys[name] for name in STEPS}})
    run = federation.finish(block_plan(rounds=3))
    assert run.state == "completed", run.sentence
    assert [refused(row) for row in run.rounds] == [{"poor": "budget"}, {}, {}]
    assert ["poor" in row.cohort for row in run.rounds] == [True, False, False]
    assert_means(server, run.run_id, [3.0] * 3)


def test_with_fewer_than_the_threshold_of_the_blocks_members_the_run_fails_by_name(
    federation: Federation, server: Server, sites: dict[str, Site], toys: dict[str, ToyApplication]
) -> None:
    """One of four leaves after the first round; another merchant cannot take its place."""
    other, leaving = federation.join("other"), []
    federation.start_clients({sites[name]: toys[name] for name in STEPS if name != "stall"})
    leaving.append(
        federation.start_client(
            sites["stall"],
            toys["stall"],
            lambda folder: FaultyOutbox(
                folder, "1/unmask", lambda: leaving[0].tell_to_stop(), after=True
            ),
        )
    )
    federation.wait_online(set(STEPS))
    run_id = federation.launch(block_plan(secure_aggregation=ALL, quorum=4, deadline_s=4.0))
    leaving[0].wait()
    federation.start_client(other, ToyApplication())
    run = federation.wait_for(run_id)
    assert (run.state, run.rounds_done) == ("failed", 1)
    assert "the threshold is 4" in run.sentence
    assert all("other" not in row.cohort for row in run.rounds)


@pytest.mark.parametrize(("stage", "is_killed"), [("2/train", True), ("5/unmask", False)])
def test_a_server_that_ends_in_the_middle_of_a_block_finds_its_members_again(
    federation: Federation, toys: dict[str, ToyApplication], stage: str, is_killed: bool
) -> None:
    """A client is killed in the same run, in the middle of another block."""
    first = federation.start_server_process() if is_killed else federation.start_server()
    sites = {name: federation.join(name) for name in STEPS}
    reached, hold = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert hold.wait(TIMEOUT_S)

    other = "6/train" if is_killed else "3/survivors"
    federation.start_clients({sites[name]: toys[name] for name in ("bazaar", "harbour")})
    federation.start_client(
        sites["stall"], toys["stall"], lambda folder: FaultyOutbox(folder, stage, wait, after=True)
    )
    killed = federation.start_client(
        sites["market"], toys["market"], lambda folder: FaultyOutbox(folder, other, die, after=True)
    )
    federation.wait_online(set(STEPS))
    run_id = federation.launch(block_plan(secure_aggregation=ALL, quorum=4))
    if not is_killed:
        assert isinstance(killed.wait(), Crash)
        federation.start_client(sites["market"], toys["market"])
    assert reached.wait(TIMEOUT_S)
    first.stop()
    hold.set()
    server = federation.start_server()
    if is_killed:
        assert isinstance(killed.wait(), Crash)
        federation.start_client(sites["market"], toys["market"])
    runs = server.parts.runs
    wait_until("the run's end", lambda: runs.get(run_id).state in FINISHED, 40.0)
    assert runs.get(run_id).state == "completed", runs.get(run_id).sentence
    assert_means(server, run_id, [3.0] * ROUNDS)
    assert asked(server, run_id, "keys") == [1, 4, 7]
    for name, site in sites.items():
        assert toys[name].rounds == [1, 2, 3, 4, 5, 6, 7]
        assert paid(site) == ["Reserve", "Commit"] * ROUNDS
