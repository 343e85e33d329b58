"""What we rely on of Flower, private names included: a version that breaks it fails here first."""

import inspect

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

import hansa.client.application as client_side
import hansa.server.rounds.flower as server_side
from hansa.core.content import Content
from hansa.core.plan import FederationSpec
from hansa.server.rounds.grid import GrpcGrid
from hansa.server.rounds.strategies import make_strategy


class OneNodeGrid:
    """As much of a Grid as a strategy asks before it sends."""

    def get_node_ids(self) -> list[int]:
        return [7]


CONTENT = Content(
    arrays={
        "arrays": {"z": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(0, np.int64)}
    },
    metrics={"metrics": {"num-examples": 1, "score": 0.5, "many": [1.0, 2.0]}},
    configs={"config": {"server-round": 3, "name": "x", "on": True, "raw": b"\x00\xff"}},
)


@pytest.mark.parametrize("side", [server_side, client_side], ids=["server", "client"])
def test_records_come_back_as_they_were_at_both_ends(side) -> None:
    back = side.to_content(side.to_records(CONTENT))
    assert back.metrics == CONTENT.metrics
    assert back.configs == CONTENT.configs
    assert list(back.arrays["arrays"]) == ["z", "a"]
    for name, array in CONTENT.arrays["arrays"].items():
        assert back.arrays["arrays"][name].tobytes() == array.tobytes()


def test_both_ends_make_the_same_file_of_the_same_records() -> None:
    records = server_side.to_records(CONTENT)
    assert server_side.to_content(records).to_bytes() == client_side.to_content(records).to_bytes()


def test_a_strategy_makes_messages_once_the_identity_is_adopted() -> None:
    server_side.adopt_identity()
    strategy = make_strategy(FederationSpec(rounds=1, quorum=1))
    assert isinstance(strategy, FedAvg)
    arrays = ArrayRecord({"a": Array(np.zeros(2, np.float32))})
    messages = list(strategy.configure_train(4, arrays, ConfigRecord(), OneNodeGrid()))
    assert [message.metadata.dst_node_id for message in messages] == [7]
    assert messages[0].content.config_records["config"]["server-round"] == 4


def _metadata() -> Metadata:
    return Metadata(
        run_id=1,
        message_id="",
        src_node_id=7,
        dst_node_id=1,
        reply_to_message_id="task",
        group_id="1",
        created_at=0.0,
        ttl=10.0,
        message_type="train",
    )


def test_equal_weights_make_fedavg_the_plain_mean() -> None:
    server_side.adopt_identity()
    strategy = make_strategy(FederationSpec(rounds=1, quorum=1))
    replies = [
        server_side.make_reply(
            server_side.to_records(
                Content(
                    arrays={"arrays": {"a": np.full(2, value, np.float32)}},
                    metrics={"metrics": {"num-examples": 1}},
                )
            ),
            _metadata(),
        )
        for value in (1.0, 2.0, 6.0)
    ]
    arrays, _ = strategy.aggregate_train(1, replies)
    np.testing.assert_array_equal(arrays["a"].numpy(), [3.0, 3.0])


def test_an_error_reply_carries_its_reason() -> None:
    reply = server_side.make_reply(Error(1, "budget: over the cap"), _metadata())
    assert reply.has_error()
    assert reply.error.reason == "budget: over the cap"
    assert reply.metadata.src_node_id == 7


def test_our_grid_implements_all_of_flowers() -> None:
    assert issubclass(GrpcGrid, Grid)
    assert not inspect.isabstract(GrpcGrid)


def test_a_client_app_is_called_with_message_and_context_alone() -> None:
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(KeyError, match="plan"):
        client_side.app(
            message=Message(RecordDict(), metadata=_metadata()),
            context=context,
        )
