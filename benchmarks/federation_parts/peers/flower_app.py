"""The benchmarks' model and trivial training as an app for Flower's own engine.

Numbers come from the run's configuration; each round's beginning and end are written to a file.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server_app = ServerApp()
client_app = ClientApp()


class TimedFedAvg(FedAvg):
    """FedAvg that writes down when each round began and ended."""

    marks: Path
    _began: float

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The round begins."""
        self._began = time.monotonic()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The round ends with its aggregate."""
        replies = list(replies)
        valid = sum(not reply.has_error() for reply in replies)
        aggregate = super().aggregate_train(server_round, replies)
        mark = {"round": server_round, "wall_s": time.monotonic() - self._began, "valid": valid}
        with self.marks.open("a") as file:
            file.write(json.dumps(mark) + "\n")
        return aggregate


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Some rounds of plain averaging over all nodes."""
    config = context.run_config
    nodes = int(config["nodes"])
    strategy = TimedFedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=nodes,
        min_available_nodes=nodes,
    )
    strategy.marks = Path(str(config["marks"]))
    rng = np.random.default_rng(1)
    values = int(config["values"])
    model = {
        f"layer-{number:03d}": Array(rng.standard_normal(values, np.float32))
        for number in range(int(config["arrays"]))
    }
    strategy.start(grid, ArrayRecord(model), num_rounds=int(config["rounds"]))


@client_app.train()
def train(message: Message, _context: Context) -> Message:
    """Adds a number to every value."""
    arrays = message.content.array_records["arrays"]
    update = ArrayRecord(
        {name: Array(array.numpy() + np.float32(0.001)) for name, array in arrays.items()}
    )
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": update, "metrics": metrics}), reply_to=message)
