import dataclasses

import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.calibration import calibrate_noise, needed_noise
from hansa.core.privacy.events import Gaussian, PoissonGaussian
from hansa.core.privacy.plan import PrivacyPlan

DELTA = 1e-5
PLAN = PrivacyPlan(
    unit="shopper",
    sampling_rate=0.1,
    expected_shoppers=32,
    records_per_shopper=4,
    clip_norm=0.5,
    noise_multiplier=1.0,
    evaluation_noise_multiplier=10.0,
    delta=DELTA,
    local_steps=4,
    rounds=8,
)


def steps(q: float, noise: float, count: int) -> PoissonGaussian:
    return PoissonGaussian(sampling_rate=q, noise_multiplier=noise, steps=count)


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


@pytest.mark.parametrize(
    "change",
    [{}, {"sampling_rate": 1.0, "bands": 2}, {"honest": 3}, {"unit": "record"}],
    ids=["own", "banded", "distributed", "record"],
)
def test_the_noise_that_a_plan_needs_keeps_its_whole_run_to_the_target(change: dict) -> None:
    plan = dataclasses.replace(PLAN, **change)
    noise = needed_noise(plan, 3.0)
    enough = dataclasses.replace(plan, noise_multiplier=noise).run_events()
    short = dataclasses.replace(plan, noise_multiplier=noise - 2e-3).run_events()
    assert epsilon_pld(enough, DELTA) <= 3.0 < epsilon_pld(short, DELTA)


def test_a_plan_that_trains_nothing_needs_no_noise() -> None:
    with pytest.raises(InvalidInputError, match="trains nothing"):
        needed_noise(dataclasses.replace(PLAN, rounds=0), 3.0)
