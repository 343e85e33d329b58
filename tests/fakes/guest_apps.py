"""Flower apps as users write them, for tests on the plane: a model of four numbers."""

import threading
import time

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, fixedclipping_mod
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg as OlderFedAvg
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    FedAvg,
    QFedAvg,
)

CLIENT = "tests.fakes.guest_apps:client"
SERVER = "tests.fakes.guest_apps:server"

HOLD = threading.Event()
"""Where an app waits that was told to."""
ENTERED = threading.Event()
SEEN: list[dict[str, object]] = []
"""What clients saw in their contexts."""


def first_arrays() -> ArrayRecord:
    return ArrayRecord({"w": Array(np.zeros(3, np.float32)), "b": Array(np.array(0.5, np.float32))})


server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = FedAvg(
        fraction_train=float(config.get("fraction-train", 1.0)),
        min_train_nodes=int(config.get("min-nodes", 2)),
        min_evaluate_nodes=1,
        min_available_nodes=int(config.get("min-nodes", 2)),
    )
    rounds = int(config["num-server-rounds"])
    strategy.start(grid=grid, initial_arrays=first_arrays(), num_rounds=rounds)


client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Adds the node's own step; counts its messages in the context's state."""
    state = context.state.config_records.setdefault("state", ConfigRecord({"count": 0}))
    state["count"] = int(str(state["count"])) + 1
    SEEN.append(
        {
            "count": state["count"],
            "node_id": context.node_id,
            "dst": message.metadata.dst_node_id,
            "node_config": dict(context.node_config),
            "run_config": dict(context.run_config),
        }
    )
    if context.node_config.get("fail"):
        raise RuntimeError("shopper 4711 is private")
    if context.node_config.get("hold") and state["count"] == context.node_config["hold"]:
        ENTERED.set()
        HOLD.wait(30)
    step = np.float32(float(context.node_config.get("step", 1.0)))
    arrays = {
        name: Array(np.asarray(array.numpy() + step))
        for name, array in message.content["arrays"].items()
    }
    metrics = MetricRecord({"num-examples": 1, "loss": float("nan")})
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(content, reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    metrics = MetricRecord({"num-examples": 1, "acc": 0.5})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@client.query("statistics")
def query(message: Message, context: Context) -> Message:
    asked = message.content["question"]["words"]
    answer = ConfigRecord({"words": [*asked, str(context.node_config["who"])]})
    return Message(RecordDict({"answer": answer}), reply_to=message)


no_train = ClientApp()


@no_train.evaluate()
def evaluate_only(message: Message, context: Context) -> Message:
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)


asking = ServerApp()
ANSWERS: dict[int, list[str]] = {}


@asking.main()
def ask(grid: Grid, context: Context) -> None:
    """A query with an action and a group, by push and pull; two questions to each node."""
    nodes = list(grid.get_node_ids())
    messages = [
        Message(
            RecordDict({"question": ConfigRecord({"words": [word]})}),
            message_type="query.statistics",
            dst_node_id=node,
            group_id="survey",
        )
        for word in ("first", "second")
        for node in nodes
    ]
    ids = set(grid.push_messages(messages))
    assert len(ids) == 2 * len(nodes)
    replies: list[Message] = []
    while len(replies) < len(ids):
        replies += grid.pull_messages(ids)
        time.sleep(0.02)
    assert list(grid.pull_messages(ids)) == []
    for reply in replies:
        assert reply.metadata.reply_to_message_id in ids
        assert reply.metadata.group_id == "survey"
        assert reply.metadata.message_type == "query.statistics"
        words = ANSWERS.setdefault(reply.metadata.src_node_id, [])
        words.append("-".join(reply.content["answer"]["words"]))


stubborn = ServerApp()


@stubborn.main()
def catch_everything(grid: Grid, context: Context) -> None:
    """An app that goes on whatever the Grid raises, if it can be caught."""
    while True:
        try:
            nodes = list(grid.get_node_ids())
            record = RecordDict({"arrays": first_arrays()})
            grid.send_and_receive([Message(record, node, "train") for node in nodes])
        except Exception:  # noqa: BLE001
            pass


computing = ServerApp()


@computing.main()
def compute(grid: Grid, context: Context) -> None:
    """An app that never looks at its Grid again."""
    ENTERED.set()
    HOLD.wait(60)


drawing = ServerApp()
DRAWN: list[float] = []


@drawing.main()
def draw(grid: Grid, context: Context) -> None:
    """Without a seed of its own: its first model and its choice of nodes are random."""
    arrays = ArrayRecord({"w": Array(np.random.normal(size=3))})  # noqa: NPY002
    DRAWN.append(float(arrays["w"].numpy()[0]))
    strategy = FedAvg(
        fraction_train=0.4, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=2
    )
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)


unsteady = ServerApp()


@unsteady.main()
def change(grid: Grid, context: Context) -> None:
    """Sends another model each time that it runs, whatever the seed."""
    arrays = ArrayRecord({"w": Array(np.array([time.time()]))})
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)


broken = ServerApp()


@broken.main()
def divide(grid: Grid, context: Context) -> None:
    _ = 1 / 0


fair = ServerApp()


@fair.main()
def by_loss(grid: Grid, context: Context) -> None:
    strategy = QFedAvg(client_learning_rate=1.0, q=0.5, fraction_evaluate=0.0)
    strategy.start(grid=grid, initial_arrays=first_arrays(), num_rounds=2)


fair_client = ClientApp()


@fair_client.train()
def train_fair(message: Message, context: Context) -> Message:
    arrays = {
        name: Array(np.asarray(array.numpy() + np.float32(1.0)))
        for name, array in message.content["arrays"].items()
    }
    metrics = MetricRecord({"num-examples": 3, "train_loss": 0.5})
    return Message(
        RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message
    )


clipped = ServerApp()


@clipped.main()
def clip(grid: Grid, context: Context) -> None:
    """Flower's client-side clipping: the wrapper sends the norm, the mod applies it."""
    strategy = DifferentialPrivacyClientSideFixedClipping(
        FedAvg(fraction_evaluate=0.0),
        noise_multiplier=0.0,
        clipping_norm=1.0,
        num_sampled_clients=2,
    )
    strategy.start(grid=grid, initial_arrays=first_arrays(), num_rounds=1)


