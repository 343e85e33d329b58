"""How good recommendations of new items are for held-out shoppers, beside what needs no training.

Every scorer ranks all cold items of the shop for one history. Exact results are the shop's own and
stay on the site; ``noised_metric`` is the only form in which quality may leave it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from hansa.client.examples import Examples, Integers
from hansa.client.training.encoder import TITLES, user_text
from hansa.core.errors import InvalidInputError
from hansa.core.metrics import ndcg_at_k, recall_at_k
from hansa.core.models.encoder import Encoder
from hansa.core.models.tower import Tower
from hansa.core.privacy.mechanism import AesNormal, Entropy
from hansa.core.privacy.plan import PrivacyPlan

Floats = npt.NDArray[np.float32]
Scores = npt.NDArray[np.floating]

Scorer = Callable[[Integers], Scores]
"""From a history (places of known items) to one score for each cold item of the shop."""

CUTOFF = 10
RECALL_SUM = "recall-at-10-sum"
SHOPPERS = "shoppers"

_SENSITIVITY = math.sqrt(2.0)
"""One shopper moves (recall sum, count) by at most (1, 1), which is sqrt(2) in L2."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Exact sums over a shop's held-out shoppers; private."""

    shoppers: int = field(repr=False)
    recall_sum: float = field(repr=False)
    ndcg_sum: float = field(repr=False)

    @property
    def recall(self) -> float:
        """Mean recall@10; not a number without shoppers."""
        return self.recall_sum / self.shoppers if self.shoppers else math.nan

    @property
    def ndcg(self) -> float:
        """Mean nDCG@10; not a number without shoppers."""
        return self.ndcg_sum / self.shoppers if self.shoppers else math.nan

    def __add__(self, other: "Quality") -> "Quality":
        """The quality over both shops' shoppers; addition commutes."""
        return Quality(
            shoppers=self.shoppers + other.shoppers,
            recall_sum=self.recall_sum + other.recall_sum,
            ndcg_sum=self.ndcg_sum + other.ndcg_sum,
        )


def judge(examples: Examples, scorer: Scorer) -> Quality:
    """A scorer's quality over the full ranking of the shop's cold items.

    Raises:
        InvalidInputError: the scorer does not give one number for each cold item.
    """
    recalls, ndcgs = [], []
    for case in examples.cases:
        scores = scorer(case.history)
        relevant = np.isin(examples.cold, case.targets)
        recalls.append(recall_at_k(scores, relevant, CUTOFF))
        ndcgs.append(ndcg_at_k(scores, relevant, CUTOFF))
    return Quality(shoppers=len(recalls), recall_sum=sum(recalls), ndcg_sum=sum(ndcgs))


def compare(examples: Examples, scorers: Mapping[str, Scorer]) -> dict[str, Quality]:
    """The quality of each scorer by name; for the shop's own report."""
    return {name: judge(examples, scorer) for name, scorer in scorers.items()}


def baselines(examples: Examples, embeddings: Floats) -> dict[str, Scorer]:
    """What needs no training: ``popularity``, ``zero_shot`` and ``nearest_history``.

    Args:
        examples: the shop's split data.
        embeddings: unit vectors of all its items, ``(items, dim)``.
    """
    return {
        "popularity": popularity(examples, embeddings),
        "zero_shot": zero_shot(examples, embeddings),
        "nearest_history": nearest_history(examples, embeddings),
    }


def popularity(examples: Examples, embeddings: Floats, *, width: float = 0.1) -> Scorer:
    """How many training shoppers bought items of like text; the same for every history.

    A cold item has no sales of its own, so plain popularity ranks at random. Here a known item's
    sales count for it with weight ``exp((cosine - 1) / width)``.
    """
    buyers = np.zeros(len(embeddings))
    for items in examples.training:
        buyers[items] += 1.0
    cosines = embeddings[examples.cold] @ embeddings[examples.known].T
    scores = np.exp((cosines - 1.0) / width) @ buyers[examples.known]
    return lambda _history: scores


def zero_shot(examples: Examples, embeddings: Floats) -> Scorer:
    """Cosine to the mean of the history's embeddings, up to a factor that ranks nothing."""
    cold = embeddings[examples.cold]
    return lambda history: cold @ embeddings[history].mean(axis=0)


def nearest_history(examples: Examples, embeddings: Floats, *, neighbours: int = 3) -> Scorer:
    """Mean cosine to the ``neighbours`` items of the history that are nearest (or to all)."""
    cold = embeddings[examples.cold]

    def score(history: Integers) -> Scores:
        nearest = np.sort(cold @ embeddings[history].T, axis=1)[:, -neighbours:]
        return np.asarray(nearest.mean(axis=1))

    return score


def tower_scorer(tower: Tower, examples: Examples, embeddings: Floats) -> Scorer:
    """The scores of a tower, as the served release computes them."""
    cold = embeddings[examples.cold]

    def score(history: Integers) -> Scores:
        mean = torch.from_numpy(embeddings[history].mean(axis=0, keepdims=True))
        with torch.no_grad():
            return np.asarray(cold @ tower.user_vectors(mean)[0].numpy())

    return score


def encoder_scorer(
    encoder: Encoder, texts: Sequence[str], examples: Examples, embeddings: Floats
) -> Scorer:
    """The scores of the encoder as it is now, against items as the public one embeds them.

    Args:
        encoder: with the arrays that are judged.
        texts: of all the shop's items, in the order of the embeddings.
        examples: the shop's split data.
        embeddings: of all its items by the public encoder, ``(items, dim)``.
    """
    cold = embeddings[examples.cold]

    def score(history: Integers) -> Scores:
        shown = history[np.linspace(0, len(history) - 1, min(TITLES, len(history))).astype(int)]
        return np.asarray(cold @ encoder.embed_texts([user_text(texts, shown)])[0])

    return score


def ensemble(scorers: Sequence[Scorer]) -> Scorer:
    """The sum of several scorers' standardised scores.

    Raises:
        InvalidInputError: no scorer is given.
    """
    if not scorers:
        raise InvalidInputError("an ensemble needs at least one scorer")
    return lambda history: np.sum([_standardised(one(history)) for one in scorers], axis=0)


def noised_metric(quality: Quality, privacy: PrivacyPlan, entropy: Entropy) -> dict[str, float]:
    """The recall sum and the number of held-out shoppers with Gaussian noise; worth one event.

    Divided by sqrt(2) the pair has L2 sensitivity 1, as ``PrivacyPlan.evaluation_event`` demands:
    each number carries noise of standard deviation ``sqrt(2) * evaluation_noise_multiplier``.

    Raises:
        InvalidInputError: the plan lets no metric leave, or the sums are not those of recalls
            between 0 and 1.
    """
    multiplier = privacy.evaluation_noise_multiplier
    if multiplier is None:
        raise InvalidInputError("this plan lets no metric leave the site")
    if not 0.0 <= quality.recall_sum <= quality.shoppers:
        raise InvalidInputError("a sum of recalls lies between 0 and the number of shoppers")
    noise = AesNormal.fresh(entropy).normal(2, std=multiplier * _SENSITIVITY)
    return {
        RECALL_SUM: quality.recall_sum + float(noise[0]),
        SHOPPERS: quality.shoppers + float(noise[1]),
    }


def _standardised(scores: Scores) -> Scores:
    return np.asarray((scores - scores.mean()) / (scores.std() + 1e-9))
