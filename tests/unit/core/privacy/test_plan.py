import dataclasses
from typing import Any

import numpy as np
import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.banded import square_root_coefficients
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
)
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy


def run_plan(*, steps: int = 3, quorum: int = 1, secure: bool = False, **privacy: Any) -> RunPlan:
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
        "training": {"local_steps": steps},
        "federation": {
            "rounds": 7,
            "quorum": quorum,
            "secure_aggregation": {} if secure else None,
        },
    }
    return parse_plan(value, "test")


def test_the_noise_is_the_multiplier_times_the_clip_norm() -> None:
    plan = PrivacyPlan.of(run_plan())
    assert plan.noise_std == 1.0
    noise = plan.noise_stream(AesNormal.fresh(SeededEntropy())).next(100_000)
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
    sizes = [plan.sample(1000, 0, entropy).size for _ in range(300)]
    assert np.mean(sizes) == pytest.approx(100, rel=0.02)
    assert plan.sample_records(9, entropy).size == plan.records_per_shopper == 4


def test_nothing_about_a_shop_can_be_kept_in_the_plan() -> None:
    plan = PrivacyPlan.of(run_plan())
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.expected_shoppers = 31  # type: ignore[misc]


def test_a_negative_number_of_evaluations_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 0"):
        PrivacyPlan.of(run_plan()).run_events(evaluations=-1)


BANDED = {"sampling_rate": 1.0, "banded_noise": {"bands": 2}}


def distributed(**privacy: Any) -> RunPlan:
    shared = {"distributed_noise": {"colluders": 1}, **privacy}
    return run_plan(steps=1, quorum=4, secure=True, **shared)


def test_a_round_of_banded_noise_is_one_mechanism_and_a_run_is_its_repetition() -> None:
    plan = PrivacyPlan.of(run_plan(**BANDED))
    once = BandedGaussian(bands=2, noise_multiplier=2.0, steps=3, participations=2, releases=1)
    assert plan.round_event() == once
    assert plan.run_events() == (once.model_copy(update={"releases": 7}),)


def test_distributed_noise_is_booked_with_the_honest_shares_that_it_counts_on() -> None:
    plan = PrivacyPlan.of(distributed())
    assert plan.round_event() == DistributedGaussian(
        sampling_rate=0.1, noise_multiplier=2.0, steps=1, honest=3
    )


@pytest.mark.parametrize(
    ("phase", "events"),
    [
        ("train", (PoissonGaussian(sampling_rate=0.1, noise_multiplier=2.0, steps=3),)),
        ("evaluate", (Gaussian(noise_multiplier=10.0, releases=1),)),
    ],
)
def test_one_place_says_what_a_task_of_each_phase_costs(
    phase: str, events: tuple[PrivacyEvent, ...]
) -> None:
    plan = PrivacyPlan.of(run_plan(evaluation_noise_multiplier=10.0))
    assert plan.events_for(phase) == events


def test_a_task_of_unknown_cost_has_no_price_and_is_refused() -> None:
    plan = PrivacyPlan.of(run_plan())
    with pytest.raises(InvalidInputError, match="lets no metric leave"):
        plan.events_for("evaluate")
    with pytest.raises(InvalidInputError, match="refuse it"):
        plan.events_for("query")


def test_the_unit_of_a_plan_is_the_unit_of_all_its_events() -> None:
    plan = PrivacyPlan.of(run_plan(unit="record", evaluation_noise_multiplier=10.0))
    assert {event.unit for event in plan.run_events()} == {"record"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({**BANDED, "sampling_rate": 0.5}, "set sampling_rate to 1.0"),
        ({**BANDED, "distributed_noise": {}}, "either banded or distributed"),
        ({**BANDED, "banded_noise": {"bands": 4}}, "3 steps cannot have 4 bands"),
        ({"unit": "session"}, "unit"),
    ],
)
def test_a_plan_that_would_not_be_what_it_says_is_refused(
    change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        run_plan(**change)


def test_a_plan_without_the_new_fields_keeps_its_digest() -> None:
    body = run_plan().model_dump(mode="json")["privacy"]
    assert not {"banded_noise", "distributed_noise"} & body.keys()
    assert run_plan().digest != run_plan(**BANDED).digest


def test_the_noise_of_a_round_comes_from_its_stream() -> None:
    for plan, last in ((run_plan(), None), (run_plan(**BANDED), "used up")):
        stream = PrivacyPlan.of(plan).noise_stream(AesNormal.fresh(SeededEntropy(4)))
        first = stream.next(200_000)
        rows = [first, stream.next(200_000), stream.next(200_000)]
        scale = (
            1.0
            if last is None
            else np.linalg.norm(square_root_coefficients(2)) / (square_root_coefficients(2)[0])
        )
        assert first.std() == pytest.approx(scale, rel=0.01)
        correlation = np.corrcoef(rows[0], rows[1])[0, 1]
        assert (abs(correlation) < 0.01) if last is None else (correlation < -0.3)
        if last is not None:
            with pytest.raises(InvalidInputError, match=last):
                stream.next(200_000)


def test_units_that_take_turns_cannot_be_sampled_step_by_step() -> None:
    plan, entropy = PrivacyPlan.of(run_plan(**BANDED)), SeededEntropy()
    sampler = plan.sampler(entropy)
    both = np.concatenate([sampler.sample(100, 0), sampler.sample(100, 1)])
    assert sorted(both.tolist()) == list(range(100))
    with pytest.raises(InvalidInputError, match="take turns"):
        plan.sample(100, 0, entropy)


def test_nothing_public_about_the_mechanism_depends_on_the_shops_size() -> None:
    for run in (run_plan(), run_plan(**BANDED), distributed()):
        plan, entropy = PrivacyPlan.of(run), SeededEntropy(6)
        before = (plan, plan.round_event(), plan.noise_std, plan.sampling_rate)
        for size in (0, 1, 1000):
            plan.sampler(entropy).sample(size, 0)
        assert (plan, plan.round_event(), plan.noise_std, plan.sampling_rate) == before
        assert (plan.expected_shoppers, plan.sampling_rate) == (
            run.privacy.expected_shoppers,
            run.privacy.sampling_rate,
        )


def test_a_shopper_of_several_merchants_spends_at_each_of_them() -> None:
    plan = PrivacyPlan.of(run_plan(evaluation_noise_multiplier=10.0))
    assert plan.shopper_epsilon() == epsilon_pld(plan.run_events(), 1e-5)
    assert plan.shopper_epsilon(merchants=3) == epsilon_pld(plan.run_events() * 3, 1e-5)


def test_under_one_noise_draw_a_shopper_of_two_merchants_may_enter_a_sum_twice() -> None:
    apart = PrivacyPlan.of(run_plan(steps=1))
    together = PrivacyPlan.of(distributed())
    assert together.shopper_epsilon() == apart.shopper_epsilon()
    assert together.shopper_epsilon(merchants=2) > apart.shopper_epsilon(merchants=2)


def test_the_shopper_behind_k_records_costs_more_than_one_record() -> None:
    plan = PrivacyPlan.of(run_plan(unit="record", noise_multiplier=4.0))
    one = epsilon_pld(plan.run_events(), 1e-5)
    assert one < plan.shopper_epsilon() < plan.shopper_epsilon(merchants=2)
    with pytest.raises(InvalidInputError, match="at least 1 merchant"):
        plan.shopper_epsilon(merchants=0)
