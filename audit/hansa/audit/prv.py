"""The auditor's own accountant, written from the paper, sharing no code with PLD or Opacus.

A mechanism with dominating pair (P, Q) has the privacy loss variable Y = log(P/Q) under P. Losses
of independent releases add up, so their distributions are convolved (by FFT), and then
``delta(eps) = E[max(0, 1 - exp(eps - Y))]``. Each loss is rounded to a grid of width h and shifted
so that its mean stays true; by Hoeffding the k rounding errors then add up to more than
``eps_error`` with probability at most ``2 exp(-2 eps_error**2 / (k h**2))``, which fixes h. What
lies outside the grid, that probability and the arithmetic's error are all charged to delta. The
result is an upper bound, about ``eps_error`` above the truth.

Adding and removing a shopper give different losses under sampling, and neither dominates the other
in every composition; both are computed, and the larger epsilon counts.

References:
    Gopi, Lee, Wutschitz, "Numerical composition of differential privacy", arXiv:2106.02848.
    Lebeda et al., "Avoiding pitfalls for privacy accounting of subsampled mechanisms under
    composition", arXiv:2405.20769 (why both directions are needed).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft  # type: ignore[import-untyped]
from scipy.special import ndtr  # type: ignore[import-untyped]

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
    merge,
)

EPS_ERROR: Final = 0.01
MIN_DELTA: Final = 1e-10
"""Below this the arithmetic of 53 bits would dominate delta."""

_DELTA_SHARE: Final = 1e-4
"""Part of delta that pays for one way to err."""
_WAYS_TO_ERR: Final = 5
"""Rounding; the sum, and any single loss, beyond either end of the grid."""
_ARITHMETIC: Final = 1e-13
_MAX_POINTS: Final = 1 << 24
_REACH: Final = 14.0
"""Standard deviations beyond which a Gaussian's mass is below 1e-43."""
_NODES: Final = 8192

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Loss:
    """The privacy loss variable of one release, and how often it is drawn.

    ``rate`` is the sampling rate q, ``noise`` the noise multiplier. When ``removing``, P is the
    mixture ``(1-q) N(0, noise^2) + q N(1, noise^2)`` and Q is ``N(0, noise^2)``; else the reverse.
    """

    rate: float
    noise: float
    count: int
    removing: bool

    def log_ratio(self, x: Floats) -> Floats:
        """The log of mixture over Gaussian at outputs ``x``."""
        tilt = (2.0 * x - 1.0) / (2.0 * self.noise**2)
        if self.rate == 1.0:
            return tilt
        return np.logaddexp(math.log1p(-self.rate), math.log(self.rate) + tilt)

    def inverse(self, y: Floats) -> Floats:
        """The output at which ``log_ratio`` is ``y``; minus infinity below its range."""
        log_kept = -math.inf if self.rate == 1.0 else math.log1p(-self.rate)
        inside = y > log_kept
        safe = np.where(inside, y, log_kept + 1.0)
        log_part = safe + np.log1p(-np.exp(log_kept - safe)) - math.log(self.rate)
        return np.where(inside, self.noise**2 * log_part + 0.5, -math.inf)

    def cdf(self, y: Floats) -> Floats:
        """The probability that the loss is at most ``y``."""
        if self.removing:
            x = self.inverse(y)
            plain, moved = ndtr(x / self.noise), ndtr((x - 1.0) / self.noise)
            return np.asarray((1.0 - self.rate) * plain + self.rate * moved)
        return np.asarray(ndtr(-self.inverse(-y) / self.noise))

    def nodes(self, tilt: float) -> tuple[Floats, Floats]:
        """Losses and log-weights whose weighted sum integrates over P, also tilted by ``tilt``.

        The trapezoid rule on a smooth integrand that vanishes at both ends converges
        exponentially.
        """
        low = -_REACH * self.noise - max(0.0, -tilt)
        high = 1.0 + _REACH * self.noise + max(0.0, tilt)
        x = np.linspace(low, high, _NODES)
        ratio = self.log_ratio(x)
        log_q = -0.5 * (x / self.noise) ** 2 - math.log(self.noise * math.sqrt(2.0 * math.pi))
        log_weight = log_q + math.log(x[1] - x[0])
        return (ratio, log_weight + ratio) if self.removing else (-ratio, log_weight)

    def mean(self) -> float:
        """The expected loss."""
        losses, log_weights = self.nodes(0.0)
        return float(np.sum(losses * np.exp(log_weights)))

    def log_moment(self, order: float) -> float:
        """The log of ``E[exp(order * Y)]``."""
        reach = abs(order) + 1.0
        losses, log_weights = self.nodes(reach if order * self._slope() > 0.0 else -reach)
        return float(np.logaddexp.reduce(order * losses + log_weights))

    def _slope(self) -> float:
        return 1.0 if self.removing else -1.0


