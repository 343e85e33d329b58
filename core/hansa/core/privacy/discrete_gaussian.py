"""The discrete Gaussian: integer noise whose shares add up to the noise of one draw.

``N_Z(0, sigma^2)`` gives each integer k a probability proportional to ``exp(-k^2 / 2 sigma^2)``.

Samples come from discrete Laplace ones by rejection, as in algorithm 3 of Canonne, Kamath and
Steinke, but with 53-bit uniforms instead of exact rational coins: a value's distribution is within
a statistical distance of about 2^-50 of the exact one.

References:
    Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", arXiv:2004.00010.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import AesNormal

MAX_SIGMA: Final = 2.0**50
"""Above this integers are no longer exact in the arithmetic."""

_SPARE: Final = 1.45
"""Candidates per wanted value: about three quarters are accepted."""


def discrete_gaussian(size: int, sigma: float, stream: AesNormal) -> npt.NDArray[np.int64]:
    """Independent discrete Gaussian noise, shape ``(size,)``.

    Args:
        size: number of values.
        sigma: the standard deviation's parameter, at least 1, in integers' units.
        stream: cryptographic.

    Raises:
        InvalidInputError: an argument is out of bounds.
    """
    if size < 0 or not 1.0 <= sigma <= MAX_SIGMA:
        raise InvalidInputError(
            f"discrete noise needs a size of at least 0 and a sigma from 1 to 2^50, not {sigma:g}"
        )
    drawn: list[npt.NDArray[np.int64]] = []
    missing = size
    while missing > 0:
        accepted = _accepted(int(missing * _SPARE) + 64, sigma, stream)[:missing]
        drawn.append(accepted)
        missing -= len(accepted)
    return np.concatenate(drawn) if drawn else np.zeros(0, np.int64)


def _accepted(count: int, sigma: float, stream: AesNormal) -> npt.NDArray[np.int64]:
    """Those of ``count`` candidates that pass, in the order in which they were drawn."""
    scale = math.floor(sigma) + 1.0
    sizes = np.floor(-scale * np.log(stream.uniforms(count)))
    coins = stream.uniforms(count)
    negative, coins = coins < 0.5, (2.0 * coins) % 1.0
    passes = coins < np.exp(-((sizes - sigma * sigma / scale) ** 2) / (2.0 * sigma * sigma))
    passes &= ~(negative & (sizes == 0.0))  # else zero, which has no sign, would count twice
    values = np.where(negative, -sizes, sizes)
    return values[passes].astype(np.int64)
