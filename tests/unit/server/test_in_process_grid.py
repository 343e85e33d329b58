"""Flower's Grid without a plane: any strategy, any message, errors, states, several processes."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import strategy as flower

from hansa.core.errors import InvalidInputError
from hansa.server.simulation import AppSpec, InProcessGrid
from tests.fakes.simulated_apps import app, fragile

APP = "tests.fakes.simulated_apps:app"
FRAGILE = "tests.fakes.simulated_apps:fragile"
STRATEGIES = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 1.0, "server_momentum": 0.5},
    "FedAdam": {},
    "FedYogi": {},
    "FedAdagrad": {},
    "FedProx": {"proximal_mu": 0.1},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
    "QFedAvg": {"client_learning_rate": 0.1, "q": 0.1},
}


@pytest.fixture(autouse=True)
def _quiet():
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def zeros() -> ArrayRecord:
    return ArrayRecord({"weights": Array(np.zeros(3, np.float32))})


def messages(grid, kind="train", nodes=None) -> list[Message]:
    """One message for each node, all with the same records, as Flower's strategies make them."""
    content = RecordDict({"arrays": zeros(), "config": ConfigRecord({"server-round": 1})})
    wanted = grid.get_node_ids() if nodes is None else nodes
    return [Message(content, dst_node_id=node, message_type=kind) for node in wanted]


def first_number(reply) -> float:
    return float(reply.content.array_records["arrays"]["weights"].numpy()[0])


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_of_flower_runs_on_it_unchanged(name) -> None:
    strategy = getattr(flower, name)(fraction_evaluate=0.0, **STRATEGIES[name])
    result = strategy.start(InProcessGrid(app, 7), zeros(), num_rounds=2)
    weights = result.arrays["weights"].numpy()
    assert np.isfinite(weights).all()
    assert (weights > 0).all()


def test_the_mean_of_merchants_that_add_1_2_and_3_grows_by_2_a_round() -> None:
    strategy = flower.FedAvg(fraction_evaluate=0.0)
    result = strategy.start(InProcessGrid(app, 3), zeros(), num_rounds=3)
    assert result.arrays["weights"].numpy().tolist() == [6.0, 6.0, 6.0]


def test_each_merchant_keeps_a_state_of_its_own_from_message_to_message() -> None:
    grid = InProcessGrid(app, 3)
    grid.send_and_receive(messages(grid))
    grid.send_and_receive(messages(grid, nodes=grid.get_node_ids()[:1]))
    times = [state["asked"]["times"] for _, state in sorted(grid.states().items())]
    assert times == [2, 1, 1]


def test_an_app_that_raises_gives_an_error_reply_and_the_others_go_on() -> None:
    grid = InProcessGrid(fragile, 2)
    replies = grid.send_and_receive(messages(grid))
    assert [reply.has_error() for reply in replies] == [False, True]
    assert replies[1].error.code == 2
    assert replies[1].error.reason == "failed: ValueError: this merchant's disk is full"


def test_the_state_of_a_merchant_whose_app_raised_stays_as_it_was() -> None:
    grid = InProcessGrid(fragile, 2)
    grid.send_and_receive(messages(grid))
    assert [len(state) for _, state in sorted(grid.states().items())] == [1, 0]


def test_messages_of_other_kinds_reach_the_functions_of_that_name() -> None:
    grid = InProcessGrid(app, 2)
    twice = grid.send_and_receive(messages(grid, "train.twice"))
    assert [first_number(reply) for reply in twice] == [2.0, 4.0]
    asked = grid.send_and_receive(messages(grid, "query"))
    assert [dict(reply.content["who"]) for reply in asked] == [
        {"partition-id": 0, "num-partitions": 2},
        {"partition-id": 1, "num-partitions": 2},
    ]


def test_a_kind_that_the_app_does_not_know_is_an_error_reply() -> None:
    grid = InProcessGrid(app, 1)
    assert grid.send_and_receive(messages(grid, "evaluate"))[0].error.code == 2


def test_an_app_that_empties_its_message_empties_nobody_elses() -> None:
    grid = InProcessGrid(app, 2)
    sent = messages(grid, "query")
    grid.send_and_receive(sent)
    assert list(sent[0].content) == ["arrays", "config"]


