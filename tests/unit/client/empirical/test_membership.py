import numpy as np
import pytest

from hansa.client.empirical.membership import infer_membership, judged, smaller
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.attacked_plans import attacked_plan, banded_plan
from tests.fakes.planted_bugs import clip_times, noise_divided_by


def test_scores_that_tell_all_members_apart_have_area_one() -> None:
    found = judged(np.full(20, 2.0), np.linspace(0.0, 1.0, 100), 1.0, 1e-5, 3)
    assert (found.auc, found.tpr_at_1_percent_fpr) == (1.0, 1.0)
    assert not found.passed  # e * 5.4 % is all that epsilon 1 allows


def test_scores_by_chance_have_half_of_the_area() -> None:
    scores = np.arange(1000.0)
    found = judged(scores, scores, 1.0, 1e-5, 3)
    assert found.auc == 0.5
    assert found.tpr_at_1_percent_fpr == 0.01
    assert found.auc_low < 0.5 < found.auc_high
    assert found.passed


def test_intervals_are_those_of_clopper_and_pearson() -> None:
    """10 of 100: 4.9 % to 17.6 %."""
    members = np.concatenate([np.full(10, 9.0), np.zeros(90)])
    found = judged(members, np.linspace(1.0, 2.0, 100), 8.0, 1e-5, 3)
    assert (found.tpr_low, found.tpr_high) == pytest.approx((0.0490, 0.1762), abs=1e-4)


def test_the_attack_finds_members_where_nothing_protects_them() -> None:
    plan = attacked_plan(
        training={"local_steps": 60, "optimizer": "adamw", "learning_rate": 0.05, "rank": 48},
        privacy={"sampling_rate": 1.0, "expected_shoppers": 40},
        federation={"rounds": 1},
    )
    protected = infer_membership(plan, 0)
    with noise_divided_by(1e9), clip_times(100.0):
        bare = infer_membership(plan, 0)
    assert bare.auc_low > max(0.75, protected.auc)
    assert bare.tpr_at_1_percent_fpr > 0.05


def test_a_long_plan_is_shortened_and_its_claim_is_of_what_was_trained() -> None:
    plan = attacked_plan(
        training={"local_steps": 30}, privacy={"expected_shoppers": 5000}, federation={"rounds": 90}
    )
    small, members = smaller(plan)
    assert (members, small.privacy.expected_shoppers) == (400, 200)
    assert (small.federation.rounds, small.training.local_steps) == (3, 30)
    assert small.privacy.noise_multiplier == plan.privacy.noise_multiplier
    assert PrivacyPlan.of(small).shopper_epsilon() < PrivacyPlan.of(plan).shopper_epsilon()


def test_units_that_take_turns_need_as_many_members_as_bands_times_the_divisor() -> None:
    assert smaller(banded_plan())[1] == 160
