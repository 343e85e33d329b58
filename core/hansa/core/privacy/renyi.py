"""Renyi bounds in closed form: coarse, always above the truth, and known at once.

They decide what needs no exact figure, and they price what nothing else can price: a search on
private data. A bound at any set of orders is valid, so integer orders suffice, where the sampled
Gaussian has a finite sum.

References:
    Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian mechanism",
    arXiv:1908.10530, section 3.3 (the sum; add-or-remove-one, the larger of both directions).
    Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", arXiv:2004.00010,
    Proposition 12 (from Renyi divergence to epsilon).
    Papernot and Steinke, "Hyperparameter tuning with Renyi differential privacy",
    arXiv:2110.03620, Theorem 2 and Definition 1 (searches).
"""

import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp  # type: ignore[import-untyped]

from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
)

Floats = npt.NDArray[np.float64]

ORDERS: Final = np.array([*range(2, 65), 80, 96, 128, 192, 256, 512, 1024], dtype=np.float64)
_MEAN_TOLERANCE: Final = 1e-12


def renyi_epsilon(events: Sequence[PrivacyEvent], delta: float) -> float:
    """An upper bound on epsilon, infinite where no order is finite.

    Args:
        events: all releases about the same units, in any order.
        delta: between 0 and 1.
    """
    if not events:
        return 0.0
    divergence = np.sum([renyi_divergence(event) for event in events], axis=0)
    log_orders = np.log(ORDERS)
    epsilons = (
        divergence + np.log1p(-1.0 / ORDERS) - (math.log(delta) + log_orders) / (ORDERS - 1.0)
    )
    return max(0.0, float(epsilons.min()))


def renyi_divergence(event: PrivacyEvent) -> Floats:
    """The event's Renyi divergence at each of ``ORDERS``, infinite where it is out of reach."""
    match event:
        case Gaussian():
            return _gaussian(event.noise_multiplier, float(event.releases))
        case BandedGaussian():
            moved = float(event.releases) * float(event.participations)
            return _gaussian(event.noise_multiplier, moved)
        case PoissonGaussian() | DistributedGaussian():
            return event.steps * _sampled(event.sampling_rate, event.noise_multiplier)
        case RepeatAndSelect():
            trial = np.sum([renyi_divergence(part) for part in event.trial], axis=0)
            return event.releases * _selected(trial, event.mean, event.shape)


def precision(noise_multiplier: float) -> float:
    """One over the square of the noise; infinite where that is too large for a number."""
    return (1.0 / noise_multiplier) * (1.0 / noise_multiplier)


def _gaussian(noise: float, squared_sensitivity: float) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(ORDERS * (0.5 * precision(noise) * squared_sensitivity))


@functools.lru_cache(maxsize=4096)
def _sampled(rate: float, noise: float) -> Floats:
    """One step's divergence, by the finite sum over how often the unit is counted."""
    if rate == 1.0:
        return _gaussian(noise, 1.0)
    half = 0.5 * precision(noise)
    return np.array([_log_moment(int(order), rate, half) / (order - 1.0) for order in ORDERS])


def _log_moment(order: int, rate: float, half: float) -> float:
    """The log of the moment of this order of mixture over Gaussian."""
    drawn = np.arange(order + 1, dtype=np.float64)
    choices = gammaln(order + 1.0) - gammaln(drawn + 1.0) - gammaln(order - drawn + 1.0)
    chances = (order - drawn) * math.log1p(-rate) + drawn * math.log(rate)
    with np.errstate(over="ignore", invalid="ignore"):
        tilt = np.where(drawn < 2.0, 0.0, (drawn**2 - drawn) * half)
        return max(0.0, float(logsumexp(choices + chances + tilt)))


def _selected(trial: Floats, mean: float, shape: float) -> Floats:
    """The divergence of the best of a random number of trials, from that of one trial."""
    log_gamma = math.log(stopping_rate(mean, shape))
    constant = (1.0 + shape) * float(np.min((1.0 - 1.0 / ORDERS) * trial - log_gamma / ORDERS))
    raw = trial + math.log(mean) / (ORDERS - 1.0) + constant
    # Divergence grows with the order: what holds at a higher one holds at every lower one.
    return np.minimum.accumulate(raw[::-1])[::-1]


def stopping_rate(mean: float, shape: float) -> float:
    """The parameter of the truncated negative binomial distribution that has this mean.

    Args:
        mean: expected number of trials, above 1.
        shape: 1 for the geometric, 0 for the logarithmic distribution.

    Returns:
        A number between 0 and 1; the larger the mean, the smaller.
    """
    low, high = -700.0, 0.0
    while high - low > _MEAN_TOLERANCE:
        middle = (low + high) / 2.0
        low, high = (middle, high) if _mean(middle, shape) > mean else (low, middle)
    return math.exp(low)


def _mean(log_gamma: float, shape: float) -> float:
    """The mean of the distribution; falls as its parameter grows."""
    gamma = math.exp(log_gamma)
    failure = -math.expm1(log_gamma)
    if failure == 0.0:
        return 1.0
    if shape == 0.0:
        return failure / gamma / -log_gamma
    return shape * failure / gamma / -math.expm1(shape * log_gamma)
