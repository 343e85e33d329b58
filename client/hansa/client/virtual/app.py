"""The merchant's app on virtual shops: the same training, with randomness that repeats itself.

It differs from ``hansa.client.app`` in two points only, and both make it unfit for a real site: the
noise comes from a public seed, and the quality that it returns is exact.
"""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hansa.client.app import METRICS, judged, trained
from hansa.client.evaluation import RECALL_SUM, SHOPPERS
from hansa.client.examples import Examples, make_examples
from hansa.client.training.round import Floats
from hansa.client.virtual.entropy import SeededEntropy
from hansa.client.virtual.market import EMBEDDINGS, Market
from hansa.core.models.encoder import Encoder
from hansa.core.plan import RunPlan, parse_plan

_MERCHANTS_IN_MEMORY = 20_000

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The round's model after this virtual merchant's noised steps."""
    shop = _shop(context)
    round_number = int(str(message.content.config_records["config"]["server-round"]))
    label = f"{context.node_config['partition-id']}/{round_number}/train"
    entropy = SeededEntropy(int(str(context.run_config["seed"])), label)
    return trained(message, shop.market.plan, shop, entropy)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Exact quality sums over this virtual merchant's held-out shoppers."""
    shop = _shop(context)
    quality = judged(message, shop.market.plan, shop)
    exact = MetricRecord({RECALL_SUM: quality.recall_sum, SHOPPERS: float(quality.shoppers)})
    return Message(RecordDict({METRICS: exact}), reply_to=message)


@dataclass(frozen=True, kw_only=True)
class _OpenMarket:
    """What all virtual merchants of this process share."""

    plan: RunPlan
    market: Market
    keys: tuple[str, ...]
    texts: tuple[str, ...]
    embeddings: Floats
    base_model: Path

    @functools.cached_property
    def encoder(self) -> Encoder:
        """Loaded only where a plan trains within it."""
        return Encoder.load(self.base_model, max_tokens=self.plan.model.max_tokens)


@dataclass(frozen=True, kw_only=True)
class _Shop:
    """One virtual merchant's data, as ``hansa.client.app.SiteData``."""

    market: _OpenMarket
    examples: Examples = field(repr=False)

    @property
    def embeddings(self) -> Floats:
        return self.market.embeddings

    @property
    def texts(self) -> tuple[str, ...]:
        return self.market.texts

    @property
    def encoder(self) -> Encoder:
        return self.market.encoder


def _shop(context: Context) -> _Shop:
    settings = context.run_config
    return _open_shop(
        str(settings["folder"]),
        str(settings["plan"]),
        str(settings["base-model"]),
        int(str(context.node_config["partition-id"])),
    )


@functools.lru_cache(maxsize=_MERCHANTS_IN_MEMORY)
def _open_shop(folder: str, plan_json: str, base_model: str, merchant: int) -> _Shop:
    opened = _open_market(folder, plan_json, base_model)
    shoppers = opened.market.shoppers_of(merchant)
    return _Shop(market=opened, examples=make_examples(shoppers, opened.keys, opened.plan.task))


@functools.lru_cache(maxsize=1)
def _open_market(folder: str, plan_json: str, base_model: str) -> _OpenMarket:
    """One thread for torch: sums round alike in every process, and processes do the rest."""
    torch.set_num_threads(1)
    market = Market.open(Path(folder))
    return _OpenMarket(
        plan=parse_plan(json.loads(plan_json), "the plan"),
        market=market,
        keys=tuple(item.key for item in market.items),
        texts=tuple(item.text for item in market.items),
        embeddings=np.load(Path(folder) / EMBEDDINGS, allow_pickle=False),
        base_model=Path(base_model),
    )
