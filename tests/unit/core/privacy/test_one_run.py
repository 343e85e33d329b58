import numpy as np
import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.one_run import best_guesses, lower_bound, p_value


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "bound"),
    [
        (1000, 100, 95, 2.17),
        (1000, 100, 100, 3.47),
        (1000, 500, 400, 1.20),
        (2000, 1000, 700, 0.73),
    ],
)
def test_bounds_are_those_that_were_recorded(
    canaries: int, guesses: int, correct: int, bound: float
) -> None:
    found = lower_bound(canaries, guesses, correct, delta=1e-5, alpha=0.05)
    assert found == pytest.approx(bound, abs=0.01)


def test_without_delta_the_p_value_is_the_tail_of_randomised_response() -> None:
    """Three of three right at ln 3: each is right with 3/4, so 27/64."""
    p = p_value(3, 3, 3, epsilon=float(np.log(3.0)), delta=0.0)
    assert p == pytest.approx(27 / 64)


def test_delta_weighs_with_the_number_of_canaries() -> None:
    """One of one right at epsilon 0: 1/2, and 1/2 * delta * 2m more."""
    assert p_value(10, 1, 1, epsilon=0.0, delta=0.01) == pytest.approx(0.5 + 0.5 * 0.01 * 20)


def test_chance_shows_nothing() -> None:
    assert lower_bound(1000, 100, 50, delta=1e-5, alpha=0.05) == 0.0
    assert p_value(10, 5, 0, epsilon=1.0, delta=0.0) == 1.0


def test_more_correct_guesses_never_lower_the_bound() -> None:
    bounds = [lower_bound(300, 100, right, delta=1e-5, alpha=0.05) for right in range(101)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > 3.0


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_randomised_response_is_not_said_to_be_worse_than_it_is(epsilon: float) -> None:
    """The mechanism for which the theorem is tight: 200 audits at 5 % err in at most 20."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(200):
        was_in = rng.random(400) < 0.5
        told = rng.random(400) < 1.0 / (1.0 + np.exp(-epsilon))
        scores = np.where(was_in == told, 1.0, -1.0) + 1e-3 * rng.random(400)
        found = best_guesses(scores, was_in, [200], delta=0.0, alpha=0.05)
        wrong += found.lower_bound > epsilon
    assert wrong <= 20


def test_a_score_that_is_no_number_is_a_guess_for_out() -> None:
    scores = np.array([np.nan, 1.0])
    found = best_guesses(scores, np.array([False, True]), [2], delta=0.0, alpha=0.05)
    assert (found.guesses, found.correct) == (2, 2)


@pytest.mark.parametrize("counts", [(10, 5, 6), (10, 11, 5), (10, 5, -1)])
def test_counts_that_do_not_fit_together_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidInputError, match="correct guesses"):
        lower_bound(*counts, delta=1e-5, alpha=0.05)


def test_an_attack_tries_something() -> None:
    with pytest.raises(InvalidInputError, match="at least one"):
        best_guesses(np.zeros(2), np.zeros(2, bool), [], delta=0.0, alpha=0.05)
