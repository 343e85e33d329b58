"""How much noise a target epsilon needs: accounting, read backwards.

Every cost here falls as the noise grows, so that halving an interval finds the smallest noise that
keeps to the target.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import exceeding
from hansa.core.privacy.events import PoissonGaussian, PrivacyEvent
from hansa.core.privacy.plan import PrivacyPlan

MAX_MULTIPLIER: Final = 1000.0
"""The most noise that a plan may ask for."""

_TOLERANCE: Final = 1e-3


def calibrate_noise(
    target_epsilon: float,
    *,
    delta: float,
    sampling_rate: float,
    steps: int,
    booked: Sequence[PrivacyEvent] = (),
    tolerance: float = _TOLERANCE,
) -> float:
    """The smallest noise multiplier whose training keeps to the target, up to ``tolerance``.

    Args:
        target_epsilon: what everything together may cost.
        delta: as in ``epsilon_pld``.
        sampling_rate: Poisson probability that a unit takes part in a step.
        steps: optimiser steps of the whole run.
        booked: what the same units have spent, or will spend, besides.
        tolerance: the result exceeds the smallest possible multiplier by at most this.

    Raises:
        InvalidInputError: an argument is out of bounds, or no noise multiplier up to 1000 suffices.
    """

    def training(noise: float) -> PrivacyEvent:
        return PoissonGaussian(sampling_rate=sampling_rate, noise_multiplier=noise, steps=steps)

    return smallest_noise(training, target_epsilon, delta, booked=booked, tolerance=tolerance)


def smallest_noise(
    training: Callable[[float], PrivacyEvent],
    target_epsilon: float,
    delta: float,
    *,
    booked: Sequence[PrivacyEvent] = (),
    tolerance: float = _TOLERANCE,
) -> float:
    """The smallest noise multiplier at which an event and what is booked keep to the target.

    Args:
        training: the event at a given noise multiplier; its cost falls as the noise grows.
        target_epsilon: what everything together may cost.
        delta: as in ``epsilon_pld``.
        booked: what the same units have spent, or will spend, besides.
        tolerance: the result exceeds the smallest possible multiplier by at most this.

    Raises:
        InvalidInputError: an argument is out of bounds, or no noise multiplier up to 1000 suffices.
    """
    if not (target_epsilon > 0.0 and tolerance > 0.0):
        raise InvalidInputError("the target epsilon and the tolerance must be above 0")

    def keeps(noise: float) -> bool:
        return exceeding(booked, [training(noise)], delta, target_epsilon) is None

    high = 1.0
    while not keeps(high):
        high *= 2.0
        if high > MAX_MULTIPLIER:
            raise InvalidInputError(
                f"no noise multiplier keeps epsilon to {target_epsilon}; plan fewer steps"
            )
    low = high / 2.0 if high > 1.0 else 0.0
    while high - low > tolerance:
        middle = (low + high) / 2.0
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def needed_noise(plan: PrivacyPlan, target_epsilon: float) -> float:
    """The least noise multiplier, of three decimals, with which a plan's run keeps to the target.

    Everything else is left as the plan says, its evaluation included; the plan's own noise is not
    looked at. The target is for the plan's unit.

    Raises:
        InvalidInputError: the plan trains nothing, the target is not above 0, or no noise
            multiplier up to 1000 suffices.
    """
    if not plan.rounds:
        raise InvalidInputError("a plan of 0 rounds trains nothing, so that no noise is needed")
    evaluation = plan.evaluation_event()

    def training(noise: float) -> PrivacyEvent:
        return replace(plan, noise_multiplier=noise).training_events()[0]

    least = smallest_noise(
        training,
        target_epsilon,
        plan.delta,
        booked=[] if evaluation is None else [evaluation],
        tolerance=_TOLERANCE / 5.0,
    )
    return math.ceil(least * 1000.0) / 1000.0
