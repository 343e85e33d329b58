"""A merchant's steps on the tower in one round."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hansa.client.training.loss import padded_targets, shopper_losses
from hansa.client.training.optimizer import ShopperDPOptimizer, per_record_gradients
from hansa.client.training.ranks import ALONE, Ranks
from hansa.client.training.samples import Sample, ShopData, draw_negatives, draw_samples
from hansa.client.training.step import take_step
from hansa.core.models.tower import Floats, Tower
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import Entropy
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.update import Arrays

_PART_SIZE = 512  # shoppers in memory at once


def train_tower(
    weights: Arrays,
    data: ShopData,
    plan: RunPlan,
    entropy: Entropy,
    *,
    proximal_mu: float = 0.0,
    ranks: Ranks = ALONE,
) -> dict[str, Floats]:
    """The round's model after this merchant's ``local_steps``; worth ``round_event()``.

    Args:
        weights: the arrays of the round's tower; see ``Tower.arrays``.
        data: the shop's data; private.
        plan: all constants, public.
        entropy: cryptographic; sampling, choice of records and noise come from it.
        proximal_mu: pulls each step back to the round's model; 0 does not.
        ranks: the processes that take the steps together.

    Returns:
        The new arrays, float32; the public constants among them come back as they were. They hold
        as many numbers whatever the data, and nothing else is returned or logged.

    Raises:
        InvalidInputError: the weights are not those of a tower for these embeddings, or the
            proximal weight is not a number from 0 up.
    """
    tower = Tower.from_arrays(weights).to(ranks.device)
    privacy = PrivacyPlan.of(plan)
    inner = torch.optim.SGD(tower.parameters(), lr=plan.training.learning_rate)
    optimizer = ShopperDPOptimizer(
        inner, privacy, ranks.noise(entropy), proximal_mu=proximal_mu, ranks=ranks
    )
    shared = ranks.entropy(entropy)
    embeddings = torch.from_numpy(data.embeddings).to(ranks.device)
    with per_record_gradients(tower):
        for _ in range(privacy.local_steps):
            negatives = draw_negatives(data.negatives, plan.training.negatives, shared)
            objective = _Objective(tower, embeddings, negatives, plan)
            samples = ranks.share(draw_samples(data.shoppers, privacy, shared))
            take_step(optimizer, samples, objective, _PART_SIZE)
    return tower.arrays()


class _Objective:
    """The losses of one step, against the step's public negatives."""

    def __init__(self, tower: Tower, embeddings: Tensor, negatives: Floats, plan: RunPlan) -> None:
        self._tower = tower
        self._embeddings = embeddings
        self._negatives = torch.from_numpy(negatives).to(embeddings.device)
        self._temperature = plan.training.temperature

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        means = [self._embeddings[torch.from_numpy(one.history)].mean(dim=0) for one in samples]
        targets, present = padded_targets(self._embeddings, [one.targets for one in samples])
        history = torch.stack(means).requires_grad_()  # else torch's backward hooks warn
        users = self._tower.user_vectors(history)
        return shopper_losses(users, targets, present, self._negatives, self._temperature)
