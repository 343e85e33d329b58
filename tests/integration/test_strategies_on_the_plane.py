"""Flower's strategies in plans of ours, over real gRPC: seven merchants, each with its own step."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.plan import RunPlan
from tests.fakes.toy_federation import FIRST_MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import Federation, aggregates

pytestmark = pytest.mark.integration

STEPS = dict(zip(("a", "b", "c", "d", "e", "f", "g"), range(1, 8), strict=True))
MEAN = 4.0

OPTIONS: dict[str, dict[str, object]] = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 0.5},
    "FedAdam": {"eta": 0.5},
    "FedYogi": {"eta": 0.5},
    "FedAdagrad": {"eta": 0.5},
    "FedProx": {"proximal_mu": 0.5},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 7},
    "Bulyan": {"num_malicious_nodes": 1},
}


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


def plan(strategy: str, *, rounds: int = 2, quorum: int = 7, **options: object) -> RunPlan:
    return toy_plan(
        strategy.lower().replace(":", "-").replace(".", "-").replace("_", "-")[-40:].strip("-"),
        rounds=rounds,
        quorum=quorum,
        strategy=strategy,
        options=options,
    )


def moved(arrays: object) -> float:
    """How far the first number went."""
    return float(arrays["weights"][0] - FIRST_MODEL["weights"][0])  # type: ignore[index]


def test_every_strategy_runs_by_name_over_the_plane(federation: Federation) -> None:
    """The mean, the median and the trimmed mean of the steps 1 to 7 are all 4."""
    server = federation.start_server()
    toys = {federation.join(name, cap=50.0): ToyApplication(step) for name, step in STEPS.items()}
    federation.start_clients(toys)
    ends = {}
    for name, options in OPTIONS.items():
        run = federation.finish(plan(name, **options))
        assert (run.state, run.rounds_done) == ("completed", 2), (name, run.sentence)
        ends[name] = [moved(arrays) for arrays in aggregates(server, run.run_id)]
    for name in ("FedAvg", "FedProx", "FedMedian", "FedTrimmedAvg", "MultiKrum", "Bulyan"):
        np.testing.assert_allclose(ends[name], [MEAN, 2 * MEAN], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(ends["FedAvgM"], [0.5 * MEAN, MEAN], rtol=1e-6)
    assert ends["Krum"][0] in STEPS.values()  # one update, as it is
    for name in ("FedAdam", "FedYogi", "FedAdagrad"):
        first, second = ends[name]
        assert 0.0 < first < 0.5 * 1.01, name  # at most eta a round while moments begin
        assert second > first, name


def test_a_strategys_memory_survives_the_server(federation: Federation) -> None:
    """A run whose server is replaced after two rounds ends with the numbers of one that was not."""
    server = federation.start_server()
    sites = {name: federation.join(name) for name in ("a", "b")}
    hold = threading.Event()
    toys = {name: ToyApplication(3.0, hold=hold, hold_from=3) for name in sites}
    federation.start_clients({sites[name]: toys[name] for name in sites})
    adam = plan("FedAdam", rounds=4, quorum=2, eta=0.5)
    broken = federation.launch(adam)
    assert all(toy.held.wait(20) for toy in toys.values())
    server.stop()
    server = federation.start_server()
    hold.set()
    assert federation.wait_for(broken).state == "completed"
    straight = federation.finish(adam)
    for found, expected in zip(
        aggregates(server, broken), aggregates(server, straight.run_id), strict=True
    ):
        for name, array in expected.items():
            assert np.array_equal(found[name], array), name


def test_a_strategy_of_ones_own_runs_once_the_operator_allows_it(federation: Federation) -> None:
    server = federation.start_server()
    federation.start_clients({federation.join("a"): ToyApplication(3.0)})
    own = plan("tests.unit.server.own_strategies:Halved", quorum=1, factor=0.5)
    with pytest.raises(UnauthorisedError, match="not on the list"):
        federation.launch(own)
    federation.allow(own.federation.strategy)
    run = federation.finish(own)
    assert run.state == "completed", run.sentence
    assert [moved(arrays) for arrays in aggregates(server, run.run_id)] == [3.0, 6.0]


def test_what_cannot_run_is_refused_at_launch(federation: Federation) -> None:
    federation.start_server()
    with pytest.raises(InvalidInputError, match="no merchant lets its loss out"):
        federation.launch(plan("QFedAvg", client_learning_rate=0.1))
    with pytest.raises(InvalidInputError, match="FedAvg has no such option"):
        federation.launch(plan("FedAvg", eta=0.1))
