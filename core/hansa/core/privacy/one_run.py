"""A lower bound on epsilon from one run: m canaries, each in with probability 1/2, and guesses.

Under (epsilon, delta)-differential privacy so many correct guesses as were made can only have come
about with small probability, unless epsilon is as large as the bound. This is theorem 5.2 of the
paper below, for guesses that may abstain.

References:
    Steinke, Nasr, Jagielski, "Privacy auditing with one (1) training run", arXiv:2305.08846.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit  # type: ignore[import-untyped]
from scipy.stats import binom  # type: ignore[import-untyped]

from hansa.core.errors import InvalidInputError

LARGEST: Final = 30.0
"""No bound is sought above."""

_HALVINGS: Final = 50


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How an attack that dared so many guesses did."""

    guesses: int
    correct: int
    lower_bound: float


def p_value(canaries: int, guesses: int, correct: int, *, epsilon: float, delta: float) -> float:
    """How likely so many correct guesses are at most, if the mechanism keeps its promise.

    Args:
        canaries: m, each in with probability 1/2, independently.
        guesses: r of them, for the rest the attack says nothing.
        correct: v of these, or more.
        epsilon: of the promise.
        delta: of the promise.

    Raises:
        InvalidInputError: there are more correct guesses than guesses, or than canaries.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise InvalidInputError("count at most as many correct guesses as guesses, as canaries")
    rate = float(expit(epsilon))
    tail = float(binom.sf(correct - 1, guesses, rate))
    if not correct:
        return 1.0
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, rate))
    slope = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, tail + slope * delta * 2.0 * canaries)


def lower_bound(canaries: int, guesses: int, correct: int, *, delta: float, alpha: float) -> float:
    """The largest epsilon whose p-value is below ``alpha``; 0 where none is.

    Raises:
        InvalidInputError: the counts do not fit together.
    """

    def rejected(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon=epsilon, delta=delta) < alpha

    if not rejected(0.0):
        return 0.0
    low, high = 0.0, LARGEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def best_guesses(
    scores: npt.NDArray[np.float64],
    was_in: npt.NDArray[np.bool_],
    counts: Sequence[int],
    *,
    delta: float,
    alpha: float,
) -> Guesses:
    """The best bound over some numbers of guesses: the highest scores are in, the lowest are out.

    Args:
        scores: of each canary, ``(canaries,)``; not a number counts as the lowest.
        was_in: the truth, ``(canaries,)``.
        counts: even numbers of guesses that are tried, chosen before the scores are known.
        delta: of the claim.
        alpha: error probability of each of the tries; divide by their number before.

    Raises:
        InvalidInputError: nothing is tried, or more guesses than there are canaries.
    """
    if not counts:
        raise InvalidInputError("try at least one number of guesses")
    order = np.argsort(np.nan_to_num(scores, nan=-np.inf), kind="stable")
    tried = [_tried(order, was_in, count, delta, alpha) for count in counts]
    return max(tried, key=lambda one: (one.lower_bound, one.correct / one.guesses))


def _tried(
    order: npt.NDArray[np.int64],
    was_in: npt.NDArray[np.bool_],
    count: int,
    delta: float,
    alpha: float,
) -> Guesses:
    half = count // 2
    right = int(was_in[order[len(order) - half :]].sum()) + int((~was_in[order[:half]]).sum())
    bound = lower_bound(len(order), 2 * half, right, delta=delta, alpha=alpha)
    return Guesses(guesses=2 * half, correct=right, lower_bound=bound)
