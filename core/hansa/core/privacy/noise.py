"""Streams of noise: one value each for all trained numbers, step by step."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from hansa.core.privacy.mechanism import AesNormal


class NoiseStream(Protocol):
    """The noise of one round's steps; secret, and forgotten with the round."""

    def next(self, size: int, /) -> npt.NDArray[np.float64]:
        """The noise of the next step's clipped sum, float64, shape ``(size,)``.

        Raises:
            InvalidInputError: the stream is used up, or cannot give noise of this size.
        """
        ...


class IndependentNoise:
    """Gaussian noise that is drawn anew for each step."""

    def __init__(self, stream: AesNormal, *, std: float) -> None:
        """Takes ``std`` in the unit of the clipped sums; the stream checks it."""
        self._stream = stream
        self._std = std

    def __repr__(self) -> str:
        """Shows nothing of the noise."""
        return "IndependentNoise(...)"

    def next(self, size: int, /) -> npt.NDArray[np.float64]:
        """The noise of the next step's clipped sum, float64, shape ``(size,)``.

        Raises:
            InvalidInputError: the size is negative, or the standard deviation is no such number.
        """
        return self._stream.normal(size, std=self._std)
