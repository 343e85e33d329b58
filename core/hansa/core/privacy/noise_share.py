"""Distributed noise: what one merchant adds, so that the sum over all is noised once.

Each merchant clips per unit and sums, divides by the public ``C * B`` (clip norm, expected units),
cuts each value to half the coding's range, rounds to the coding's grid, and adds a share of
discrete Gaussian noise. Only the sum over all merchants is ever revealed (secure aggregation).

Why the sum is worth one Poisson-sampled Gaussian release with the plan's noise multiplier ``z``:

1. *Sensitivity.* Adding or removing a unit moves the clipped sum by at most C in L2, which is
   ``2^f / B`` steps of the grid; cutting does not lengthen that; rounding two points moves their
   difference by at most 1 in each of d values. So the integers move by at most
   ``D = 2^f / B + sqrt(d)``.
2. *One draw.* A sum of h independent ``N_Z(0, s^2)`` is ``N_Z(0, h s^2)`` but for a statistical
   distance of order ``exp(-pi^2 s^2)``, with s at least 64 far below any number that is ever
   written down. Further shares, of colluders or of more survivors than h, are post-processing.
3. *Discrete or not.* ``N_Z(0, S^2)`` around an integer is ``N(0, S^2 - 4^2)`` around it, rounded at
   random with parameter 4, but for a factor of ``1 +- 2 exp(-2 pi^2 4^2)`` in every probability.
   Rounding at random is post-processing: so the release is worth the continuous Gaussian's
   multiplier ``sqrt(S^2 - 16) / D``, with Poisson sampling and composition as usual.

``share_sigma`` is solved for that multiplier to be z. Wrapping around in the ring of the secure sum
is post-processing too.

References:
    Kairouz, Liu, Steinke, arXiv:2102.06387, for sums of discrete Gaussians.
    Peikert, "An efficient and parallel Gaussian sampler for lattices", CRYPTO 2010, for 3.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan
from hansa.core.privacy.discrete_gaussian import discrete_gaussian
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.update import Arrays

SMOOTHING: Final = 4.0
"""Parameter of the random rounding in step 3, in steps of the grid."""

LEAST_SIGMA: Final = 64.0
"""A coarser grid would make the statements of steps 2 and 3 less than perfect."""

NOISED_SUM: Final = "noised-sum"
"""The one array of an app's reply; see ``noised_sum``."""

_TAIL: Final = 20.0
"""Standard deviations that the ring must hold."""


@dataclass(frozen=True, kw_only=True)
class NoiseShare:
    """One merchant's part in one step of one plan; all fields are public."""

    noise_multiplier: float
    clip_norm: float
    expected_units: int
    honest: int
    """Shares that make up the whole noise."""
    fraction_bits: int
    max_abs: float
    """Half of it is for the values, half for the noise."""
    size: int
    """Values in the vector."""

    @classmethod
    def of(cls, plan: RunPlan, size: int) -> "NoiseShare":
        """The share under a plan, for a model of ``size`` values.

        Raises:
            InvalidInputError: the plan has no distributed noise, or its grid is too coarse or too
                narrow for this model; the sentence says which field to change.
        """
        spec, secure = plan.privacy.distributed_noise, plan.federation.secure_aggregation
        if spec is None or secure is None:
            raise InvalidInputError("the plan does not ask for distributed noise")
        share = cls(
            noise_multiplier=plan.privacy.noise_multiplier,
            clip_norm=plan.privacy.clip_norm,
            expected_units=plan.privacy.expected_shoppers,
            honest=plan.federation.quorum - spec.colluders,
            fraction_bits=secure.fraction_bits,
            max_abs=secure.max_abs,
            size=size,
        )
        share.check()
        return share

    @property
    def sensitivity(self) -> float:
        """How far one unit moves the integers, in L2."""
        return 2.0**self.fraction_bits / self.expected_units + math.sqrt(self.size)

    @property
    def share_sigma(self) -> float:
        """The discrete Gaussian parameter of one share, in steps of the grid."""
        whole = math.hypot(self.noise_multiplier * self.sensitivity, SMOOTHING)
        return whole / math.sqrt(self.honest)

    def check(self) -> None:
        """Raises InvalidInputError: nobody honest is left, or the grid does not fit the noise."""
        if self.honest < 1:
            raise InvalidInputError(
                "with so many colluders no honest share is left: raise the quorum above them"
            )
        if self.share_sigma < LEAST_SIGMA:
            raise InvalidInputError(
                f"a noise share of {self.share_sigma:.3g} steps of the grid is below "
                f"{LEAST_SIGMA:g}; raise secure_aggregation.fraction_bits"
            )
        if _TAIL * self.share_sigma > self._half:
            raise InvalidInputError(
                "the noise does not fit the range of the sum; raise secure_aggregation.max_abs, "
                "or expected_shoppers"
            )

    def on_grid(self, total: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The clipped sum in steps of the grid, without noise; it moves by ``sensitivity`` at most.

        Raises:
            InvalidInputError: the sum has another size, or is not finite.
        """
        if total.shape != (self.size,) or not np.isfinite(total).all():
            raise InvalidInputError(f"a step's sum must be {self.size} finite numbers")
        scaled = total.astype(np.float64) / (self.clip_norm * self.expected_units)
        steps = np.rint(np.clip(scaled * 2.0**self.fraction_bits, -self._half, self._half))
        return steps.astype(np.int64)

    def integers(self, total: npt.NDArray[Any], stream: AesNormal) -> npt.NDArray[np.int64]:
        """The clipped sum with this merchant's share of the noise, on the grid.

        Args:
            total: the sum of clipped contributions, shape ``(size,)``; private.
            stream: cryptographic; fresh for each step.

        Returns:
            int64, shape ``(size,)``. Alone it is noised too little: it may only leave masked.

        Raises:
            InvalidInputError: the sum has another size, or is not finite.
        """
        return self.on_grid(total) + discrete_gaussian(self.size, self.share_sigma, stream)

    @property
    def _half(self) -> float:
        return 0.5 * self.max_abs * 2.0**self.fraction_bits


def noised_sum(arrays: Arrays, size: int) -> npt.NDArray[np.int64]:
    """The integers of ``NoiseShare.integers`` in what a training app returned.

    Raises:
        InvalidInputError: it returned something else.
    """
    steps = arrays.get(NOISED_SUM)
    if len(arrays) != 1 or steps is None or steps.shape != (size,) or steps.dtype != np.int64:
        raise InvalidInputError(f"with distributed noise an app returns {size} noised integers")
    return steps


def mean_step(
    plan: RunPlan, total: npt.NDArray[np.float64], merchants: int
) -> npt.NDArray[np.float64]:
    """How the model moves, shape ``(n,)``, by a decoded secure sum over so many merchants.

    With distributed noise that is a gradient step with the plan's learning rate, else the mean of
    the merchants' own steps.
    """
    if plan.privacy.distributed_noise is None:
        return total / merchants
    scale = -plan.training.learning_rate * plan.privacy.clip_norm / merchants
    return total * scale
