import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.audit.prv import epsilon_prv
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import epsilon_pld, epsilon_rdp
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
)

DELTA = 1e-5


def steps(q: float, noise: float, count: int) -> PoissonGaussian:
    return PoissonGaussian(sampling_rate=q, noise_multiplier=noise, steps=count)


def banded(noise: float, participations: int, releases: int) -> BandedGaussian:
    return BandedGaussian(
        bands=4,
        noise_multiplier=noise,
        steps=4 * participations,
        participations=participations,
        releases=releases,
    )


def shared(q: float, noise: float, count: int) -> DistributedGaussian:
    return DistributedGaussian(sampling_rate=q, noise_multiplier=noise, steps=count, honest=3)


POINTS: list[list[PrivacyEvent]] = [
    [steps(0.01, 1.0, 1000)],
    [steps(0.01, 0.6, 1000)],
    [steps(0.1, 1.0, 100)],
    [steps(0.25, 1.5, 60)],
    [steps(1.0, 4.0, 30)],
    [steps(0.5, 0.3, 50)],
    [steps(0.01 + i * 1e-3, 1.0 + i / 20, 50) for i in range(4)],
    [banded(6.0, 4, 5)],
    [shared(0.099, 1.186, 30)],
    [banded(9.0, 3, 2), shared(0.05, 1.0, 100), steps(0.05, 1.5, 50)],
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


@pytest.mark.parametrize(
    ("q", "noise", "count", "recorded"),
    [
        (0.01, 1.0, 1000, 1.8384),
        (0.01, 0.6, 1000, 7.444),
        (0.1, 1.0, 100, 7.057),
        (0.25, 1.5, 60, 7.347),
        (1.0, 4.0, 30, 6.336),
    ],
)
def test_the_recorded_figures_of_the_second_accountant_are_met(
    q: float, noise: float, count: int, recorded: float
) -> None:
    assert epsilon_prv([steps(q, noise, count)], DELTA) == pytest.approx(recorded, abs=2e-3)


@settings(deadline=None, max_examples=5)
@given(
    st.sampled_from(
        [
            banded(4.0, 2, 3),
            shared(0.1, 2.0, 20),
            steps(0.2, 3.0, 20),
            Gaussian(noise_multiplier=4.0, releases=2),
        ]
    ),
    st.integers(2, 5),
)
def test_the_second_accountant_grows_with_every_event(event: PrivacyEvent, more: int) -> None:
    assert epsilon_prv([event], DELTA) < epsilon_prv([event] * more, DELTA)


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


def test_a_search_has_no_figure_here_and_is_refused() -> None:
    search = RepeatAndSelect(trial=(steps(0.1, 1.0, 1),), mean=2.0, shape=1.0, releases=1)
    with pytest.raises(InvalidInputError, match="only account is RDP"):
        epsilon_prv([search], DELTA)


def test_units_are_never_mixed_in_one_figure() -> None:
    record = PoissonGaussian(unit="record", sampling_rate=0.1, noise_multiplier=1.0, steps=1)
    with pytest.raises(InvalidInputError, match="unit"):
        epsilon_prv([steps(0.1, 1.0, 1), record], DELTA)