def _stepping(mods: list[object]) -> ClientApp:
    app = ClientApp()

    @app.train(mods=mods)
    def train_modded(message: Message, context: Context) -> Message:
        return train(message, context)

    return app


clipping_client = _stepping([fixedclipping_mod])
noising_client = _stepping([LocalDpMod(1.0, 1e-9, 10.0, 1e-5)])
sizing_client = _stepping([arrays_size_mod])


class OlderClient(NumPyClient):
    def fit(self, parameters, config):  # type: ignore[no-untyped-def]
        return [parameter + 1 for parameter in parameters], 1, {}


def _older_server(context: Context) -> ServerAppComponents:
    strategy = OlderFedAvg(
        fraction_evaluate=0.0, initial_parameters=ndarrays_to_parameters([np.zeros(3, np.float32)])
    )
    rounds = int(context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))


older_server = ServerApp(server_fn=_older_server)
older_client = ClientApp(client_fn=lambda context: OlderClient().to_client())
NUMBER = 7


looking = ServerApp()
MAINS: list[int] = []


@looking.main()
def look(grid: Grid, context: Context) -> None:
    """Asks each node once, and looks around for a while."""
    MAINS.append(len(MAINS))
    list(grid.send_and_receive(_questions(grid.get_node_ids())))
    for _ in range(8):
        time.sleep(0.1)
        grid.get_node_ids()


pacing = ServerApp()
PACE: list[str] = []
"""What the app is to do next: a merchant's place among the nodes, or 'wait'."""


@pacing.main()
def go_ahead(grid: Grid, context: Context) -> None:
    """Asks single nodes, each of them as often as it likes."""
    nodes = sorted(grid.get_node_ids())
    for step in PACE:
        if step == "wait":
            ENTERED.set()
            while not HOLD.is_set():
                grid.get_node_ids()
                time.sleep(0.02)
            continue
        asked = [nodes[int(place)] for place in step.split("+")]
        left = set(grid.push_messages(_questions(asked)))
        while left:
            left -= {one.metadata.reply_to_message_id for one in grid.pull_messages(left)}
            time.sleep(0.02)


measuring = ServerApp()


@measuring.main()
def measure(grid: Grid, context: Context) -> None:
    """Sends a model to be evaluated, and trains nothing."""
    record = RecordDict({"arrays": first_arrays()})
    nodes = grid.get_node_ids()
    list(grid.send_and_receive([Message(record, node, "evaluate") for node in nodes]))


def _questions(nodes: list[int]) -> list[Message]:
    return [Message(RecordDict({"ask": ConfigRecord({"x": 1})}), node, "train") for node in nodes]
