"""What is trained in one round, and the steps that train it: the same for every kind of model."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from hansa.client.training.clipping import ClippedGradients
from hansa.client.training.objective import UnitLosses, check_losses
from hansa.client.training.optimizer import NoisyOptimizer
from hansa.client.training.ranks import ALONE, Ranks
from hansa.client.training.samples import Sample, ShopData, Units, draw_negatives
from hansa.client.training.step import check_trained_set, clipped_step_sum
from hansa.core.models.tower import Floats
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import Entropy
from hansa.core.privacy.plan import PrivacyPlan


class Learner(Protocol):
    """A model with its loss, as the steps need it."""

    @property
    def module(self) -> nn.Module:
        """What the losses are computed with."""
        ...

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What is trained, by name, in the order in which it travels."""
        ...

    @property
    def part_size(self) -> int:
        """Units in memory at once."""
        ...

    def gradients(self) -> AbstractContextManager[ClippedGradients]:
        """How this model's clipped sums are computed."""
        ...

    def shown(self, sample: Sample, entropy: Entropy) -> Sample:
        """So much of a sample as the model looks at."""
        ...

    def losses(self, negatives: Floats) -> UnitLosses:
        """The losses of one step, against the step's public negatives."""
        ...


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of one merchant in one round; all that is drawn comes from the entropy."""

    learner: Learner
    data: ShopData
    plan: RunPlan
    proximal_mu: float = 0.0
    ranks: Ranks = ALONE

    def train(self, entropy: Entropy) -> None:
        """Takes the plan's local steps, no more and no fewer; worth ``round_event()``.

        Raises:
            InvalidInputError: the loss mixes units, or the trained set changes on the way.
            WorkInterruptedError: the work is not wanted any more.
        """
        privacy = PrivacyPlan.of(self.plan)
        optimizer = NoisyOptimizer(
            self._parameters(),
            self.plan.training,
            privacy,
            self.ranks.noise(entropy, privacy),
            proximal_mu=self.proximal_mu,
            ranks=self.ranks,
        )
        shared = self.ranks.entropy(entropy)
        units = Units.of(self.data, privacy, shared)
        self._check_losses()
        with self.learner.gradients() as gradients:
            for step in range(privacy.local_steps):
                optimizer.step(self._sum(gradients, units, step, shared))
        optimizer.finish()

    def one_sum(self, step: int, entropy: Entropy) -> Tensor:
        """The clipped sum of one step WITHOUT noise, ``(parameters,)``, float64: private.

        Args:
            step: its number in the round, from 0.
            entropy: cryptographic.
        """
        self._check_losses()
        units = Units.of(self.data, PrivacyPlan.of(self.plan), entropy)
        with self.learner.gradients() as gradients:
            return self._sum(gradients, units, step, entropy)

    def _sum(self, gradients: ClippedGradients, units: Units, step: int, shared: Entropy) -> Tensor:
        check_trained_set(self.learner.module, self._parameters())
        negatives = draw_negatives(self.data.negatives, self.plan.training.negatives, shared)
        samples = [self.learner.shown(one, shared) for one in units.draw(step, shared)]
        return clipped_step_sum(
            gradients,
            self.ranks.share(samples),
            self.learner.losses(negatives),
            clip_norm=units.privacy.clip_norm,
            part_size=self.learner.part_size,
            parameters=self._parameters(),
        )

    def _check_losses(self) -> None:
        losses = self.learner.losses(self.data.negatives[: self.plan.training.negatives])
        check_losses(self.learner.module, losses, len(self.data.embeddings))

    def _parameters(self) -> Sequence[nn.Parameter]:
        return tuple(self.learner.parameters.values())
