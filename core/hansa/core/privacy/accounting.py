"""What booked events cost: epsilon at a given delta, per unit, add-or-remove-one.

The reference is Google's PLD accountant, whose discretisation rounds pessimistically, so that the
result is an upper bound. Renyi accounting is the coarser sanity bound above it. The auditor's own
accountant (``hansa.audit.prv``) shares no code with either.

A search on private data (``RepeatAndSelect``) is known by its Renyi divergence only. A book that
holds one is therefore priced by RDP as a whole: Renyi divergences add up over all releases,
searches and others, at each order, so that the sum is sound. ``reference_accountant`` says which of
the two gave a figure; without a search it is always PLD.

References:
    Doroshenko et al., "Connect the dots: tighter discrete approximations of privacy loss
    distributions", arXiv:2207.04380.
    Mironov, Talwar, Zhang, "Renyi differential privacy of the sampled Gaussian mechanism",
    arXiv:1908.10530.
"""

import functools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from typing import Final, Literal

import dp_accounting  # type: ignore[import-untyped]
import numpy as np
from dp_accounting import dp_event, rdp

from hansa.core.errors import InvalidInputError
from hansa.core.privacy import pld
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
    merge,
)
from hansa.core.privacy.renyi import renyi_epsilon

GRID: Final = pld.GRID
"""Widest privacy loss bucket."""

_HOPELESS: Final = 1000.0
"""Above this Renyi bound an exact figure is pointless and its computation explodes."""

_ORDERS: Final = (*np.arange(2.0, 11.0, 0.25).tolist(), *range(11, 65), 128, 256, 512, 1024)
_RELATION: Final = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_MARGIN: Final = 1.01
_SLACK: Final = 0.01
"""PLD exceeds a Renyi bound by far less than these, and only where its buckets blur it."""

Accountant = Literal["google-pld", "google-rdp"]


def epsilon_pld(events: Sequence[PrivacyEvent], delta: float, *, grid: float = GRID) -> float:
    """Epsilon by privacy loss distributions: an upper bound, tight to about ``grid``.

    Buckets are narrower than ``grid`` where single steps lose so little that it would blur them.
    Beyond any sensible budget (a Renyi bound above 1000) the Renyi bound itself is returned.

    Args:
        events: all releases about the same units, in any order.
        delta: the probability that the bound may fail, between 0 and 1.
        grid: widest privacy loss bucket; smaller is tighter and slower.

    Raises:
        InvalidInputError: an event is unknown or a search, the units differ, or delta or the grid
            is out of bounds.
    """
    if not (math.isfinite(grid) and grid > 0.0):
        raise InvalidInputError("the accountant's grid must be a positive number")
    return _epsilon_pld(merge(events), _checked_delta(delta), grid)


def epsilon_rdp(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Epsilon by Renyi accounting: an upper bound, and never tighter than PLD but for its grid.

    Raises:
        InvalidInputError: an event is unknown, the units differ, or delta is out of bounds.
    """
    return _epsilon_rdp(merge(events), _checked_delta(delta))


def reference_accountant(events: Iterable[PrivacyEvent]) -> Accountant:
    """Whose figure ``epsilon_reference`` gives: PLD, or RDP where there is a search."""
    search = any(isinstance(event, RepeatAndSelect) for event in events)
    return "google-rdp" if search else "google-pld"


def epsilon_reference(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Epsilon as ledgers, caps and releases count it: by the accountant that can price all events.

    Args:
        events: all releases about the same units, in any order.
        delta: the probability that the bound may fail, between 0 and 1.

    Raises:
        InvalidInputError: an event is unknown, the units differ, or delta is out of bounds.
    """
    merged = merge(events)
    if reference_accountant(merged) == "google-rdp":
        return epsilon_rdp(merged, delta)
    return epsilon_pld(merged, delta)


def exceeding(
    booked: Iterable[PrivacyEvent], new: Iterable[PrivacyEvent], delta: float, cap: float
) -> float | None:
    """What a book would have spent with new events, if that is more than the cap; else None.

    The decision is that of ``epsilon_reference``. Far below the cap a Renyi bound decides, in less
    than a millisecond for mechanisms that were seen before; an exact figure is computed only near
    the cap or above it.

    Args:
        booked: what is spent.
        new: what is asked for.
        delta: the probability that the bound may fail, between 0 and 1.
        cap: what may be spent in total.

    Raises:
        InvalidInputError: an event is unknown, the units differ, or delta is out of bounds.
    """
    merged = merge([*booked, *new])
    if renyi_epsilon(merged, _checked_delta(delta)) * _MARGIN + _SLACK <= cap:
        return None
    epsilon = epsilon_reference(merged, delta)
    return epsilon if epsilon > cap else None


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


def _checked_delta(delta: float) -> float:
    if not 0.0 < delta < 1.0:
        raise InvalidInputError("delta must lie between 0 and 1, both excluded")
    return delta


@functools.lru_cache(maxsize=256)
def _epsilon_pld(events: tuple[PrivacyEvent, ...], delta: float, grid: float) -> float:
    parts = pld.parts_of(events)
    if not parts:
        return 0.0
    bound = renyi_epsilon(events, delta)
    if bound > _HOPELESS:
        return bound
    return pld.epsilon_of(parts, delta, grid)


@functools.lru_cache(maxsize=256)
def _epsilon_rdp(events: tuple[PrivacyEvent, ...], delta: float) -> float:
    if not events:
        return 0.0
    accountant = rdp.RdpAccountant(_ORDERS, _RELATION)
    with _quiet():
        for event in events:
            accountant.compose(*_dp_event(event))
        return max(0.0, float(accountant.get_epsilon(delta)))


def _dp_event(event: PrivacyEvent) -> tuple[dp_accounting.DpEvent, int]:
    """The event in dp_accounting's language, and how often it happened."""
    match event:
        case PoissonGaussian() | DistributedGaussian():
            noise = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            return dp_accounting.PoissonSampledDpEvent(event.sampling_rate, noise), event.steps
        case Gaussian():
            return dp_accounting.GaussianDpEvent(event.noise_multiplier), event.releases
        case BandedGaussian():
            effective = event.noise_multiplier / math.sqrt(event.participations)
            return dp_accounting.GaussianDpEvent(effective), event.releases
        case RepeatAndSelect():
            parts = [dp_accounting.SelfComposedDpEvent(*_dp_event(part)) for part in event.trial]
            trial = dp_accounting.ComposedDpEvent(parts)
            repeated = dp_event.RepeatAndSelectDpEvent(trial, event.mean, event.shape)
            return repeated, event.releases


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
