"""Flower apps for simulated merchants; named, so that worker processes can load them.

``app`` adds the merchant's place, plus one, to every number, and counts in its state how often it
was asked. ``fragile`` does the same, but merchant 1 raises and merchant 2 ends its process.
"""

import os

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
fragile = ClientApp()
not_an_app = object()


def _trained(message: Message, context: Context) -> Message:
    place = int(context.node_config["partition-id"])
    asked = 1 + int(context.state.metric_records.get("asked", {"times": 0})["times"])
    context.state["asked"] = MetricRecord({"times": asked})
    arrays = ArrayRecord(
        {
            name: Array((array.numpy() + place + 1).astype(np.float32))
            for name, array in message.content.array_records["arrays"].items()
        }
    )
    metrics = MetricRecord({"num-examples": 1, "train_loss": 1.0, "asked": asked})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    return _trained(message, context)


@app.train("twice")
def train_twice(message: Message, context: Context) -> Message:
    return _trained(_trained(message, context), context)


@app.query()
def who(message: Message, context: Context) -> Message:
    settings = {name: int(value) for name, value in context.node_config.items()}
    message.content.clear()  # must not reach the other merchants
    return Message(RecordDict({"who": MetricRecord(settings)}), reply_to=message)


@fragile.train()
def train_or_fail(message: Message, context: Context) -> Message:
    reply = _trained(message, context)
    if context.node_config["partition-id"] == 1:
        raise ValueError("this merchant's disk is full")
    if context.node_config["partition-id"] == 2:
        os._exit(3)
    return reply
