"""The only way from a clipped sum to a model: noise, a public divisor, and an ordinary optimiser.

A step releases ``(S + noise) / expected_shoppers`` with S the clipped sum of
``hansa.client.training.clipping``. Whatever follows sees nothing else of the data, and is
post-processing: plain descent, AdamW's means of noised gradients (which live for one round and
never leave), weight decay, FedProx' pull, the mean over a round's last iterates.

References:
    Abadi et al., "Deep learning with differential privacy", arXiv:1607.00133.
    Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv:1711.05101.
    Li et al., "Federated optimization in heterogeneous networks" (FedProx), arXiv:1812.06127.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hansa.client.training.ranks import ALONE, Ranks
from hansa.core.errors import InvalidInputError
from hansa.core.plan import TrainingSpec
from hansa.core.privacy.noise import NoiseStream
from hansa.core.privacy.plan import PrivacyPlan


class NoisyOptimizer:
    """Noises clipped sums, and moves the parameters by them.

    With a ``proximal_mu`` each step also pulls back to where the parameters began: to the noised
    gradient comes that of ``mu / 2 * ||w - w0||^2``. It is made of public weights alone, so it is
    neither clipped nor noised, and costs no privacy (FedProx).
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        training: TrainingSpec,
        privacy: PrivacyPlan,
        noise: NoiseStream | None,
        *,
        proximal_mu: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Takes the parameters in the order of the clipped sums; ``privacy`` is public.

        ``noise`` is the stream of the first of the ``ranks`` that train together; the others have
        none.

        Raises:
            InvalidInputError: there is no parameter that can be trained, or the proximal weight is
                negative or not finite.
        """
        if not parameters or not all(one.requires_grad for one in parameters):
            raise InvalidInputError("nothing can be trained: no parameter requires a gradient")
        if not (math.isfinite(proximal_mu) and proximal_mu >= 0.0):
            raise InvalidInputError(f"the proximal weight {proximal_mu} is not a number from 0 up")
        self._parameters = tuple(parameters)
        self._inner = _inner(self._parameters, training)
        self._privacy = privacy
        self._noise = noise
        self._ranks = ranks
        self._proximal_mu = proximal_mu
        self._anchors = [parameter.detach().clone() for parameter in self._parameters]
        self._tail = _Tail(self._parameters, training, privacy.local_steps)
        self.steps = 0
        """Steps taken so far; each is one step of the event that is booked."""

    def step(self, clipped: Tensor) -> None:
        """One step of the event: the ranks' sums, noise drawn once, the divisor, the optimiser.

        Args:
            clipped: this rank's clipped sum, ``(parameters,)``, float64.

        Raises:
            InvalidInputError: the plan's steps are used up, or the sum is of other parameters.
        """
        if self.steps == self._privacy.local_steps:
            raise InvalidInputError(
                f"the plan books {self.steps} steps a round: end the round, or take another plan"
            )
        sizes = [one.numel() for one in self._parameters]
        if clipped.shape != (sum(sizes),):
            raise InvalidInputError("the clipped sum is of other parameters than are trained")
        released = self._noised(clipped) / self._privacy.expected_shoppers
        for one, part in zip(self._parameters, torch.split(released, sizes), strict=True):
            one.grad = part.view_as(one).to(one.dtype)
        self._pull()
        self._inner.step()
        self._inner.zero_grad()
        self.steps += 1
        self._tail.take(self.steps)

    def finish(self) -> None:
        """Ends the round: with a tail, the parameters become the mean over the last steps.

        Raises:
            InvalidInputError: fewer steps were taken than the plan books.
        """
        if self.steps != self._privacy.local_steps:
            raise InvalidInputError(
                f"{self.steps} of {self._privacy.local_steps} booked steps were taken: take all"
            )
        self._tail.write()

    def _noised(self, clipped: Tensor) -> Tensor:
        """All ranks' sum plus fresh Gaussian noise, drawn by the first of them."""
        total = self._ranks.total(clipped.double())
        if self._noise is not None:
            noise = torch.from_numpy(self._noise.next(total.numel()))
            total = noise.to(total.device).add_(total)
        return self._ranks.from_first(total)

    def _pull(self) -> None:
        if self._proximal_mu:
            for one, anchor in zip(self._parameters, self._anchors, strict=True):
                if one.grad is not None:
                    one.grad.add_(one.detach() - anchor, alpha=self._proximal_mu)


class _Tail:
    """The mean over the iterates of a round's last steps, in float64."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], training: TrainingSpec, steps: int
    ) -> None:
        share = training.average_tail
        self._parameters = parameters
        self._first = steps + 1 if share is None else steps + 1 - math.ceil(share * steps)
        self._sums = [] if share is None else [torch.zeros_like(one.double()) for one in parameters]
        self._count = 0

    def take(self, step: int) -> None:
        if step < self._first:
            return
        self._count += 1
        for total, one in zip(self._sums, self._parameters, strict=True):
            total += one.detach()

    def write(self) -> None:
        with torch.no_grad():
            for total, one in zip(self._sums, self._parameters, strict=self._count > 0):
                one.copy_(total / self._count)


def _inner(parameters: Sequence[nn.Parameter], training: TrainingSpec) -> torch.optim.Optimizer:
    """Plain descent's decay is decoupled by itself: it multiplies by ``1 - rate * decay``."""
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay)
    spec = training.adamw
    betas = (spec.momentum_decay, spec.variance_decay)
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, eps=spec.epsilon, weight_decay=decay)
