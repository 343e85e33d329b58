"""Privacy loss distributions: how the reference accountant composes what it is given.

Releases without sampling compose exactly into one Gaussian. Each sampled Gaussian is discretised
once and composed with itself; the parts are then composed in a balanced tree over their canonical
order. The tree's nodes are remembered: a book that grows by one task has but a few new ones. The
result depends on the events alone, never on what was remembered.

References:
    Doroshenko et al., "Connect the dots: tighter discrete approximations of privacy loss
    distributions", arXiv:2207.04380.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dp_accounting.pld import privacy_loss_distribution  # type: ignore[import-untyped]

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
)
from hansa.core.privacy.renyi import precision

GRID: Final = 1e-3
"""Widest privacy loss bucket."""

_BUCKETS_PER_DEVIATION: Final = 8.0
"""Buckets of at most an eighth of a step's standard deviation overstate epsilon by about 0.1 %."""
_MAX_BUCKETS: Final = 10_000.0
"""One step's loss is not cut finer than this, which bounds the time of an odd plan."""
_LARGEST_EXPONENT: Final = 100.0

Loss = Any
"""A ``PrivacyLossDistribution``; the library has no types."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """``count`` releases of one Gaussian, each over a Poisson sample of units."""

    rate: float
    noise: float
    count: int

    @property
    def deviation(self) -> float:
        """About the standard deviation of one release's loss, by the chi-square divergence."""
        power = precision(self.noise)
        if self.rate == 1.0:
            return math.sqrt(power)
        return self.rate * math.sqrt(math.expm1(min(power, _LARGEST_EXPONENT)))

    @property
    def reach(self) -> float:
        """About the largest loss that one release can show: at twelve standard deviations."""
        largest = 12.0 / self.noise
        if self.rate == 1.0 or self.noise <= 0.1:
            return largest
        return math.log1p(self.rate * math.expm1(largest))


def parts_of(events: Sequence[PrivacyEvent]) -> tuple[Part, ...]:
    """The events as Gaussians, at most one of them without sampling, in canonical order.

    Args:
        events: merged.

    Raises:
        InvalidInputError: an event has no privacy loss distribution that is known.
    """
    squared_shift = 0.0
    sampled: dict[tuple[float, float], int] = {}
    for event in events:
        match event:
            case Gaussian():
                squared_shift += event.releases * precision(event.noise_multiplier)
            case BandedGaussian():
                moved = event.releases * event.participations
                squared_shift += moved * precision(event.noise_multiplier)
            case PoissonGaussian() | DistributedGaussian() if event.sampling_rate == 1.0:
                squared_shift += event.steps * precision(event.noise_multiplier)
            case PoissonGaussian() | DistributedGaussian():
                key = (event.sampling_rate, event.noise_multiplier)
                sampled[key] = sampled.get(key, 0) + event.steps
            case RepeatAndSelect():
                raise InvalidInputError(
                    "a search on private data has no privacy loss distribution; "
                    "ask epsilon_reference, which accounts for it by RDP"
                )
    whole = [Part(rate=1.0, noise=squared_shift**-0.5, count=1)] if squared_shift else []
    return (*whole, *(Part(rate=q, noise=z, count=n) for (q, z), n in sorted(sampled.items())))


def epsilon_of(parts: Sequence[Part], delta: float, grid: float = GRID) -> float:
    """Epsilon of all parts together: an upper bound.

    Args:
        parts: at least one; each with a finite loss.
        delta: between 0 and 1.
        grid: widest privacy loss bucket.
    """
    composed = _composed(tuple(parts), bucket(parts, grid))
    return max(0.0, float(composed.get_epsilon_for_delta(delta)))


def bucket(parts: Sequence[Part], grid: float = GRID) -> float:
    """The width of a bucket: ``grid`` halved until single steps are not blurred by it.

    It only sets how tight the bound is, and never whether it is one.
    """
    steps = sum(part.count for part in parts)
    deviation = math.sqrt(sum(part.count * part.deviation**2 for part in parts) / steps)
    reach = max(part.reach for part in parts)
    fine = max(deviation / _BUCKETS_PER_DEVIATION, reach / _MAX_BUCKETS)
    return math.ldexp(grid, -max(0, math.ceil(math.log2(grid / fine))))


@functools.lru_cache(maxsize=64)
def _composed(parts: tuple[Part, ...], grid: float) -> Loss:
    if len(parts) == 1:
        loss = _single(parts[0].rate, parts[0].noise, grid)
        return loss if parts[0].count == 1 else loss.self_compose(parts[0].count)
    middle = len(parts) // 2
    return _composed(parts[:middle], grid).compose(_composed(parts[middle:], grid))


@functools.lru_cache(maxsize=64)
def _single(rate: float, noise: float, grid: float) -> Loss:
    """The loss of one release, rounded so that it is never too small."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise, sampling_prob=rate, value_discretization_interval=grid
    )
