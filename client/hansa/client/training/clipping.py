"""The sum over units of their gradients, each clipped: the one thing that privacy hangs on.

Adding or removing a unit moves the sum by at most the clip norm, whatever is in the unit. Norms,
clipped shares and true counts never leave this module. The sum itself is not private yet: only
``NoisyOptimizer`` and ``sum_round`` take it, and both noise it before anybody sees it.

References:
    Abadi et al., "Deep learning with differential privacy", arXiv:1607.00133.
    McMahan et al., "Learning differentially private recurrent language models", arXiv:1710.06963.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from opacus.grad_sample.utils import prepare_module  # type: ignore[import-untyped]
from torch import Tensor, nn

from hansa.core.errors import InvalidInputError

_NORM_SLACK = 1e-6
"""Added to a norm before dividing, so that rounding cannot exceed the clip norm."""

_ROWS = "grad_sample"
"""Where Opacus leaves a parameter's gradient for each unit."""


class ClippedGradients(Protocol):
    """Turns the losses of some units into the sum of their clipped gradients."""

    def __call__(self, losses: Callable[[], Tensor], clip_norm: float, /) -> Tensor:
        """The clipped sum, ``(parameters,)``, float64, in the order of the parameters.

        Args:
            losses: computes one loss a unit, ``(units,)``, when it is called; at least one unit.
            clip_norm: L2 bound of a unit's contribution.

        Raises:
            InvalidInputError: a parameter has no gradient for each unit.
        """
        ...


class RecordGradients:
    """Clips gradients that lie in memory, one a unit: for few parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters

    def __call__(self, losses: Callable[[], Tensor], clip_norm: float) -> Tensor:
        """See ``ClippedGradients``; a unit whose gradient is not finite counts as zero."""
        found = losses()
        try:
            found.sum().backward()  # type: ignore[no-untyped-call]
            rows = [self._rows(one, len(found)) for one in self._parameters]
            return clipped_sum(torch.cat(rows, dim=1), clip_norm)
        finally:
            for one in self._parameters:
                one.grad = None
                setattr(one, _ROWS, None)

    def _rows(self, parameter: nn.Parameter, units: int) -> Tensor:
        """The parameter's gradient for each unit, ``(units, numbers)``."""
        rows = getattr(parameter, _ROWS, None)
        if not isinstance(rows, Tensor) or len(rows) != units:
            raise InvalidInputError(
                "a trained parameter has no gradient for each unit: leave it out of what is "
                "trained, or use it once for each unit"
            )
        return rows.flatten(start_dim=1)


@contextmanager
def per_record_gradients(
    module: nn.Module, parameters: Sequence[nn.Parameter]
) -> Iterator[ClippedGradients]:
    """Within this context the module's gradients are worked out singly for each unit.

    The module goes into training mode and back; its parameters' names stay as they are. Memory
    grows with units times parameters.
    """
    was_training = module.training
    module.train()
    hooks = prepare_module(module, grad_sample_mode="hooks", wrap_model=False, loss_reduction="sum")
    hooks.forbid_grad_accumulation()
    try:
        with warnings.catch_warnings():
            # Opacus hooks the first layer too, whose inputs are data and need no gradient.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield RecordGradients(parameters)
    finally:
        hooks.cleanup()
        module.train(was_training)


def clipped_sum(gradients: Tensor, clip_norm: float) -> Tensor:
    """The sum over units of their gradients, each clipped to ``clip_norm`` in L2.

    Args:
        gradients: one unit a row, ``(units, parameters)``; rows that are not finite are zero.
        clip_norm: L2 bound; adding or removing a unit moves the result by at most this.

    Returns:
        ``(parameters,)``, float64; zeros where there is no unit.
    """
    finite = torch.isfinite(gradients).all(dim=1, keepdim=True)
    safe = torch.where(finite, gradients, 0.0).double()
    return clip_factors(safe.norm(dim=1), clip_norm) @ safe


def clip_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """What each unit's gradient is multiplied by, ``(units,)``: at most 1."""
    return (clip_norm / (norms + _NORM_SLACK)).clamp(max=1.0)
