import logging
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import (
    accountants,
    calibrate_noise,
    epsilon_pld,
    epsilon_rdp,
    round_up,
)
from hansa.core.privacy.events import Gaussian, PoissonGaussian, PrivacyEvent

DELTA = 1e-5


def steps(q: float, noise: float, count: int) -> PoissonGaussian:
    return PoissonGaussian(sampling_rate=q, noise_multiplier=noise, steps=count)


@pytest.mark.parametrize(
    ("event", "pld", "rdp"),
    [
        (steps(0.01, 1.0, 1000), 1.829, 2.1014),
        (steps(0.01, 0.6, 1000), 7.434, 8.68),
        (steps(0.1, 1.0, 100), 7.047, 7.91),
        (steps(0.25, 1.5, 60), 7.337, 8.10),
        (steps(1.0, 4.0, 30), 6.326, 6.82),
        (Gaussian(noise_multiplier=4.0, releases=30), 6.326, 6.82),
    ],
)
def test_known_points_of_the_literature_are_met(
    event: PrivacyEvent, pld: float, rdp: float
) -> None:
    assert epsilon_pld([event], DELTA) == pytest.approx(pld, abs=2e-3)
    assert epsilon_rdp([event], DELTA) == pytest.approx(rdp, abs=0.02)


@settings(deadline=None, max_examples=12)
@given(
    st.floats(1e-4, 1.0),
    st.floats(0.6, 50.0),
    st.sampled_from([1, 30, 1000, 100_000]),
)
def test_pld_is_never_above_the_renyi_bound(q: float, noise: float, count: int) -> None:
    events = [steps(q, noise, count)]
    assert epsilon_pld(events, DELTA) <= epsilon_rdp(events, DELTA) * 1.005 + 2e-3


@settings(deadline=None, max_examples=8)
@given(st.floats(0.01, 0.5), st.floats(0.8, 5.0), st.integers(1, 200), st.integers(1, 200))
def test_splitting_a_run_changes_nothing_and_more_steps_never_cost_less(
    q: float, noise: float, first: int, second: int
) -> None:
    whole = epsilon_pld([steps(q, noise, first + second)], DELTA)
    assert epsilon_pld([steps(q, noise, first), steps(q, noise, second)], DELTA) == whole
    assert epsilon_pld([steps(q, noise, first)], DELTA) <= whole


def test_many_small_steps_are_not_blurred_by_the_grid() -> None:
    assert epsilon_pld([steps(0.001, 2.0, 100_000)], DELTA) == pytest.approx(0.6046, abs=2e-3)


def test_nothing_spent_costs_nothing() -> None:
    assert epsilon_pld([], DELTA) == epsilon_rdp([], DELTA) == 0.0


def test_epsilon_is_never_negative() -> None:
    assert epsilon_pld([steps(0.01, 10.0, 1)], 0.5) == 0.0
    assert epsilon_rdp([steps(0.01, 10.0, 1)], 0.5) == 0.0


def test_a_hopeless_plan_is_priced_at_once_and_high() -> None:
    began = time.process_time()
    assert epsilon_pld([steps(0.5, 0.001, 100_000)], DELTA) > 1000
    assert time.process_time() - began < 0.5


def test_a_price_is_known_within_a_fifth_of_a_second() -> None:
    began = time.process_time()
    epsilon_pld([steps(0.013, 1.01, 997), Gaussian(noise_multiplier=20.0, releases=1)], DELTA)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_a_delta_outside_zero_and_one_is_refused(delta: float) -> None:
    with pytest.raises(InvalidInputError, match="delta"):
        epsilon_pld([steps(0.1, 1.0, 1)], delta)
    with pytest.raises(InvalidInputError, match="delta"):
        epsilon_rdp([steps(0.1, 1.0, 1)], delta)


def test_an_unknown_event_is_refused_and_not_counted_as_zero() -> None:
    with pytest.raises(InvalidInputError, match="not a known privacy event"):
        epsilon_pld(["laplace"], DELTA)  # type: ignore[list-item]


def test_a_grid_must_be_positive() -> None:
    with pytest.raises(InvalidInputError, match="grid"):
        epsilon_pld([], DELTA, grid=0.0)


def test_the_library_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for q in (0.1, 0.5, 0.9):
        epsilon_rdp([steps(q, 1.0, 10)], DELTA)
    assert not caplog.records


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(1.821, "1.83"), (1.82, "1.82"), (0.0, "0.00"), (1e-9, "0.01")]
)
def test_people_see_epsilon_rounded_up(epsilon: float, shown: str) -> None:
    assert round_up(epsilon) == Decimal(shown)


@pytest.mark.parametrize("epsilon", [-0.1, float("inf"), float("nan")])
def test_what_is_no_epsilon_is_not_shown(epsilon: float) -> None:
    with pytest.raises(InvalidInputError):
        round_up(epsilon)


def test_calibrated_noise_keeps_the_target_and_hardly_less_would_not() -> None:
    noise = calibrate_noise(3.0, delta=DELTA, sampling_rate=0.1, steps=30)
    assert epsilon_pld([steps(0.1, noise, 30)], DELTA) <= 3.0
    assert epsilon_pld([steps(0.1, noise - 2e-3, 30)], DELTA) > 3.0


def test_calibration_counts_what_is_already_booked() -> None:
    booked = [Gaussian(noise_multiplier=4.0, releases=2)]
    noise = calibrate_noise(3.0, delta=DELTA, sampling_rate=0.1, steps=30, booked=booked)
    assert epsilon_pld([*booked, steps(0.1, noise, 30)], DELTA) <= 3.0
    assert noise > calibrate_noise(3.0, delta=DELTA, sampling_rate=0.1, steps=30)


def test_an_unreachable_target_is_refused() -> None:
    booked = [Gaussian(noise_multiplier=1.0, releases=1)]
    with pytest.raises(InvalidInputError, match="plan fewer steps"):
        calibrate_noise(1.0, delta=DELTA, sampling_rate=0.02, steps=10, booked=booked)
    with pytest.raises(InvalidInputError, match="above 0"):
        calibrate_noise(0.0, delta=DELTA, sampling_rate=0.02, steps=10)


def test_the_accountants_are_named_with_their_versions() -> None:
    assert accountants().keys() == {"google-pld", "google-rdp"}
