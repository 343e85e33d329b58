"""DP-SGD with the shopper as the unit, on Opacus' per-record gradients.

A step releases ``(S + noise) / expected_shoppers`` with S the sum over shoppers of their clipped
mean gradients. Adding or removing one shopper moves S by at most the clip norm, whatever the
shopper's records are. True counts, losses, norms and clipped shares never leave this module.

References:
    Abadi et al., "Deep learning with differential privacy", arXiv:1607.00133.
    McMahan et al., "Learning differentially private recurrent language models", arXiv:1710.06963.
    Li et al., "Federated optimization in heterogeneous networks" (FedProx), arXiv:1812.06127.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from opacus.grad_sample.utils import prepare_module  # type: ignore[import-untyped]
from opacus.optimizers import DPOptimizer  # type: ignore[import-untyped]
from torch import Tensor, nn

from hansa.client.training.ranks import ALONE, Ranks
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.plan import PrivacyPlan

_NORM_SLACK = 1e-6
"""Added to a norm before dividing, so that rounding cannot exceed the clip norm."""


class ShopperDPOptimizer(DPOptimizer):  # type: ignore[misc]
    """Clips per shopper, not per record, and draws its noise from a cryptographic stream.

    Before each ``step()``, ``group()`` says which shopper each record of the batch belongs to. A
    record whose gradient is not finite counts as a gradient of zero. An empty batch makes a step
    of noise alone.

    With a ``proximal_mu`` each step also pulls back to where the parameters began: to the noised
    gradient comes that of ``mu / 2 * ||w - w0||^2``. It is made of public weights alone, so it is
    neither clipped nor noised, and costs no privacy (FedProx).
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        privacy: PrivacyPlan,
        noise: AesNormal | None,
        *,
        proximal_mu: float = 0.0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Wraps a torch optimizer; ``privacy`` gives every constant, all public.

        ``noise`` is the stream of the first of the ``ranks`` that train together; the others have
        none.

        Raises:
            InvalidInputError: the optimizer has no parameter that can be trained, or the proximal
                weight is negative or not finite.
        """
        super().__init__(
            optimizer,
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.clip_norm,
            expected_batch_size=privacy.expected_shoppers,
        )
        if not self.params:
            raise InvalidInputError("nothing can be trained: no parameter requires a gradient")
        if not (math.isfinite(proximal_mu) and proximal_mu >= 0.0):
            raise InvalidInputError(f"the proximal weight {proximal_mu} is not a number from 0 up")
        self._privacy = privacy
        self._noise = noise
        self._ranks = ranks
        self._proximal_mu = proximal_mu
        self._anchors = [parameter.detach().clone() for parameter in self.params]
        self._groups = torch.zeros(0, dtype=torch.int64)
        self._shoppers = 0

    def group(self, groups: Tensor, shoppers: int) -> None:
        """Says whose the batch's records are.

        Args:
            groups: the shopper of each record, ``(records,)``, int64, below ``shoppers``.
            shoppers: sampled shoppers in the batch; private.
        """
        self._groups, self._shoppers = groups, shoppers

    def step_on_noise_alone(self) -> None:
        """The step of an empty sample: same noise, same divisor, same event."""
        self.group(torch.zeros(0, dtype=torch.int64), 0)
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        self.step()

    def clip_and_accumulate(self) -> None:
        """Adds the batch's clipped sum over shoppers to each parameter's ``summed_grad``."""
        start = 0
        total = clipped_sum(self._records(), self._groups, self._shoppers, self._privacy.clip_norm)
        for parameter in self.params:
            part = total[start : start + parameter.numel()].view_as(parameter)
            before = parameter.summed_grad
            parameter.summed_grad = part if before is None else before + part
            start += parameter.numel()

    def add_noise(self) -> None:
        """Sets each parameter's ``grad`` to its clipped sum plus fresh Gaussian noise.

        The sum is that of all ranks; the noise is drawn once, by the first of them.
        """
        total = self._ranks.total(torch.cat([one.summed_grad.flatten() for one in self.params]))
        noised = total.double()
        if self._noise is not None:
            noised += self._fresh_noise(self._noise).to(noised.device)
        parts = torch.split(self._ranks.from_first(noised), [one.numel() for one in self.params])
        for parameter, part in zip(self.params, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def _fresh_noise(self, stream: AesNormal) -> Tensor:
        """The noise of one step for all parameters, ``(parameters,)``, float64."""
        drawn = [self._privacy.noise(parameter.numel(), stream) for parameter in self.params]
        return torch.from_numpy(np.concatenate(drawn))

    def scale_grad(self) -> None:
        """Divides the noised sums by the public number of shoppers; adds the pull to the start."""
        super().scale_grad()
        if self._proximal_mu:
            for parameter, anchor in zip(self.params, self._anchors, strict=True):
                parameter.grad.add_(parameter.detach() - anchor, alpha=self._proximal_mu)

    def _records(self) -> Tensor:
        """All gradients of each record in one row, ``(records, parameters)``."""
        samples = [self._get_flat_grad_sample(parameter) for parameter in self.params]
        return torch.cat([sample.flatten(start_dim=1) for sample in samples], dim=1)


def clipped_sum(records: Tensor, groups: Tensor, shoppers: int, clip_norm: float) -> Tensor:
    """The sum over shoppers of their mean gradient, each clipped to ``clip_norm`` in L2.

    Args:
        records: one gradient a row, ``(records, parameters)``; rows that are not finite are zero.
        groups: the shopper of each row, ``(records,)``.
        shoppers: how many shoppers there are.
        clip_norm: L2 bound; adding or removing a shopper moves the result by at most this.

    Returns:
        ``(parameters,)``; zeros where there is no shopper.
    """
    finite = torch.isfinite(records).all(dim=1, keepdim=True)
    safe = torch.where(finite, records, 0.0).double()
    places = groups.to(records.device)
    sums = safe.new_zeros((shoppers, records.shape[1])).index_add_(0, places, safe)
    counts = torch.bincount(places, minlength=shoppers).clamp(min=1).unsqueeze(1)
    means = sums / counts
    norms = means.norm(dim=1)
    factors = (clip_norm / (norms + _NORM_SLACK)).clamp(max=1.0)
    total: Tensor = factors @ means
    return total.to(records.dtype)


@contextmanager
def per_record_gradients(module: nn.Module) -> Iterator[None]:
    """Within this context a backward pass of a SUM of losses leaves one gradient a record.

    The module goes into training mode and back; its parameters' names stay as they are.
    """
    was_training = module.training
    module.train()
    hooks = prepare_module(module, grad_sample_mode="hooks", wrap_model=False, loss_reduction="sum")
    hooks.forbid_grad_accumulation()
    try:
        with warnings.catch_warnings():
            # Opacus hooks the first layer too, whose inputs are data and need no gradient.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield
    finally:
        hooks.cleanup()
        module.train(was_training)
