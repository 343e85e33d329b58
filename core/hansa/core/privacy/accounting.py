"""What booked events cost: epsilon at a given delta, per shopper, add-or-remove-one.

The reference is Google's PLD accountant, whose discretisation rounds pessimistically, so that the
result is an upper bound. Renyi accounting is the coarser sanity bound above it. The auditor's own
accountant (``hansa.audit.prv``) shares no code with either.

References:
    Doroshenko et al., "Connect the dots: tighter discrete approximations of privacy loss
    distributions", arXiv:2207.04380.
    Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian mechanism",
    arXiv:1908.10530.
"""

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from typing import Final

import dp_accounting  # type: ignore[import-untyped]
import numpy as np
from dp_accounting import pld, rdp

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.events import Gaussian, PoissonGaussian, PrivacyEvent, merge

GRID: Final = 1e-3
"""Widest privacy loss bucket."""

_BUCKETS_PER_DEVIATION: Final = 8.0
"""Buckets of at most an eighth of a step's standard deviation overstate epsilon by about 0.1 %."""

_MAX_BUCKETS: Final = 10_000.0
"""One step's loss is not cut finer than this, which bounds the time of an odd plan."""

_HOPELESS: Final = 1000.0
"""Above this Renyi bound an exact figure is pointless and its computation explodes."""

_ORDERS: Final = (*np.arange(2.0, 11.0, 0.25).tolist(), *range(11, 65), 128, 256, 512, 1024)
_GUARD_ORDERS: Final = (2, 4, 8, 16, 32)
_RELATION: Final = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_MAX_MULTIPLIER: Final = 1000.0
_LARGEST_EXPONENT: Final = 100.0


def epsilon_pld(events: Sequence[PrivacyEvent], delta: float, *, grid: float = GRID) -> float:
    """Epsilon by privacy loss distributions: an upper bound, tight to about ``grid``.

    Buckets are narrower than ``grid`` where single steps lose so little that it would blur them.
    Beyond any sensible budget (a Renyi bound above 1000) the Renyi bound itself is returned.

    Args:
        events: all releases about the same shoppers, in any order.
        delta: the probability that the bound may fail, between 0 and 1.
        grid: widest privacy loss bucket; smaller is tighter and slower.

    Raises:
        InvalidInputError: an event is unknown, or delta or the grid is out of bounds.
    """
    if not (math.isfinite(grid) and grid > 0.0):
        raise InvalidInputError("the accountant's grid must be a positive number")
    return _epsilon_pld(merge(events), _checked_delta(delta), grid)


