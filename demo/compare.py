#!/usr/bin/env python3
"""What training, noise and federation are worth, on the same held-out shoppers of the four shops.

Only the demo can do this, because it plays all roles on one machine; in a federation these exact
figures stay at each merchant. Recall@10 is hits / min(10, number of targets), over the full ranking
of the shop's cold items; the means are over all held-out shoppers of all shops.

* ``federated_dp`` is the release exactly as the sites serve it (int8 encoder, ONNX tower).
* ``federated`` repeats the run in this process with clipping and next to no noise.
* ``local_dp`` is what each shop could do alone: the same plan at the same epsilon with noise, the
  mean of several repetitions. ``local_dp_tuned`` takes the learning rate that was best for training
  alone on other stores, a harder opponent.
* ``federated_dp_repeated`` is the mean and the standard deviation of repetitions of the federated
  run in this process: one run's noise moves its figure by about 0.02.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import beside
import numpy as np
import torch

from hansa.client.dataset import Dataset
from hansa.client.entropy import SystemEntropy
from hansa.client.evaluation import Quality, Scorer, baselines, judge, tower_scorer
from hansa.client.report import served_scorer
from hansa.client.retrieval.embedding_cache import EmbeddingCache
from hansa.client.retrieval.serving_model import ServingModel
from hansa.client.site import Site
from hansa.client.training.samples import ShopData
from hansa.client.training.tower import train_tower
from hansa.client.updates.installed import InstalledReleases
from hansa.client.workshop import Workshop, open_workshop
from hansa.core.content import Content
from hansa.core.models.shapes import BASIS, NEGATIVES, PUBLIC
from hansa.core.models.tower import Tower
from hansa.core.plan import RunPlan, read_plan
from hansa.core.privacy.accounting import epsilon_pld, round_up
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.update import Arrays

TUNED_LOCAL_RATE = 0.1
REPETITIONS = 5
NEXT_TO_NO_NOISE = 1e-6


class Shop:
    """One site's data and release, opened once."""

    def __init__(self, folder: Path, plan: RunPlan) -> None:
        site = Site(folder)
        self.workshop: Workshop = open_workshop(site, plan)
        self.public = _public(site)
        release = InstalledReleases(site.releases).current()
        if release is None:
            raise SystemExit(f"{folder} has no release")
        model = ServingModel.load(release)
        self.served: Scorer = served_scorer(site, model, self.workshop)
        self.shelf = beside.Shelf(
            dataset=Dataset.load(site.dataset),
            base=self.workshop.embeddings,
            served=EmbeddingCache(site.cache).embeddings(model, self.workshop.texts),
            model=model,
        )

    @property
    def data(self) -> ShopData:
        """What training may read."""
        return ShopData(
            shoppers=self.workshop.examples.training,
            embeddings=self.workshop.embeddings,
            negatives=np.asarray(self.public[NEGATIVES], np.float32),
        )

    def first(self) -> Arrays:
        """The arrays of the zero-shot tower with the run's own constants."""
        constants = {
            name: torch.tensor(array) for name, array in self.public.items() if name != NEGATIVES
        }
        return Tower(constants["center"], constants[BASIS]).arrays()

    def judge(self, model: Arrays) -> Quality:
        """A tower's quality on this shop's held-out shoppers."""
        scorer = tower_scorer(
            Tower.from_arrays(model), self.workshop.examples, self.workshop.embeddings
        )
        return judge(self.workshop.examples, scorer)