def epsilon_prv(
    events: Sequence[PrivacyEvent], delta: float, *, eps_error: float = EPS_ERROR
) -> float:
    """Epsilon by privacy random variables, add-or-remove-one, as an upper bound.

    Args:
        events: all releases about the same shoppers, in any order.
        delta: between 1e-10 and 1.
        eps_error: how far above the truth the result may lie; smaller is slower.

    Raises:
        InvalidInputError: an event is unknown or a search, the units differ, an argument is out of
            bounds, or the loss is so large that it needs more than 2^24 grid points.
    """
    if not (MIN_DELTA <= delta < 1.0 and 0.0 < eps_error <= 1.0):
        raise InvalidInputError(
            "the PRV accountant needs a delta from 1e-10 to 1 and an error from 0 to 1"
        )
    return _epsilon(merge(events), delta, eps_error)


@functools.lru_cache(maxsize=64)
def _epsilon(events: tuple[PrivacyEvent, ...], delta: float, eps_error: float) -> float:
    """Cached, because the merchants of one run usually book the same events."""
    if not events:
        return 0.0
    return max(_one_way(_losses(events, way), delta, eps_error) for way in (True, False))


def _losses(events: Sequence[PrivacyEvent], removing: bool) -> list[_Loss]:
    losses = []
    for event in events:
        rate, noise, count = _release(event)
        if rate == 1.0:  # Gaussians compose exactly into one with less noise
            noise, count = noise / math.sqrt(count), 1
        losses.append(_Loss(rate=rate, noise=noise, count=count, removing=removing))
    return losses


def _release(event: PrivacyEvent) -> tuple[float, float, int]:
    """The event's dominating pair: sampling rate, noise over sensitivity, number of draws.

    A banded run moves by the root of the participations. Of a distributed sum one merchant's unit
    is one part, and the event's noise is what honest shares guarantee.
    """
    match event:
        case PoissonGaussian() | DistributedGaussian():
            return event.sampling_rate, event.noise_multiplier, event.steps
        case Gaussian():
            return 1.0, event.noise_multiplier, event.releases
        case BandedGaussian():
            moved = math.sqrt(event.participations)
            return 1.0, event.noise_multiplier / moved, event.releases
        case RepeatAndSelect():
            raise InvalidInputError(
                "a search on private data has no dominating pair; its only account is RDP"
            )


def _one_way(losses: Sequence[_Loss], delta: float, eps_error: float) -> float:
    tail = delta * _DELTA_SHARE
    draws = sum(loss.count for loss in losses)
    width = eps_error / math.sqrt(draws / 2.0 * math.log(2.0 / tail))
    reach = _reach(losses, tail) + eps_error
    points = next_fast_len(2 * math.ceil(reach / width) + 2, real=True)
    if points > _MAX_POINTS:
        raise InvalidInputError("the privacy loss is too large for the PRV accountant's grid")
    mass, shift = _composed(losses, points + points % 2, width)
    spare = delta - _WAYS_TO_ERR * tail - _ARITHMETIC
    return max(0.0, _epsilon_at(mass, shift, width, spare) + eps_error)


def _reach(losses: Sequence[_Loss], tail: float) -> float:
    """A size that the sum exceeds with probability ``tail`` at either end, as does any one loss."""
    each = tail / sum(loss.count for loss in losses)
    groups = [(losses, tail), *(([replace(loss, count=1)], each) for loss in losses)]
    return max(_chernoff(group, part, sign) for group, part in groups for sign in (1.0, -1.0))


def _chernoff(losses: Sequence[_Loss], tail: float, sign: float) -> float:
    """Chernoff's bound on one tail of the sum, minimised over a few orders."""
    scale = min(loss.noise for loss in losses)
    orders = np.geomspace(0.02, 200.0, 28) * scale
    bounds: list[float] = [
        (sum(loss.count * loss.log_moment(sign * order) for loss in losses) - math.log(tail))
        / order
        for order in orders.tolist()
    ]
    return min(bounds)


def _composed(losses: Sequence[_Loss], points: int, width: float) -> tuple[Floats, float]:
    """The probability mass of the summed losses on the grid, and the grid's shift."""
    grid = (np.arange(points) - points // 2) * width
    edges = np.append(grid - width / 2.0, grid[-1] + width / 2.0)
    spectrum = np.ones(points // 2 + 1, dtype=np.complex128)
    shift = 0.0
    for loss in losses:
        mass = np.diff(loss.cdf(edges))
        mass /= mass.sum()
        shift += loss.count * (loss.mean() - float(grid @ mass))
        spectrum *= rfft(np.fft.ifftshift(mass)) ** loss.count
    return np.fft.fftshift(irfft(spectrum, points)), shift


def _epsilon_at(mass: Floats, shift: float, width: float, delta: float) -> float:
    """The smallest epsilon whose delta, from the mass of the losses, is at most ``delta``."""
    points = len(mass)
    loss = (np.arange(points) - points // 2) * width + shift
    clean = np.clip(mass, 0.0, None)

    def excess(epsilon: float) -> float:
        above = loss > epsilon
        return float(clean[above] @ -np.expm1(epsilon - loss[above])) - delta

    low, high = float(loss[0]), float(loss[-1])
    while high - low > 1e-6:
        middle = (low + high) / 2.0
        low, high = (middle, high) if excess(middle) > 0.0 else (low, middle)
    return high
