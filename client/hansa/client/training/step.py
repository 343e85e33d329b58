"""One step of DP-SGD, whatever is trained: parts of the sample in turn, then one draw of noise."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hansa.client.interruption import check_wanted
from hansa.client.training.clipping import ClippedGradients
from hansa.client.training.objective import UnitLosses
from hansa.client.training.samples import Sample
from hansa.core.errors import InvalidInputError


def clipped_step_sum(
    gradients: ClippedGradients,
    samples: Sequence[Sample],
    losses: UnitLosses,
    *,
    clip_norm: float,
    part_size: int,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """One step's sum over the sampled units, clipped but NOT noised and not divided.

    It is private. A unit is one row here: the gradient of its mean loss is the mean of its
    records' gradients. The parts only bound the memory; they change nothing that is released.

    Args:
        gradients: of the module in whose context this is called.
        samples: the units of this step; none gives zeros.
        losses: computed with the module.
        clip_norm: L2 bound; adding or removing a unit moves the result by at most this.
        part_size: units in memory at once.
        parameters: what is trained, in the order of the result.

    Returns:
        ``(parameters,)``, float64.

    Raises:
        WorkInterruptedError: the step is not wanted any more.
    """
    check_wanted()
    size = sum(one.numel() for one in parameters)
    total = torch.zeros(size, dtype=torch.float64, device=parameters[0].device)
    for start in range(0, len(samples), part_size):
        check_wanted()
        part = samples[start : start + part_size]
        total += gradients(lambda part=part: losses(part), clip_norm)  # type: ignore[misc]
    return total


def check_trained_set(module: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
    """Makes sure that what is clipped and noised is what can be trained: no more and no less.

    Raises:
        InvalidInputError: something was frozen or freed since the round began.
    """
    free = {one for one in module.parameters() if one.requires_grad}
    if free != set(parameters):
        raise InvalidInputError(
            "what can be trained changed within the round: freeze and free parameters before it, "
            "for the sensitivity that is booked holds for one set"
        )