def main() -> None:
    """Writes the comparison as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("sites", type=Path, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = read_plan(options.plan)
    shops = [Shop(folder, plan) for folder in options.sites]
    options.out.write_text(json.dumps(compare(plan, shops), indent=2) + "\n", encoding="utf-8")


def compare(plan: RunPlan, shops: Sequence[Shop]) -> dict[str, Any]:
    """All methods' figures, by method and by shop."""
    rows: dict[str, list[Quality]] = {}
    for shop in shops:
        for name, scorer in baselines(shop.workshop.examples, shop.workshop.embeddings).items():
            rows.setdefault(name, []).append(judge(shop.workshop.examples, scorer))
        rows.setdefault("federated_dp", []).append(judge(shop.workshop.examples, shop.served))
    rows["local_dp"] = _local(plan, shops)
    rows["local_dp_tuned"] = _local(_with_rate(plan, TUNED_LOCAL_RATE), shops)
    rows["federated"] = _judged(_federated(_without_noise(plan), shops), shops)
    repeated = [_judged(_federated(plan, shops), shops) for _ in range(REPETITIONS)]
    return {
        "task": "recommend newly listed items (cold) from a shopper's history",
        "metric": "recall@10",
        **{name: round(_pooled(qualities).recall, 4) for name, qualities in rows.items()},
        "epsilon": _epsilon(plan),
        "held_out_shoppers": _pooled(rows["federated_dp"]).shoppers,
        "ndcg_at_10": {name: round(_pooled(qualities).ndcg, 4) for name, qualities in rows.items()},
        "repetitions": REPETITIONS,
        "federated_dp_repeated": _spread([_pooled(one).recall for one in repeated]),
        "beside": {
            "next_purchase_recall_at_10": beside.pooled(
                [beside.next_purchase(shop.shelf, plan.task) for shop in shops]
            ),
            "search_ndcg_at_10": beside.pooled([beside.search(shop.shelf) for shop in shops]),
        },
    }


def _judged(model: Arrays, shops: Sequence[Shop]) -> list[Quality]:
    return [shop.judge(model) for shop in shops]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": round(float(np.mean(values)), 4),
        "std": round(float(np.std(values, ddof=1)), 4),
    }


def _federated(plan: RunPlan, shops: Sequence[Shop]) -> Arrays:
    model, aggregates = shops[0].first(), []
    for _ in range(plan.federation.rounds):
        updates = [train_tower(model, shop.data, plan, SystemEntropy()) for shop in shops]
        model = _mean(updates)
        aggregates.append(model)
    return _tail(aggregates, plan)


def _local(plan: RunPlan, shops: Sequence[Shop]) -> list[Quality]:
    return [quality for shop in shops for quality in _alone(plan, shop)]


def _alone(plan: RunPlan, shop: Shop) -> Iterator[Quality]:
    """The same number of steps without anybody else, again and again."""
    for _ in range(REPETITIONS):
        model, iterates = shop.first(), []
        for _ in range(plan.federation.rounds):
            model = train_tower(model, shop.data, plan, SystemEntropy())
            iterates.append(model)
        yield shop.judge(_tail(iterates, plan))


def _tail(models: Sequence[Arrays], plan: RunPlan) -> Arrays:
    return _mean(models[-max(1, round(len(models) * plan.federation.tail_fraction)) :])


def _mean(models: Sequence[Arrays]) -> dict[str, Any]:
    return {
        name: np.mean([model[name] for model in models], axis=0, dtype=np.float32)
        for name in models[0]
    }


def _pooled(qualities: Sequence[Quality]) -> Quality:
    return sum(qualities, Quality(shoppers=0, recall_sum=0.0, ndcg_sum=0.0))


def _with_rate(plan: RunPlan, rate: float) -> RunPlan:
    return plan.model_copy(
        update={"training": plan.training.model_copy(update={"learning_rate": rate})}
    )


def _without_noise(plan: RunPlan) -> RunPlan:
    privacy = plan.privacy.model_copy(update={"noise_multiplier": NEXT_TO_NO_NOISE})
    return plan.model_copy(update={"privacy": privacy})


def _epsilon(plan: RunPlan) -> float:
    privacy = PrivacyPlan.of(plan)
    return float(round_up(epsilon_pld(privacy.run_events(), privacy.delta)))


def _public(site: Site) -> Arrays:
    """The public context of the tower run, as the site fetched it."""
    for path in sorted(site.contexts.rglob("*")):
        if path.is_file():
            arrays = Content.from_bytes(path.read_bytes()).arrays[PUBLIC]
            if BASIS in arrays:
                return arrays
    raise SystemExit(f"{site.path} took part in no tower run")


if __name__ == "__main__":
    main()
