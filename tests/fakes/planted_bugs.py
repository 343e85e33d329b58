"""Faults put into the real training code at its seams, for as long as a context lasts.

    with noise_divided_by(4):
        ...

Nothing is copied: each takes one name that the shipped code looks up and puts a faulty one in its
place, so that a fault reaches whatever the shipped code reaches.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hansa.client.training import clipping, ghost
from hansa.client.training.optimizer import NoisyOptimizer
from hansa.client.training.samples import Sample, Units
from hansa.core.privacy import discrete_gaussian, noise_share
from hansa.core.privacy.mechanism import AesNormal, Entropy


@contextmanager
def noise_divided_by(factor: float) -> Iterator[None]:
    """The merchant's own Gaussian noise is too small, and so is its share of distributed noise."""
    honest, shared = AesNormal.normal, discrete_gaussian.discrete_gaussian

    def normal(self: AesNormal, size: int, *, std: float = 1.0) -> npt.NDArray[np.float64]:
        return honest(self, size, std=std / factor)

    def discrete(size: int, sigma: float, stream: AesNormal) -> npt.NDArray[np.int64]:
        return shared(size, sigma / factor, stream)

    with (
        mock.patch.object(AesNormal, "normal", normal),
        mock.patch.object(noise_share, "discrete_gaussian", discrete),
    ):
        yield


@contextmanager
def clip_times(factor: float) -> Iterator[None]:
    """Each unit's gradient is clipped to too great a length, in both ways of clipping."""
    honest = clipping.clip_factors

    def generous(norms: Tensor, clip_norm: float) -> Tensor:
        return honest(norms, factor * clip_norm)

    with (
        mock.patch.object(clipping, "clip_factors", generous),
        mock.patch.object(ghost, "clip_factors", generous),
    ):
        yield


@contextmanager
def divided_by_the_true_number() -> Iterator[None]:
    """The noised sum is divided by the number of sampled units instead of the public constant."""
    draw, step = Units.draw, NoisyOptimizer.step
    sampled = [1]

    def counted(self: Units, number: int, entropy: Entropy) -> list[Sample]:
        found = draw(self, number, entropy)
        sampled[0] = max(1, len(found))
        return found

    def private(self: NoisyOptimizer, clipped: Tensor) -> None:
        self._privacy = replace(self._privacy, expected_shoppers=sampled[0])
        step(self, clipped)

    with ExitStack() as planted:
        planted.enter_context(mock.patch.object(Units, "draw", counted))
        planted.enter_context(mock.patch.object(NoisyOptimizer, "step", private))
        yield