def epsilon_rdp(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Epsilon by Renyi accounting: an upper bound, and never tighter than PLD but for its grid.

    Raises:
        InvalidInputError: an event is unknown, or delta is out of bounds.
    """
    return _epsilon_rdp(merge(events), _checked_delta(delta), _ORDERS)


def accountants() -> dict[str, str]:
    """The accountants behind this module's figures, name to version, for manifests and reports."""
    installed = version("dp-accounting")
    return {"google-pld": installed, "google-rdp": installed}


def round_up(epsilon: float) -> Decimal:
    """Epsilon for people: two decimals, never below the true value.

    Raises:
        InvalidInputError: epsilon is negative or not finite.
    """
    if not (math.isfinite(epsilon) and epsilon >= 0.0):
        raise InvalidInputError("epsilon must be a finite number of at least 0")
    return Decimal(repr(epsilon)).quantize(Decimal("0.01"), rounding=ROUND_CEILING)


def calibrate_noise(
    target_epsilon: float,
    *,
    delta: float,
    sampling_rate: float,
    steps: int,
    booked: Sequence[PrivacyEvent] = (),
    tolerance: float = 1e-3,
) -> float:
    """The smallest noise multiplier whose training keeps to the target, up to ``tolerance``.

    Args:
        target_epsilon: what everything together may cost.
        delta: as in ``epsilon_pld``.
        sampling_rate: Poisson probability that a shopper takes part in a step.
        steps: optimiser steps of the whole run.
        booked: what the same shoppers have spent, or will spend, besides.
        tolerance: the result exceeds the smallest possible multiplier by at most this.

    Raises:
        InvalidInputError: an argument is out of bounds, or no noise multiplier up to 1000 suffices.
    """
    if not (target_epsilon > 0.0 and tolerance > 0.0):
        raise InvalidInputError("the target epsilon and the tolerance must be above 0")

    def keeps(noise: float) -> bool:
        training = PoissonGaussian(sampling_rate=sampling_rate, noise_multiplier=noise, steps=steps)
        return epsilon_pld([*booked, training], delta) <= target_epsilon

    high = 1.0
    while not keeps(high):
        high *= 2.0
        if high > _MAX_MULTIPLIER:
            raise InvalidInputError(
                f"no noise multiplier keeps epsilon to {target_epsilon}; plan fewer steps"
            )
    low = high / 2.0 if high > 1.0 else 0.0
    while high - low > tolerance:
        middle = (low + high) / 2.0
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _checked_delta(delta: float) -> float:
    if not 0.0 < delta < 1.0:
        raise InvalidInputError("delta must lie between 0 and 1, both excluded")
    return delta


@functools.lru_cache(maxsize=256)
def _epsilon_pld(events: tuple[PrivacyEvent, ...], delta: float, grid: float) -> float:
    if not events:
        return 0.0
    bound = _epsilon_rdp(events, delta, _GUARD_ORDERS)
    if bound > _HOPELESS:
        return bound
    fine = max(_step_deviation(events) / _BUCKETS_PER_DEVIATION, _step_reach(events) / _MAX_BUCKETS)
    accountant = pld.PLDAccountant(_RELATION, value_discretization_interval=min(grid, fine))
    return _compose(accountant, events, delta)


def _step_reach(events: tuple[PrivacyEvent, ...]) -> float:
    """About the largest privacy loss that one step can show: at twelve standard deviations."""
    return max(
        math.log1p(event.sampling_rate * math.expm1(12.0 / event.noise_multiplier))
        if isinstance(event, PoissonGaussian) and event.noise_multiplier > 0.1
        else 12.0 / event.noise_multiplier
        for event in events
    )


def _step_deviation(events: tuple[PrivacyEvent, ...]) -> float:
    """The privacy loss's standard deviation in one step, in root mean square over the steps.

    It is estimated by the chi-square divergence, which only sets the grid and never the guarantee.
    Releases without sampling count as one step, for they are composed exactly.
    """
    variance, steps = 0.0, 0
    for event in events:
        precision = event.noise_multiplier**-2.0
        if isinstance(event, PoissonGaussian):
            chi_square = event.sampling_rate**2 * math.expm1(min(precision, _LARGEST_EXPONENT))
            variance, steps = variance + event.steps * chi_square, steps + event.steps
        else:
            variance, steps = variance + event.releases * precision, steps + 1
    return math.sqrt(variance / steps)


@functools.lru_cache(maxsize=256)
def _epsilon_rdp(
    events: tuple[PrivacyEvent, ...], delta: float, orders: tuple[float, ...]
) -> float:
    if not events:
        return 0.0
    return _compose(rdp.RdpAccountant(orders, _RELATION), events, delta)


def _compose(
    accountant: dp_accounting.PrivacyAccountant, events: tuple[PrivacyEvent, ...], delta: float
) -> float:
    with _quiet():
        for event in events:
            accountant.compose(*_dp_event(event))
        return max(0.0, float(accountant.get_epsilon(delta)))


def _dp_event(event: PrivacyEvent) -> tuple[dp_accounting.DpEvent, int]:
    """The event in dp_accounting's language, and how often it happened."""
    noise = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    match event:
        case PoissonGaussian():
            return dp_accounting.PoissonSampledDpEvent(event.sampling_rate, noise), event.steps
        case Gaussian():
            return noise, event.releases


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops dp_accounting's note that it left out an order: leaving one out keeps the bound."""
    logger = logging.getLogger("absl")
    logger.addFilter(_worth_reading)
    try:
        yield
    finally:
        logger.removeFilter(_worth_reading)


def _worth_reading(record: logging.LogRecord) -> bool:
    return "Excluding this order" not in str(record.msg)
