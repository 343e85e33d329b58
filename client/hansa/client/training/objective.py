"""What a step minimises: one loss a unit, each of which depends on its own unit alone.

Clipping bounds what one unit does to a sum of gradients only if no other unit's loss changes with
it. In-batch negatives, batch normalisation, queues of earlier batches and ranking over a batch all
break this, and the stated epsilon is then false: measured, one record moved the sum by up to 2.7
times the clip norm. So every loss is looked at before a round trains with it.
"""

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hansa.client.training.samples import Integers, Sample
from hansa.core.errors import InvalidInputError

PROBES: Final = 4
"""Units on which a loss is tried out; they are made up, none is a shopper."""

_TOLERANCE: Final = 1e-4
"""Relative; rounding in batches of other sizes stays far below, a shared batch far above."""

_WHY: Final = (
    "the loss of one unit changes when another one {change}: clipping would bound nothing, and "
    "epsilon would be false. Take negatives from the public catalogue instead of the batch, and "
    "layer normalisation instead of batch normalisation"
)


class UnitLosses(Protocol):
    """The losses of one step."""

    def __call__(self, samples: Sequence[Sample], /) -> Tensor:
        """One loss a unit, ``(units,)``; each depends on its own unit and on public data alone.

        Args:
            samples: at least one.
        """
        ...


class Loss(Protocol):
    """What a user's vector is to be; ``shopper_losses`` is the one that plans name."""

    def __call__(
        self,
        users: Tensor,
        targets: Tensor,
        present: Tensor,
        negatives: Tensor,
        temperature: float,
        /,
    ) -> Tensor:
        """Each unit's loss, ``(units,)``; the arguments are those of ``shopper_losses``."""
        ...


def check_losses(module: nn.Module, losses: UnitLosses, items: int) -> None:
    """Tries out, on units that are made up, whether each loss depends on its own unit alone.

    It is a check and no proof: a loss that behaves on four units may still mix them where there
    are more. It reads no shopper, so that a refusal says nothing about one.

    Args:
        module: what is trained; it is looked at in training mode.
        losses: computed with the module.
        items: how many items the shop has.

    Raises:
        InvalidInputError: there is not one loss a unit, or one changes with another unit.
    """
    probes = _probes(items)
    was_training = module.training
    module.train()
    try:
        with torch.no_grad():
            _check(losses, probes[:PROBES], probes[PROBES])
    finally:
        module.train(was_training)


def _check(losses: UnitLosses, units: list[Sample], other: Sample) -> None:
    whole = _losses(losses, units)
    for place in range(len(units)):
        rest = units[:place] + units[place + 1 :]
        kept = torch.cat([whole[:place], whole[place + 1 :]])
        _expect(_losses(losses, rest), kept, "is left out")
        changed = _losses(losses, [*units[:place], other, *units[place + 1 :]])
        others = torch.cat([changed[:place], changed[place + 1 :]])
        _expect(others, kept, "is exchanged")
    _expect(_losses(losses, units), whole, "was seen before, or by chance")


def _losses(losses: UnitLosses, units: list[Sample]) -> Tensor:
    found = losses(units)
    if found.shape != (len(units),):
        raise InvalidInputError(
            f"{len(units)} units have losses of shape {tuple(found.shape)}: give one loss a unit, "
            "without a mean or a sum over the units"
        )
    return found.detach().double()


def _expect(found: Tensor, expected: Tensor, change: str) -> None:
    if not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
        raise InvalidInputError(_WHY.format(change=change))


def _probes(items: int) -> list[Sample]:
    """Units of different lengths, of items that differ as far as there are as many."""
    places = np.arange(4 * (PROBES + 1), dtype=np.int64) % items
    return [_probe(places[4 * number : 4 * number + 4], number) for number in range(PROBES + 1)]


def _probe(places: Integers, number: int) -> Sample:
    history = 1 + number % 3
    return Sample(history=places[:history], targets=places[history:])
