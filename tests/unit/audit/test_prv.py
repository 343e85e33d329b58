import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.audit.prv import epsilon_prv
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import epsilon_pld, epsilon_rdp
from hansa.core.privacy.events import Gaussian, PoissonGaussian, PrivacyEvent

DELTA = 1e-5


def steps(q: float, noise: float, count: int) -> PoissonGaussian:
    return PoissonGaussian(sampling_rate=q, noise_multiplier=noise, steps=count)


POINTS: list[list[PrivacyEvent]] = [
    [steps(0.01, 1.0, 1000)],
    [steps(0.01, 0.6, 1000)],
    [steps(0.1, 1.0, 100)],
    [steps(0.25, 1.5, 60)],
    [steps(1.0, 4.0, 30)],
    [steps(0.5, 0.3, 50)],
    [steps(0.01 + i * 1e-3, 1.0 + i / 20, 50) for i in range(4)],
]


@pytest.mark.parametrize("events", POINTS)
def test_prv_agrees_with_pld_within_the_release_gate(events: list[PrivacyEvent]) -> None:
    own, reference = epsilon_prv(events, DELTA), epsilon_pld(events, DELTA)
    assert abs(own - reference) <= 0.015
    assert own <= epsilon_rdp(events, DELTA)


@pytest.mark.parametrize("events", POINTS[:2])
def test_prv_agrees_with_opacus(events: list[PoissonGaussian]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(e.noise_multiplier, e.sampling_rate, e.steps) for e in events]
        theirs = accountant.get_epsilon(DELTA)
    assert epsilon_prv(events, DELTA) == pytest.approx(theirs, abs=0.015)


@settings(deadline=None, max_examples=5)
@given(st.floats(1e-3, 1.0), st.floats(0.7, 20.0), st.sampled_from([1, 20, 500]))
def test_two_accountants_agree_on_any_plan(q: float, noise: float, count: int) -> None:
    events: list[PrivacyEvent] = [
        steps(q, noise, count),
        Gaussian(noise_multiplier=9.0, releases=2),
    ]
    assert abs(epsilon_prv(events, DELTA) - epsilon_pld(events, DELTA)) <= 0.015


def test_a_single_gaussian_has_its_closed_form() -> None:
    noise, delta = 2.0, 1e-5
    epsilon = epsilon_prv([Gaussian(noise_multiplier=noise, releases=1)], delta)

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    def exact_delta(eps: float) -> float:
        shift, scale = 0.5 / noise, eps * noise
        return phi(shift - scale) - math.exp(eps) * phi(-shift - scale)

    assert exact_delta(epsilon) <= delta <= exact_delta(epsilon - 0.0115)


def test_a_smaller_error_is_nearer_to_the_truth() -> None:
    events = [steps(0.01, 1.0, 200)]
    assert epsilon_prv(events, DELTA, eps_error=0.001) == pytest.approx(
        epsilon_prv(events, DELTA) - 0.009, abs=0.001
    )


def test_nothing_spent_costs_nothing() -> None:
    assert epsilon_prv([], DELTA) == 0.0


def test_epsilon_is_never_negative() -> None:
    assert epsilon_prv([steps(0.01, 10.0, 1)], 0.5) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1e-11, 1.0, float("nan")])
def test_a_delta_out_of_reach_is_refused(delta: float) -> None:
    with pytest.raises(InvalidInputError, match="delta"):
        epsilon_prv([steps(0.1, 1.0, 1)], delta)


def test_a_loss_beyond_the_grid_is_refused_and_not_cut() -> None:
    with pytest.raises(InvalidInputError, match="too large"):
        epsilon_prv([steps(1.0, 0.01, 10_000)], DELTA)


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not a known privacy event"):
        epsilon_prv(["laplace"], DELTA)  # type: ignore[list-item]
