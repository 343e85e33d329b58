"""What the federation gained this shop: every method on the shop's own held-out shoppers.

The figures are exact and private; they stay on the site.
"""

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from hansa.client.dataset import Dataset
from hansa.client.evaluation import Quality, Scorer, baselines, compare
from hansa.client.examples import Integers
from hansa.client.plans import PlanShelf
from hansa.client.retrieval.embedding_cache import EmbeddingCache
from hansa.client.retrieval.serving_model import ServingModel
from hansa.client.site import Site
from hansa.client.updates.installed import InstalledReleases
from hansa.client.workshop import Workshop, open_workshop
from hansa.core.errors import NotFoundError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodFigures(_Part):
    """One method's means over the held-out shoppers."""

    recall_at_10: float
    ndcg_at_10: float


class GainReport(_Part):
    """The shop's own comparison; nan where it has no held-out shopper with a new item."""

    release_version: int
    shoppers: int
    """Held-out shoppers that bought an item which no training saw."""
    methods: dict[str, MethodFigures]


def make_report(site: Site) -> GainReport:
    """Judges the served release and what needs no training.

    Raises:
        NotFoundError: no release is installed, or the site took no part in its run.
    """
    installed = InstalledReleases(site.releases)
    folder, manifest = installed.current(), installed.current_manifest()
    if folder is None or manifest is None:
        raise NotFoundError(
            "no release is installed yet; wait for one, or run 'hansa-client start'"
        )
    plan = PlanShelf(site.plans).find(manifest.plan_digest)
    if plan is None:
        raise NotFoundError("this site took no part in the run of its release; nothing to compare")
    workshop = open_workshop(site, plan)
    scorers = baselines(workshop.examples, workshop.embeddings)
    scorers["federated_dp"] = served_scorer(site, ServingModel.load(folder), workshop)
    qualities = compare(workshop.examples, scorers)
    return GainReport(
        release_version=manifest.version,
        shoppers=len(workshop.examples.cases),
        methods={name: _figures(quality) for name, quality in qualities.items()},
    )


def served_scorer(site: Site, model: ServingModel, workshop: Workshop) -> Scorer:
    """Scores of the release exactly as it is served: int8 embeddings, ONNX tower."""
    texts = [item.text for item in Dataset.load(site.dataset).items]
    embeddings = EmbeddingCache(site.cache).embeddings(model, texts)
    cold = model.item_vectors(embeddings[workshop.examples.cold])

    def score(history: Integers) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.asarray(cold @ model.user_vector(embeddings[history]))

    return score


def _figures(quality: Quality) -> MethodFigures:
    if not quality.shoppers:
        return MethodFigures(recall_at_10=math.nan, ndcg_at_10=math.nan)
    return MethodFigures(recall_at_10=quality.recall, ndcg_at_10=quality.ndcg)
