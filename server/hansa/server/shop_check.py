"""Whether a shop of a given size can learn anything under a plan's noise.

The size is hypothetical and public: nobody's shoppers are counted. What is compared is the longest
sum that a step can have (every sampled unit pulls its whole clip norm in one direction) with the
typical length of the noise on all trained numbers. Real gradients agree far less, so that the ratio
is at best. Over a run of T steps it grows with the root of T.
"""

import math
from dataclasses import replace
from typing import Final

from pydantic import BaseModel, ConfigDict

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import epsilon_reference, round_up
from hansa.core.privacy.calibration import needed_noise
from hansa.core.privacy.plan import PrivacyPlan

LEAST_RATIO: Final = 3.0
"""Below this ratio over the run little of the gain is left; a rule of thumb, and no bound."""

_MAX_SHOPPERS: Final = 1_000_000_000


class ShopOutlook(BaseModel):
    """What a plan means for one shop of a hypothetical size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shoppers: int
    sampled_per_step: float
    """Units that a step expects; the plan divides by ``expected_shoppers`` whatever it is."""
    fitting_sampling_rate: float | None
    """The rate at which a step of this shop expects ``expected_shoppers``; None with bands."""
    needed_noise_multiplier: float | None
    """The noise that keeps the same epsilon at that rate; None where none up to 1000 does."""
    epsilon: str
    signal_to_noise_step: float | None
    """At best, in one step; None where the number of trained values is not known here."""
    signal_to_noise_run: float | None
    """At best, over the whole run."""
    useful: bool | None
    verdict: str


def outlook(
    privacy: PrivacyPlan, shoppers: int, quorum: int, trained_numbers: int | None
) -> ShopOutlook:
    """What the plan means for a shop of so many shoppers.

    Args:
        privacy: the plan's privacy.
        shoppers: a public, hypothetical size, from 1 up.
        quorum: merchants whose updates make an aggregate at least.
        trained_numbers: values that are trained and noised; None where that is not known.

    Raises:
        InvalidInputError: the size is out of bounds.
    """
    if not 1 <= shoppers <= _MAX_SHOPPERS:
        raise InvalidInputError(f"a shop has 1 to {_MAX_SHOPPERS} shoppers")
    share = privacy.sampling_rate if privacy.bands is None else 1.0 / privacy.bands
    units = shoppers * (privacy.records_per_shopper if privacy.unit == "record" else 1)
    fitting = min(1.0, privacy.expected_shoppers / units) if privacy.bands is None else None
    spent = epsilon_reference(privacy.run_events(), privacy.delta)
    step, run = _ratios(privacy, share * units, quorum, trained_numbers)
    return ShopOutlook(
        shoppers=shoppers,
        sampled_per_step=share * units,
        fitting_sampling_rate=fitting,
        needed_noise_multiplier=None if fitting is None else _needed(privacy, fitting, spent),
        epsilon=str(round_up(spent)),
        signal_to_noise_step=step,
        signal_to_noise_run=run,
        useful=None if run is None else run >= LEAST_RATIO,
        verdict=_verdict(privacy, run, quorum),
    )


def _ratios(
    privacy: PrivacyPlan, sampled: float, quorum: int, numbers: int | None
) -> tuple[float, float] | tuple[None, None]:
    if numbers is None:
        return None, None
    pooled = sampled * (quorum if privacy.honest is not None else 1)
    step = pooled / (privacy.noise_multiplier * math.sqrt(numbers))
    return step, step * math.sqrt(privacy.rounds * privacy.local_steps)


def _needed(privacy: PrivacyPlan, rate: float, target: float) -> float | None:
    if not (privacy.rounds and target > 0.0):
        return None
    try:
        return needed_noise(replace(privacy, sampling_rate=rate), target)
    except InvalidInputError:
        return None


def _verdict(privacy: PrivacyPlan, run: float | None, quorum: int) -> str:
    if run is None:
        return "not known without the base model's sizes: name it with --base-model"
    shared = privacy.honest is not None
    if run >= LEAST_RATIO:
        return f"not too small: at best the signal is {run:.1f} times the noise over the run"
    if shared:
        return (
            f"too small for a useful budget, even pooled by the quorum of {quorum}: at best the "
            f"signal is {run:.1f} times the noise over the run, and below {LEAST_RATIO:g} little "
            "of the gain is left"
        )
    averaged = run * math.sqrt(quorum)
    return (
        f"too small for a useful budget by itself: at best the signal is {run:.1f} times the noise "
        f"over the run, and below {LEAST_RATIO:g} little of the gain is left. Averaging over the "
        f"quorum of {quorum} makes it {averaged:.1f}; distributed noise would make it "
        f"{run * quorum:.1f}. If that is too little, train nothing there"
    )
