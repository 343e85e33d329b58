"""One run with canaries: half of them are in, the attack looks at the release and guesses which."""

from typing import Final

import numpy as np
import numpy.typing as npt

from hansa.client.empirical.attacked import released_by_learner, seeded
from hansa.client.empirical.gradients import (
    LOUDNESS,
    GradientLearner,
    empty_shop,
    orthogonal_directions,
    shoppers_of,
)
from hansa.client.empirical.setting import SETTINGS, Setting
from hansa.client.empirical.shoppers import CanaryShoppers
from hansa.client.training.samples import ShopData
from hansa.core.empirical import CanaryExperiment
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.one_run import best_guesses

DELTA: Final = 1e-5

GRADIENTS: Final = "gradients"
SHOPPERS: Final = "shoppers"

KINDS: Final = (GRADIENTS, SHOPPERS)

_GRADIENTS: Final = 4096
"""With 1500 some seeds would miss a quarter of the noise under AdamW."""
_SHOPPERS: Final = 1500
_SHOPPERS_WITHIN_ENCODERS: Final = 400
"""Each costs two passes, and the more there are the more they hide each other."""

CONFIDENCE: Final = 0.95
"""That no lower bound of an audit is too high."""

_SHARES: Final = (1 / 30, 1 / 15, 2 / 15, 4 / 15, 2 / 5, 8 / 15, 2 / 3, 1.0)
"""Of the canaries, about which the attack dares a guess; the best of these is taken."""

TRIES: Final = len(_SHARES) * len(KINDS) * SETTINGS
"""Numbers of guesses, kinds of canaries, settings: each may err with the same small probability."""

ALPHA: Final = (1.0 - CONFIDENCE) / TRIES


def count_of(kind: str, plan: RunPlan) -> int:
    """How many canaries of a kind there are."""
    if kind == GRADIENTS:
        return _GRADIENTS
    return _SHOPPERS if plan.training.trains == "tower" else _SHOPPERS_WITHIN_ENCODERS


def guess_counts(canaries: int) -> tuple[int, ...]:
    """The numbers of guesses that are tried, all even."""
    return tuple(2 * max(1, int(share * canaries) // 2) for share in _SHARES)


def run_experiment(
    kind: str, setting: Setting, *, seed: int, canaries: int | None = None
) -> CanaryExperiment:
    """One experiment; the same arguments give the same result on the same machine.

    Args:
        kind: ``gradients`` or ``shoppers``.
        setting: the plan in the test setting.
        seed: public.
        canaries: how many; absent: ``count_of`` the kind.

    Raises:
        InvalidInputError: the plan cannot be trained.
    """
    canaries = canaries or count_of(kind, setting.plan)
    was_in = np.random.default_rng([seed, 0]).random(canaries) < 0.5
    score = _gradient_scores if kind == GRADIENTS else _shopper_scores
    found = best_guesses(
        score(setting, was_in, seed), was_in, guess_counts(canaries), delta=DELTA, alpha=ALPHA
    )
    return CanaryExperiment(
        canaries_are=kind,
        setting=setting.form(),
        canaries=canaries,
        guesses=found.guesses,
        correct=found.correct,
        claimed_epsilon=epsilon_reference(setting.privacy.training_events(), DELTA),
        lower_bound=found.lower_bound,
    )


def _gradient_scores(
    setting: Setting, was_in: npt.NDArray[np.bool_], seed: int
) -> npt.NDArray[np.float64]:
    """Inner products of the release with orthogonal gradients."""
    plan, count = setting.plan, len(was_in)
    directions = orthogonal_directions(count, np.random.default_rng([seed, 1]))
    rows = directions * np.float32(LOUDNESS * plan.privacy.clip_norm)
    shop = empty_shop(count)
    data = ShopData(
        shoppers=shoppers_of(was_in.tolist(), plan.privacy.unit),
        embeddings=shop.embeddings,
        negatives=shop.negatives,
    )
    release = released_by_learner(
        lambda: GradientLearner(rows, plan), data, plan, seeded(seed, GRADIENTS)
    )
    return np.asarray(-directions @ release.astype(np.float32), np.float64)


def _shopper_scores(
    setting: Setting, was_in: npt.NDArray[np.bool_], seed: int
) -> npt.NDArray[np.float64]:
    """Inner products of the release with the gradients of made-up shoppers."""
    canaries = CanaryShoppers.of(setting, len(was_in), seed)
    return canaries.scores(canaries.release(was_in, seed))
