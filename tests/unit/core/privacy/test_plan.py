import dataclasses
from typing import Any

import numpy as np
import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.events import Gaussian, PoissonGaussian
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy


def run_plan(**privacy: Any) -> RunPlan:
    spec = {
        "sampling_rate": 0.1,
        "expected_shoppers": 32,
        "records_per_shopper": 4,
        "clip_norm": 0.5,
        "noise_multiplier": 2.0,
        **privacy,
    }
    value = {
        "name": "autumn",
        "privacy": spec,
        "training": {"local_steps": 3},
        "federation": {"rounds": 7, "quorum": 1},
    }
    return parse_plan(value, "test")


def test_the_noise_is_the_multiplier_times_the_clip_norm() -> None:
    plan = PrivacyPlan.of(run_plan())
    assert plan.noise_std == 1.0
    noise = plan.noise(100_000, AesNormal.fresh(SeededEntropy()))
    assert noise.std() == pytest.approx(1.0, rel=0.02)


def test_a_round_is_worth_its_local_steps() -> None:
    event = PoissonGaussian(sampling_rate=0.1, noise_multiplier=2.0, steps=3)
    assert PrivacyPlan.of(run_plan()).round_event() == event


def test_a_run_is_worth_all_rounds_and_the_evaluation() -> None:
    plan = PrivacyPlan.of(run_plan(evaluation_noise_multiplier=10.0))
    training = PoissonGaussian(sampling_rate=0.1, noise_multiplier=2.0, steps=21)
    assert plan.run_events() == (Gaussian(noise_multiplier=10.0, releases=1), training)
    assert plan.run_events(evaluations=0) == (training,)
    assert plan.run_events(evaluations=4)[0] == Gaussian(noise_multiplier=10.0, releases=4)


def test_without_evaluation_noise_no_metric_is_worth_anything_for_none_leaves() -> None:
    plan = PrivacyPlan.of(run_plan())
    assert plan.evaluation_event() is None
    assert len(plan.run_events(evaluations=5)) == 1


def test_the_mechanism_samples_as_the_event_says() -> None:
    plan, entropy = PrivacyPlan.of(run_plan()), SeededEntropy(5)
    sizes = [plan.sample_shoppers(1000, entropy).size for _ in range(300)]
    assert np.mean(sizes) == pytest.approx(100, rel=0.02)
    assert plan.sample_records(9, entropy).size == plan.records_per_shopper == 4


def test_nothing_about_a_shop_can_be_kept_in_the_plan() -> None:
    plan = PrivacyPlan.of(run_plan())
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.expected_shoppers = 31  # type: ignore[misc]


def test_a_negative_number_of_evaluations_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 0"):
        PrivacyPlan.of(run_plan()).run_events(evaluations=-1)
