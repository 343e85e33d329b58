"""Faults planted into the shipped code are caught, and the shipped code itself passes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch

from hansa.client.empirical.direct import direct_checks
from hansa.client.empirical.experiment import GRADIENTS, SHOPPERS, run_experiment
from hansa.client.empirical.setting import settings_of
from hansa.core.plan import RunPlan
from tests.fakes.attacked_plans import (
    adamw_plan,
    attacked_plan,
    banded_plan,
    distributed_plan,
    record_plan,
)
from tests.fakes.planted_bugs import clip_times, divided_by_the_true_number, noise_divided_by

Bug = Callable[[], AbstractContextManager[None]]

GROSS: list[tuple[str, Bug]] = [
    ("noise / 4", lambda: noise_divided_by(4.0)),
    ("clip x 4", lambda: clip_times(4.0)),
]
ONE_STEP, FOUR_STEPS = 0, 1
each_gross_bug = pytest.mark.parametrize(
    "bug", [bug for _, bug in GROSS], ids=[name for name, _ in GROSS]
)
each_kind = pytest.mark.parametrize(
    "plan",
    [
        attacked_plan(),
        adamw_plan(),
        record_plan(),
        banded_plan(),
        distributed_plan(),
        attacked_plan("full"),
    ],
    ids=["tower", "adamw", "record", "banded", "distributed", "full"],
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the audit itself runs; sums round alike, and threads do not wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _shown(plan: RunPlan, setting: int, seed: int, kind: str = GRADIENTS) -> float:
    """By how much the shown epsilon is above the claim."""
    found = run_experiment(kind, settings_of(plan)[setting], seed=seed)
    assert found.claimed_epsilon == pytest.approx(0.93, abs=0.02)
    return found.lower_bound - found.claimed_epsilon


def _failed(plan: RunPlan, seed: int = 0) -> set[str]:
    return {one.name for one in direct_checks(settings_of(plan)[0], seed) if not one.passed}


@pytest.mark.parametrize("setting", [ONE_STEP, FOUR_STEPS])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shipped_code_passes_with_every_seed(seed: int, setting: int) -> None:
    assert _shown(attacked_plan(), setting, seed) < 0.0
    assert _failed(attacked_plan(), seed) == set()


@each_gross_bug
@pytest.mark.parametrize("seed", [0, 1])
def test_canaries_show_a_gross_fault_with_every_seed(bug: Bug, seed: int) -> None:
    with bug():
        assert _shown(attacked_plan(), ONE_STEP, seed) > 0.0


@each_gross_bug
def test_canaries_show_a_gross_fault_in_several_steps(bug: Bug) -> None:
    with bug():
        assert _shown(attacked_plan(), FOUR_STEPS, 0) > 0.0


def test_made_up_shoppers_show_a_gross_fault_in_the_tower() -> None:
    plan = attacked_plan(training={"rank": 48})
    assert _shown(plan, ONE_STEP, 0, SHOPPERS) < 0.0
    with clip_times(4.0):
        assert _shown(plan, ONE_STEP, 0, SHOPPERS) > 0.0


@each_kind
def test_canaries_show_a_gross_fault_in_every_kind_of_training(plan: RunPlan) -> None:
    assert _shown(plan, ONE_STEP, 0) < 0.0
    with noise_divided_by(4.0):
        assert _shown(plan, ONE_STEP, 0) > 0.0


@each_kind
def test_every_kind_of_training_has_the_noise_and_the_clip_that_the_plan_says(
    plan: RunPlan,
) -> None:
    assert _failed(plan) == set()
    with noise_divided_by(1.1):
        assert _failed(plan) == {"noise-scale"}
    with clip_times(1.01):
        assert _failed(plan) == {"clipped-length"}


@pytest.mark.parametrize(
    "plan", [attacked_plan(), adamw_plan(), banded_plan()], ids=["tower", "adamw", "banded"]
)
def test_a_divisor_that_knows_the_true_number_of_units_is_caught(plan: RunPlan) -> None:
    with divided_by_the_true_number():
        assert "noise-scale-by-size" in _failed(plan)


def test_canaries_alone_do_not_see_the_divisor() -> None:
    """It changes signal and noise alike; this is why it has a check of its own."""
    with divided_by_the_true_number():
        assert _shown(attacked_plan(), ONE_STEP, 0) < 0.0


@pytest.mark.parametrize("trains", ["lora"])
def test_made_up_shoppers_train_a_made_up_encoder_within_the_claim(trains: str) -> None:
    assert _shown(attacked_plan(trains), ONE_STEP, 0, SHOPPERS) < 0.0
