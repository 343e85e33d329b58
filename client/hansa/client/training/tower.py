"""A merchant's steps on the tower in one round."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from hansa.client.training.clipping import ClippedGradients, per_record_gradients
from hansa.client.training.learner import Steps
from hansa.client.training.loss import padded_targets, shopper_losses
from hansa.client.training.objective import Loss, UnitLosses
from hansa.client.training.ranks import ALONE, Ranks
from hansa.client.training.samples import Sample, ShopData
from hansa.core.models.shapes import BIAS, WEIGHT
from hansa.core.models.tower import Floats, Tower
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import Entropy
from hansa.core.update import Arrays

_PART_SIZE = 512  # units in memory at once


def train_tower(
    weights: Arrays,
    data: ShopData,
    plan: RunPlan,
    entropy: Entropy,
    *,
    proximal_mu: float = 0.0,
    ranks: Ranks = ALONE,
    loss: Loss = shopper_losses,
) -> dict[str, Floats]:
    """The round's model after this merchant's ``local_steps``; worth ``round_event()``.

    Args:
        weights: the arrays of the round's tower; see ``Tower.arrays``.
        data: the shop's data; private.
        plan: all constants, public.
        entropy: cryptographic; sampling, choice of records and noise come from it.
        proximal_mu: pulls each step back to the round's model; 0 does not.
        ranks: the processes that take the steps together.
        loss: of each unit by itself; tried out before the first step.

    Returns:
        The new arrays, float32; the public constants among them come back as they were. They hold
        as many numbers whatever the data, and nothing else is returned or logged.

    Raises:
        InvalidInputError: the weights are not those of a tower for these embeddings, the proximal
            weight is not a number from 0 up, or the loss mixes units.
    """
    learner = TowerLearner(weights, data, plan, ranks=ranks, loss=loss)
    Steps(learner=learner, data=data, plan=plan, proximal_mu=proximal_mu, ranks=ranks).train(
        entropy
    )
    return learner.module.arrays()


class TowerLearner:
    """A tower with its loss; see ``Learner``."""

    part_size = _PART_SIZE

    def __init__(
        self,
        weights: Arrays,
        data: ShopData,
        plan: RunPlan,
        *,
        ranks: Ranks = ALONE,
        loss: Loss = shopper_losses,
    ) -> None:
        """See ``train_tower``.

        Raises:
            InvalidInputError: the weights are not those of a tower.
        """
        self.module = Tower.from_arrays(weights).to(ranks.device)
        self._embeddings = torch.from_numpy(data.embeddings).to(ranks.device)
        self._temperature = plan.training.temperature
        self._loss = loss

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What is trained, in the order in which it travels."""
        own = dict(self.module.residual.named_parameters())
        return {name: own[name] for name in (WEIGHT, BIAS)}

    def gradients(self) -> AbstractContextManager[ClippedGradients]:
        """A tower is small: each unit's gradient lies in memory."""
        return per_record_gradients(self.module, tuple(self.parameters.values()))

    def shown(self, sample: Sample, _entropy: Entropy) -> Sample:
        """All of it."""
        return sample

    def losses(self, negatives: Floats) -> UnitLosses:
        """The losses of one step."""
        against = torch.from_numpy(negatives).to(self._embeddings.device)

        def compute(samples: Sequence[Sample]) -> Tensor:
            targets, present = padded_targets(self._embeddings, [one.targets for one in samples])
            return self._loss(self._users(samples), targets, present, against, self._temperature)

        return compute

    def _users(self, samples: Sequence[Sample]) -> Tensor:
        means = [self._embeddings[torch.from_numpy(one.history)].mean(dim=0) for one in samples]
        history = torch.stack(means).requires_grad_()  # else torch's backward hooks warn
        return self.module.user_vectors(history)
