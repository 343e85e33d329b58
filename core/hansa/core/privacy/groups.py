"""What several units together cost that one person is behind.

An epsilon holds for one unit. Where a person is behind several (k records of one shopper, or a
shopper of m merchants whose sums share one noise), each of them enters a sampled sum by itself, so
that the number that enters is binomial and the person moves the sum by up to that many clip norms.
That mixture of Gaussians is composed exactly, which is far below the generic bound for groups.

References:
    Choquette-Choo et al., "Privacy amplification for matrix mechanisms", arXiv:2310.15526 (the
    mixture of Gaussians mechanism and its privacy loss).
    Charles et al., "Fine-tuning large language models with user-level differential privacy",
    arXiv:2407.07737 (user-level figures for record-level training).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

from dp_accounting.pld import privacy_loss_distribution  # type: ignore[import-untyped]

from hansa.core.errors import InvalidInputError
from hansa.core.privacy import pld
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.events import (
    BandedGaussian,
    Gaussian,
    PrivacyEvent,
    RepeatAndSelect,
    merge,
    times,
)

MAX_GROUP: Final = 64
"""Beyond so many units together no figure is computed."""

_COARSEST: Final = 4e-3
_BUCKETS_PER_DEVIATION: Final = 8.0
_MAX_BUCKETS: Final = 4000.0
_HOPELESS: Final = 200.0
"""A single unit's epsilon times the size above which the group's is not computed."""


def epsilon_of_group(
    events: Sequence[PrivacyEvent],
    size: int,
    delta: float,
    *,
    besides: Sequence[PrivacyEvent] = (),
) -> float:
    """Epsilon of ``size`` units of the events at once: an upper bound.

    It is infinite where no figure is worth its computation: above 64 units, or where the size times
    a single unit's epsilon is above 200.

    Args:
        events: releases about single units, in any order; no searches.
        size: how many units one person may be behind.
        delta: the probability that the bound may fail, between 0 and 1.
        besides: releases that are bounded for the person as a whole already.

    Raises:
        InvalidInputError: an event is unknown or a search, the units differ, delta is out of
            bounds, or the size is below 1.
    """
    if size < 1:
        raise InvalidInputError("a group has at least 1 of the units")
    if size == 1 or not events:
        return epsilon_pld([*events, *besides], delta)
    alone = epsilon_pld([*events, *besides], delta)
    if size > MAX_GROUP or alone > _HOPELESS / size:
        return math.inf
    moved = [_moved_by(event, size) for event in merge(events)]
    whole = [event for event in moved if isinstance(event, Gaussian)]
    sampled = [event for event in moved if not isinstance(event, Gaussian)]
    return _epsilon(
        pld.parts_of(merge([*whole, *besides])), pld.parts_of(merge(sampled)), size, delta
    )


def _moved_by(event: PrivacyEvent, size: int) -> PrivacyEvent:
    """A release without sampling as the group sees it: all its units may enter every sum."""
    match event:
        case RepeatAndSelect():
            raise InvalidInputError("what a search costs several units together is not known")
        case Gaussian():
            noise = event.noise_multiplier / size
            return event.model_copy(update={"noise_multiplier": noise})
        case BandedGaussian():
            noise = event.noise_multiplier / size / math.sqrt(event.participations)
            return Gaussian(unit=event.unit, noise_multiplier=noise, releases=event.releases)
        case _:
            return times(event, event.steps)


@functools.lru_cache(maxsize=128)
def _epsilon(
    whole: tuple[pld.Part, ...], sampled: tuple[pld.Part, ...], size: int, delta: float
) -> float:
    """Epsilon of all parts; ``whole`` are moved as they say, of ``sampled`` the group is drawn."""
    together = [part for part in sampled if part.rate == 1.0]
    drawn = [part for part in sampled if part.rate < 1.0]
    grid = _bucket(drawn, size)
    losses = [_mixture(part, size, grid) for part in drawn]
    losses += [_gaussian(part.noise / size, grid) for part in together]
    losses += [_gaussian(part.noise, grid) for part in whole]
    composed = functools.reduce(lambda left, right: left.compose(right), losses)
    return max(0.0, float(composed.get_epsilon_for_delta(delta)))


def _bucket(drawn: Sequence[pld.Part], size: int) -> float:
    """Wider than for single units, whose losses are smaller; it never makes the bound too small."""
    if not drawn:
        return pld.GRID
    fine = size * min(part.deviation for part in drawn) / _BUCKETS_PER_DEVIATION
    least = size * max(12.0 / part.noise for part in drawn) / _MAX_BUCKETS
    return min(_COARSEST, max(fine, least))


def _mixture(part: pld.Part, size: int, grid: float) -> Any:
    """The loss of sums that each see a binomial number of the group's units."""
    drawn = range(size + 1)
    loss = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        part.noise,
        [float(number) for number in drawn],
        [
            math.comb(size, number) * part.rate**number * (1.0 - part.rate) ** (size - number)
            for number in drawn
        ],
        value_discretization_interval=grid,
    )
    return loss.self_compose(part.count)


def _gaussian(noise: float, grid: float) -> Any:
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=grid
    )
