"""The Flower app of a merchant: trains and evaluates on the site's own data.

It runs unchanged under Flower's own engines: everything that it needs comes in the message and the
context. Nothing un-noised is returned.
"""

import functools
import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hansa.client.dataset import read_manifest
from hansa.client.entropy import SystemEntropy
from hansa.client.evaluation import judge, noised_metric, tower_scorer
from hansa.client.site import Site
from hansa.client.training.lora import TextData, train_lora
from hansa.client.training.samples import ShopData
from hansa.client.training.tower import train_tower
from hansa.client.workshop import Workshop, open_workshop
from hansa.core.models.shapes import NEGATIVES, PUBLIC, TRAINED
from hansa.core.models.tower import Tower
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.update import Arrays

ARRAYS = "arrays"
METRICS = "metrics"
WEIGHT = {"num-examples": 1}
"""Every merchant weighs the same: a true count would be private, and could be inflated."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The round's model after this merchant's noised steps."""
    plan, workshop = _opened(context)
    weights, public = _arrays(message, ARRAYS), _arrays(message, PUBLIC)
    trained = _train(plan, workshop, weights, public)
    content = RecordDict({ARRAYS: _record(trained), METRICS: MetricRecord(dict(WEIGHT))})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Noised quality counts on the site's held-out shoppers."""
    plan, workshop = _opened(context)
    tower = Tower.from_arrays(_tower_arrays(_arrays(message, ARRAYS), _arrays(message, PUBLIC)))
    quality = judge(workshop.examples, tower_scorer(tower, workshop.examples, workshop.embeddings))
    released = noised_metric(quality, PrivacyPlan.of(plan), SystemEntropy())
    content = RecordDict({METRICS: MetricRecord({**released, **WEIGHT})})
    return Message(content, reply_to=message)


def _train(plan: RunPlan, workshop: Workshop, weights: Arrays, public: Arrays) -> Arrays:
    shop = ShopData(
        shoppers=workshop.examples.training,
        embeddings=workshop.embeddings,
        negatives=np.asarray(public[NEGATIVES], np.float32),
    )
    if plan.training.trains == "lora":
        data = TextData(shop=shop, texts=workshop.texts)
        return train_lora(weights, data, plan, workshop.encoder, SystemEntropy())
    tower = train_tower(_tower_arrays(weights, public), shop, plan, SystemEntropy())
    return {name: tower[name] for name in TRAINED}


def _tower_arrays(weights: Arrays, public: Arrays) -> Arrays:
    constants = {name: array for name, array in public.items() if name != NEGATIVES}
    return {**constants, **weights}


def _opened(context: Context) -> tuple[RunPlan, Workshop]:
    folder, plan = str(context.node_config["site-folder"]), str(context.run_config["plan"])
    ingested = read_manifest(Site(Path(folder)).dataset).model_dump_json()
    return _open(folder, plan, ingested)


@functools.lru_cache(maxsize=2)
def _open(folder: str, plan_json: str, _ingested: str) -> tuple[RunPlan, Workshop]:
    """Data and embeddings stay in memory from round to round, until other data are ingested."""
    plan = parse_plan(json.loads(plan_json), "the plan")
    return plan, open_workshop(Site(Path(folder)), plan)


def _arrays(message: Message, record: str) -> Arrays:
    return {name: array.numpy() for name, array in message.content.array_records[record].items()}


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})
