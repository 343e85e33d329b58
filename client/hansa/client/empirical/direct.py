"""Figures of a release that must be what the plan says: noise, divisor, clipping.

Canaries see gross faults of any kind, and no factor of 1.5. These checks see small ones, of these
kinds. They look at what a merchant releases, with plain descent in the optimiser's place: whatever
follows the division is post-processing, and would hide the scale.

* ``noise-scale``: the standard deviation of a release in which nobody has a say;
* ``noise-scale-by-size``: the same with fifty times the units; a divisor, or noise, that knows
  the true number of units would show in it;
* ``clipped-length``: how far one unit of enormous gradient moves the clipped sum.
"""

import math
from typing import Any, Final

import numpy as np

from hansa.client.empirical.attacked import Movement, released_by_learner, seeded
from hansa.client.empirical.gradients import (
    LOUDNESS,
    GradientLearner,
    empty_shop,
    orthogonal_directions,
    shoppers_of,
)
from hansa.client.empirical.setting import Setting, changed
from hansa.client.training.learner import Steps
from hansa.client.training.samples import ShopData
from hansa.core.empirical import DirectCheck
from hansa.core.plan import RunPlan
from hansa.core.privacy.banded import prefix_errors
from hansa.core.privacy.noise_share import NoiseShare
from hansa.core.privacy.plan import PrivacyPlan

NUMBERS: Final = 1 << 15
"""Of the release; its standard deviation is then known to 0.4 %."""
FEW, MANY = 8, 400

_NOISE_TOLERANCE: Final = 0.025
_LENGTH_TOLERANCE: Final = 1e-4


def direct_checks(setting: Setting, seed: int) -> tuple[DirectCheck, ...]:
    """All checks of a plan, under one test setting."""
    plan = _plain_descent(setting.plan)
    few, many = (float(np.std(_silent(plan, units, seed))) for units in (FEW, MANY))
    return (
        DirectCheck(
            name="noise-scale",
            measured=few,
            expected=expected_noise(plan),
            tolerance=_NOISE_TOLERANCE,
        ),
        DirectCheck(
            name="noise-scale-by-size",
            measured=many / few,
            expected=1.0,
            tolerance=_NOISE_TOLERANCE,
        ),
        DirectCheck(
            name="clipped-length",
            measured=_loud_length(plan, seed),
            expected=plan.privacy.clip_norm,
            tolerance=_LENGTH_TOLERANCE,
        ),
    )


def expected_noise(plan: RunPlan) -> float:
    """The standard deviation of the noise in what plain descent releases in all rounds."""
    privacy = PrivacyPlan.of(plan)
    rate = plan.training.learning_rate
    if privacy.honest is not None:
        share = NoiseShare.of(plan, NUMBERS)
        whole = share.share_sigma * math.sqrt(privacy.honest) / 2.0**share.fraction_bits
        step = rate * privacy.clip_norm / privacy.honest
        return whole * step * math.sqrt(privacy.rounds)
    step = rate * privacy.noise_std / privacy.expected_shoppers
    if privacy.bands is not None:
        return step * float(prefix_errors(privacy.bands, privacy.local_steps)[-1])
    return step * math.sqrt(privacy.local_steps)


def _plain_descent(plan: RunPlan) -> RunPlan:
    """The plan without what follows the division."""
    plain: dict[str, Any] = {"optimizer": "sgd", "weight_decay": 0.0, "average_tail": None}
    body = plan.model_dump(mode="json")
    body["training"].pop("adamw", None)
    return changed(type(plan).model_validate({**body, "training": body["training"] | plain}))


def _silent(plan: RunPlan, units: int, seed: int) -> Movement:
    """A release to which so many units contribute zero each."""
    rows = np.zeros((units, NUMBERS), np.float32)
    entropy = seeded(seed, "silent")  # whose first bytes are the noise's key: it is the same noise
    return released_by_learner(
        lambda: GradientLearner(rows, plan), _data(plan, units), plan, entropy
    )


def _loud_length(plan: RunPlan, seed: int) -> float:
    """The length of the clipped sum over one unit, before any noise."""
    rng = np.random.default_rng([seed, 1])
    rows = orthogonal_directions(2, rng)[:1] * np.float32(LOUDNESS * plan.privacy.clip_norm)
    steps = Steps(learner=GradientLearner(rows, plan), data=_data(plan, 1), plan=plan)
    lengths = [
        float(steps.one_sum(step, seeded(seed, "loud")).norm())
        for step in range(plan.training.local_steps)
    ]
    return max(lengths)  # with banded noise it is the unit's turn in one step of a few


def _data(plan: RunPlan, units: int) -> ShopData:
    shop = empty_shop(units)
    return ShopData(
        shoppers=shoppers_of([True] * units, plan.privacy.unit),
        embeddings=shop.embeddings,
        negatives=shop.negatives,
    )
