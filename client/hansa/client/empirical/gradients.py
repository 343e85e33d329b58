"""Canaries whose gradients are orthogonal: the strongest that a white-box attack can put in.

A linear loss over one vector of numbers gives each unit a gradient that never changes. Its length
is far above the clip norm, so that a clip that is too generous shows. Everything else is the
training that ships: units, sampling, clipping, noise, divisor, optimiser.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np
import torch
from scipy.linalg import hadamard  # type: ignore[import-untyped]
from torch import Tensor, nn

from hansa.client.empirical.attacked import Integers
from hansa.client.training.clipping import ClippedGradients, per_record_gradients
from hansa.client.training.ghost import ghost_gradients
from hansa.client.training.objective import UnitLosses
from hansa.client.training.samples import Sample, ShopData
from hansa.core.models.tower import Floats
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import Entropy

LOUDNESS: Final = 100.0
"""Length of a canary's gradient in clip norms."""

ITEMS_OF_ONE: Final = 2
"""A canary buys two items that nobody else buys."""

GHOST: Final = frozenset({"top_layers", "full"})
"""What is trained by ghost clipping; all else has a gradient for each unit in memory."""


def orthogonal_directions(count: int, rng: np.random.Generator) -> Floats:
    """Random orthonormal rows, ``(count, numbers)``; each number of each is equally large.

    They are rows of a Hadamard matrix in a random order, with random signs of the columns.
    """
    size = 1 << max(count - 1, 0).bit_length()
    rows = hadamard(size, dtype=np.int8)[rng.permutation(size)[:count]]
    signs = rng.choice(np.array([-1, 1], np.int8), size)
    return np.asarray(rows * signs, np.float32) / np.float32(np.sqrt(size))


def canary_items(canary: int) -> Integers:
    """What a canary buys, as places in the catalogue."""
    first = ITEMS_OF_ONE * canary
    return np.arange(first, first + ITEMS_OF_ONE, dtype=np.int64)


def shoppers_of(was_in: Sequence[bool], unit: str) -> tuple[Integers, ...]:
    """The shoppers of one run: the unit behind each canary is there, or it is not.

    A record is one purchase: without its second purchase a shopper has nothing to predict.
    """
    if unit == "record":
        return tuple(canary_items(i)[: 1 + bool(one)] for i, one in enumerate(was_in))
    return tuple(canary_items(i) for i, one in enumerate(was_in) if one)


def empty_shop(canaries: int) -> ShopData:
    """Items for so many canaries; this loss looks at no embedding."""
    return ShopData(
        shoppers=(),
        embeddings=np.zeros((ITEMS_OF_ONE * max(canaries, 1), 1), np.float32),
        negatives=np.zeros((1, 1), np.float32),
    )


class GradientLearner:
    """A model that learns nothing; the gradient of canary i is row i. See ``Learner``."""

    part_size = 512

    def __init__(self, rows: Floats, plan: RunPlan) -> None:
        """Takes the gradients, ``(canaries, numbers)``; rows of zeros are units without a say."""
        self._rows = torch.from_numpy(rows)
        self._ghost = plan.training.trains in GHOST
        self.module: nn.Module = nn.Linear(rows.shape[1], 1, bias=False)
        nn.init.zeros_(self.module.get_parameter("weight"))

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """One vector."""
        return dict(self.module.named_parameters())

    def gradients(self) -> AbstractContextManager[ClippedGradients]:
        """The clipping that the plan's own model is trained with."""
        way = ghost_gradients if self._ghost else per_record_gradients
        return way(self.module, tuple(self.parameters.values()))

    def shown(self, sample: Sample, _entropy: Entropy) -> Sample:
        """All of it."""
        return sample

    def losses(self, _negatives: Floats) -> UnitLosses:
        """The inner product with the canary's row."""

        def compute(samples: Sequence[Sample]) -> Tensor:
            places = [int(one.history[0]) // ITEMS_OF_ONE for one in samples]
            rows = self._rows[places].requires_grad_()
            found: Tensor = self.module(rows).squeeze(1)
            return found

        return compute
