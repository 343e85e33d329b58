"""The Flower app of a merchant: trains and evaluates on the site's own data.

It runs unchanged under Flower's own engines: everything that it needs comes in the message and the
context. Nothing un-noised is returned.
"""

import functools
import json
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hansa.client.dataset import read_manifest
from hansa.client.entropy import SystemEntropy
from hansa.client.evaluation import (
    Quality,
    encoder_scorer,
    judge,
    noised_metric,
    tower_scorer,
)
from hansa.client.site import Site
from hansa.client.training.distributed import DeviceTraining
from hansa.client.training.round import SiteData, tower_arrays, train_round
from hansa.client.training.round_task import RoundTask
from hansa.client.training.share import share_round
from hansa.client.workshop import Workshop, open_workshop
from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import PUBLIC
from hansa.core.models.tower import Tower
from hansa.core.models.trained import load_arrays, trained_parameters
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.mechanism import Entropy
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
    plan = _plan(context)
    if plan.training.devices > 1:
        training = DeviceTraining.at(Site(_folder(context)))
        return _reply(message, training.train(_task(message, plan)))
    _, workshop = _opened(context)
    return trained(message, plan, workshop, SystemEntropy())


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Noised quality counts on the site's held-out shoppers."""
    plan, workshop = _opened(context)
    released = noised_metric(judged(message, plan, workshop), PrivacyPlan.of(plan), SystemEntropy())
    content = RecordDict({METRICS: MetricRecord({**released, **WEIGHT})})
    return Message(content, reply_to=message)


def trained(message: Message, plan: RunPlan, site: SiteData, entropy: Entropy) -> Message:
    """The reply to a train message, whosever data and entropy they are; trains in this process."""
    work = train_round if plan.privacy.distributed_noise is None else share_round
    return _reply(message, work(_task(message, plan), site, entropy))


def judged(message: Message, plan: RunPlan, site: SiteData) -> Quality:
    """The exact quality of a message's arrays; private wherever the data are."""
    if plan.training.trains != "tower":
        return _judged_encoder(_arrays(message, ARRAYS), plan, site)
    tower = Tower.from_arrays(tower_arrays(_arrays(message, ARRAYS), _arrays(message, PUBLIC)))
    return judge(site.examples, tower_scorer(tower, site.examples, site.embeddings))


def _judged_encoder(arrays: Arrays, plan: RunPlan, site: SiteData) -> Quality:
    with trained_parameters(site.encoder.model, plan.training) as parameters:
        load_arrays(parameters, arrays)
        scorer = encoder_scorer(site.encoder, site.texts, site.examples, site.embeddings)
        return judge(site.examples, scorer)


def _proximal_mu(message: Message) -> float:
    """FedProx' public weight; other strategies send none."""
    found = message.content.config_records["config"].get("proximal-mu", 0.0)
    if not isinstance(found, int | float):
        raise InvalidInputError(f"the proximal weight {found!r} is not a number from 0 up")
    return float(found)


def _task(message: Message, plan: RunPlan) -> RoundTask:
    return RoundTask(
        plan=plan,
        weights=_arrays(message, ARRAYS),
        public=_arrays(message, PUBLIC),
        proximal_mu=_proximal_mu(message),
    )


def _reply(message: Message, arrays: Arrays) -> Message:
    content = RecordDict({ARRAYS: _record(arrays), METRICS: MetricRecord(dict(WEIGHT))})
    return Message(content, reply_to=message)


def _folder(context: Context) -> Path:
    return Path(str(context.node_config["site-folder"]))


def _plan(context: Context) -> RunPlan:
    return parse_plan(json.loads(str(context.run_config["plan"])), "the plan")


def _opened(context: Context) -> tuple[RunPlan, Workshop]:
    ingested = read_manifest(Site(_folder(context)).dataset).model_dump_json()
    return _open(str(_folder(context)), str(context.run_config["plan"]), ingested)


@functools.lru_cache(maxsize=2)
def _open(folder: str, plan_json: str, _ingested: str) -> tuple[RunPlan, Workshop]:
    """Data and embeddings stay in memory from round to round, until other data are ingested."""
    plan = parse_plan(json.loads(plan_json), "the plan")
    return plan, open_workshop(Site(Path(folder)), plan)


def _arrays(message: Message, record: str) -> Arrays:
    return {name: array.numpy() for name, array in message.content.array_records[record].items()}


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})
