from pathlib import Path

import pytest

from hansa.core.plan import read_plan
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.plan import PrivacyPlan

ROOT = Path(__file__).parents[3]
PLANS = [*sorted((ROOT / "demo/plans").glob("*.yaml")), ROOT / "docs/plan.example.yaml"]


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_plan_that_we_ship_is_valid(path) -> None:
    assert read_plan(path).privacy.delta <= 1e-5


def test_the_headline_run_costs_no_more_than_epsilon_8() -> None:
    privacy = PrivacyPlan.of(read_plan(ROOT / "demo/plans/cold-items.yaml"))
    assert 7.9 < epsilon_pld(privacy.run_events(), privacy.delta) <= 8.0


def test_the_taste_of_lora_costs_little() -> None:
    privacy = PrivacyPlan.of(read_plan(ROOT / "demo/plans/lora-taste.yaml"))
    assert epsilon_pld(privacy.run_events(), privacy.delta) <= 0.51
