"""A light app and a strategy for ``simulation.py``: small work shows best what engines cost.

A softmax regression of 578 x 128 = 73,984 numbers, in NumPy alone: three SGD steps on 16 examples.
The virtual merchant's data depend on its place, which comes with the message, so that every engine
trains on the same data whatever ids it gives to nodes.
"""

import random
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

SHAPE = (578, 128)
STEPS, BATCH, RATE = 3, 16, 0.1
PLACE = "place"

Floats = npt.NDArray[np.float32]

app = ClientApp()


@app.train()
def train(message: Message, _context: Context) -> Message:
    """Three steps on the data of the place that the message names."""
    place = int(str(message.content.config_records["config"][PLACE]))
    weights = message.content.array_records["arrays"]["weights"].numpy().copy()
    rng = np.random.default_rng(place)
    for _ in range(STEPS):
        weights -= RATE * _gradient(weights, rng)
    records = {
        "arrays": ArrayRecord({"weights": Array(weights)}),
        "metrics": MetricRecord({"num-examples": 1, PLACE: place}),
    }
    return Message(RecordDict(records), reply_to=message)


def first_model() -> ArrayRecord:
    """Zeros."""
    return ArrayRecord({"weights": Array(np.zeros(SHAPE, np.float32))})


def _gradient(weights: Floats, rng: np.random.Generator) -> Floats:
    inputs = rng.standard_normal((BATCH, SHAPE[0]), dtype=np.float32)
    labels = rng.integers(SHAPE[1], size=BATCH)
    scores = inputs @ weights
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    odds[np.arange(BATCH), labels] -= 1.0
    return np.asarray(inputs.T @ odds / BATCH, np.float32)


class Lottery(FedAvg):
    """FedAvg over the same places in every engine, summed in their order; notes the seconds."""

    def __init__(self, *, places: int, cohort: int, seed: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=places)
        self._places, self._cohort, self._seed = places, cohort, seed
        self._began = 0.0
        self.seconds: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message to each of the round's places."""
        while len(nodes := sorted(grid.get_node_ids())) < self._places:
            time.sleep(0.05)
        self._began = time.perf_counter()
        drawn = random.Random(f"{self._seed}/{server_round}").sample(
            range(self._places), self._cohort
        )
        return [
            Message(
                RecordDict({"arrays": arrays, "config": ConfigRecord({PLACE: place})}),
                dst_node_id=nodes[place],
                message_type="train",
            )
            for place in sorted(drawn)
        ]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Flower's own mean, of the replies in the order of their places."""
        ordered = sorted(
            replies,
            key=lambda reply: int(str(reply.content.metric_records["metrics"][PLACE])),
        )
        if len(ordered) != self._cohort:
            raise RuntimeError(f"{len(ordered)} of {self._cohort} replies came")
        result = super().aggregate_train(server_round, ordered)
        self.seconds.append(time.perf_counter() - self._began)
        return result