def test_replies_come_in_the_order_of_the_merchants_whatever_order_they_were_asked_in() -> None:
    grid = InProcessGrid(app, 5)
    replies = grid.send_and_receive(messages(grid, nodes=[6, 2, 4]))
    assert [first_number(reply) for reply in replies] == [1.0, 3.0, 5.0]


def test_replies_name_the_messages_that_they_answer() -> None:
    grid = InProcessGrid(app, 3)
    ids = grid.push_messages(messages(grid))
    replies = grid.pull_messages(ids)
    assert [reply.metadata.reply_to_message_id for reply in replies] == ids
    assert grid.pull_messages(ids) == []


def test_whoever_is_not_reached_or_is_excluded_is_not_among_the_nodes() -> None:
    grid = InProcessGrid(app, ["harbour", "market", "mill"])
    grid.exclude(["market"])
    grid.begin(1, "train")
    assert [grid.names()[node] for node in grid.get_node_ids()] == ["harbour", "mill"]
    grid.reach([4])
    assert grid.get_node_ids() == [4]


def test_the_rows_of_a_round_name_what_each_merchant_sent() -> None:
    grid = InProcessGrid(fragile, ["harbour", "market"], run_id="run")
    grid.begin(3, "train")
    grid.send_and_receive(messages(grid))
    sent, failed = grid.rows(3, "train", ["harbour", "market"])
    assert sent.task_id == "run/3/train/harbour"
    assert (sent.state, failed.state) == ("done", "refused")
    assert sent.result_bytes > 0
    assert failed.result_sha256 is None


def test_who_stops_listening_spares_the_others_the_work() -> None:
    grid = InProcessGrid(app, 4)
    replies = grid.replies(messages(grid), timeout_s=1.0)
    next(replies)
    replies.close()
    assert len(grid.states()) == 1


def test_two_processes_give_the_same_replies_and_states_as_one() -> None:
    found = []
    for workers in (1, 2):
        with InProcessGrid(APP, 5, workers=workers) as grid:
            first = grid.send_and_receive(messages(grid))
            second = grid.send_and_receive(messages(grid))
            states = {node: dict(state["asked"]) for node, state in grid.states().items()}
            values = [first_number(reply) for reply in (*first, *second)]
        found.append((values, states))
    assert found[0] == found[1]
    assert found[0][0] == [1.0, 2.0, 3.0, 4.0, 5.0] * 2


def test_a_process_that_dies_costs_one_merchants_reply_and_is_replaced() -> None:
    with InProcessGrid(FRAGILE, 5, workers=2) as grid:
        for _ in range(2):
            replies = grid.send_and_receive(messages(grid))
            assert [reply.has_error() for reply in replies] == [False, True, True, False, False]
            assert replies[2].error.code == 8


def test_a_process_whose_answer_nobody_waits_for_is_ready_for_the_next_round() -> None:
    with InProcessGrid(APP, 4, workers=2) as grid:
        replies = grid.replies(messages(grid), timeout_s=1.0)
        next(replies)
        replies.close()
        values = [first_number(reply) for reply in grid.send_and_receive(messages(grid))]
    assert values == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_app_that_cannot_be_loaded_is_refused_at_once(workers) -> None:
    with pytest.raises(InvalidInputError, match="is no Flower ClientApp"):
        InProcessGrid("tests.fakes.simulated_apps:not_an_app", 2, workers=workers)


def test_several_processes_need_an_app_by_name() -> None:
    with pytest.raises(InvalidInputError, match="module:object"):
        InProcessGrid(app, 2, workers=2)


def test_public_records_and_settings_reach_every_merchant(tmp_path) -> None:
    from hansa.core.content import Content

    path = tmp_path / "public"
    path.write_bytes(Content(arrays={"arrays": {"weights": np.full(3, 9, np.float32)}}).to_bytes())
    with InProcessGrid(AppSpec(app=APP, public=path), 1) as grid:
        reply = grid.send_and_receive(messages(grid))[0]
    assert first_number(reply) == 10.0
