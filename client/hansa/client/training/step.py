"""One step of DP-SGD, whatever is trained: parts of the sample in turn, then one draw of noise."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hansa.client.interruption import check_wanted
from hansa.client.training.optimizer import ShopperDPOptimizer
from hansa.client.training.samples import Sample

Losses = Callable[[Sequence[Sample]], Tensor]
"""One loss a shopper, ``(shoppers,)``; each depends on its own shopper alone."""


def take_step(
    optimizer: ShopperDPOptimizer, samples: Sequence[Sample], losses: Losses, part_size: int
) -> None:
    """Clips every shopper's gradient, sums, adds noise once, and moves the parameters.

    A shopper is one record here: the gradient of its mean loss is the mean of its records'
    gradients. The parts only bound the memory; they change nothing that is released.

    Args:
        optimizer: wraps the parameters, whose module is within ``per_record_gradients``.
        samples: the shoppers of this step; none gives a step of noise alone.
        losses: computed with the module.
        part_size: shoppers in memory at once.

    Raises:
        WorkInterruptedError: the step is not wanted any more.
    """
    check_wanted()
    optimizer.zero_grad()
    if not samples:
        optimizer.step_on_noise_alone()
    for start in range(0, len(samples), part_size):
        check_wanted()
        part = samples[start : start + part_size]
        optimizer.signal_skip_step(start + part_size < len(samples))
        optimizer.group(torch.arange(len(part)), len(part))
        losses(part).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    optimizer.zero_grad()
