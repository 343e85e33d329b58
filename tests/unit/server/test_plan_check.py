import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.accounting import epsilon_pld, round_up
from hansa.core.privacy.plan import PrivacyPlan
from hansa.server.cli import app
from hansa.server.plan_check import BEYOND, check_plan


def value(**privacy: Any) -> dict[str, Any]:
    return {
        "name": "autumn",
        "training": {"trains": "tower", "rank": 63, "local_steps": 2},
        "privacy": {
            "sampling_rate": 0.25,
            "expected_shoppers": 32,
            "records_per_shopper": 2,
            "noise_multiplier": 4.0,
            "evaluation_noise_multiplier": 10.0,
            **privacy,
        },
        "federation": {"rounds": 8, "quorum": 4},
    }


def plan(**privacy: Any) -> RunPlan:
    return parse_plan(value(**privacy), "test")


def text(events: Any, times: int = 1) -> str:
    return str(round_up(epsilon_pld(tuple(events) * times, 1e-5)))


def test_training_metrics_and_all_together_are_priced_each() -> None:
    privacy, cost = PrivacyPlan.of(plan()), check_plan(plan())
    assert cost.epsilon_per_round == text([privacy.round_event()])
    assert cost.epsilon_training == text(privacy.training_events())
    assert cost.epsilon_metrics == text([privacy.evaluation_event()])
    assert cost.epsilon_total == text(privacy.run_events())
    assert (cost.steps, cost.unit, cost.accountant) == (16, "shopper", "google-pld")


def test_a_shopper_of_more_merchants_is_priced_for_each_number() -> None:
    cost = check_plan(plan(), merchants=7)
    assert [one.merchants for one in cost.shoppers] == [1, 2, 3, 7]
    events = PrivacyPlan.of(plan()).run_events()
    assert [one.epsilon for one in cost.shoppers] == [text(events, m) for m in (1, 2, 3, 7)]


def test_the_noise_for_a_target_is_found_and_keeps_to_it() -> None:
    cost = check_plan(plan(), target_epsilon=2.0)
    assert cost.calibration is not None
    found = cost.calibration.noise_multiplier
    assert cost.noise_multiplier == found
    assert float(cost.epsilon_total) <= 2.0
    assert check_plan(plan(noise_multiplier=found)).epsilon_total == cost.epsilon_total
    assert float(check_plan(plan(noise_multiplier=found - 0.1)).epsilon_total) > 2.0


def test_an_impossible_target_is_refused_with_a_way_out() -> None:
    with pytest.raises(InvalidInputError, match="plan fewer steps"):
        check_plan(plan(evaluation_noise_multiplier=1.0), target_epsilon=0.5)
    with pytest.raises(InvalidInputError, match="above 0"):
        check_plan(plan(), target_epsilon=-1.0)


def test_a_merchant_as_a_whole_has_no_protection_worth_the_name() -> None:
    # 32 / 0.25 = 128 shoppers, each of whom may move 16 steps by a clip norm:
    # rho = 16 * (128 / 4)^2 / 2 + (128 / 10)^2 / 2 = 8192 + 81.92
    merchant = check_plan(plan()).merchant
    assert merchant.shoppers == 128
    assert float(merchant.epsilon) == pytest.approx(
        8273.92 + 2 * (8273.92 * 11.5129) ** 0.5, abs=0.1
    )
    assert merchant.verdict.startswith("none worth the name")


def test_a_merchant_of_one_shopper_is_protected_like_its_shopper_or_less() -> None:
    cost = check_plan(plan(), shoppers=1)
    assert float(cost.merchant.epsilon) >= float(cost.epsilon_total)
    assert cost.merchant.verdict.startswith("weak")


def test_the_shopper_behind_the_records_is_shown_beside_the_record() -> None:
    cost = check_plan(plan(unit="record"))
    assert (cost.unit, cost.second_unit) == ("record", "shopper")
    assert float(cost.second_epsilon) > float(cost.epsilon_total)
    assert cost.shoppers[0].epsilon == cost.second_epsilon
    assert check_plan(plan()).second_unit == "record"


def test_a_hopeless_figure_is_named_and_not_computed() -> None:
    cost = check_plan(plan(unit="record", records_per_shopper=60, noise_multiplier=0.5))
    assert cost.second_epsilon == BEYOND


@pytest.mark.parametrize(("shoppers", "useful"), [(60, False), (2000, True)])
def test_a_shop_too_small_for_a_useful_budget_is_told_plainly(shoppers: int, useful: bool) -> None:
    # 63 * 63 + 63 = 4032 numbers, so that the noise of a step is 4 * 63.5 = 254 clip norms long.
    shop = check_plan(plan(), shoppers=shoppers).shop
    assert shop is not None
    assert shop.sampled_per_step == shoppers / 4
    assert shop.signal_to_noise_step == pytest.approx(shoppers / 4 / 254.0, rel=1e-3)
    assert shop.signal_to_noise_run == pytest.approx(shoppers / 254.0, rel=1e-3)
    assert shop.useful is useful
    assert ("too small for a useful budget" in shop.verdict) is not useful


def test_the_rate_and_noise_that_fit_a_shop_cost_the_same() -> None:
    cost = check_plan(plan(), shoppers=64)
    assert cost.shop is not None
    assert cost.shop.fitting_sampling_rate == 0.5
    needed = cost.shop.needed_noise_multiplier
    assert needed is not None
    assert needed > 4.0
    same = check_plan(plan(sampling_rate=0.5, noise_multiplier=needed))
    assert float(same.epsilon_total) == pytest.approx(float(cost.epsilon_total), abs=0.02)


def test_the_bytes_of_a_round_are_those_of_the_trained_numbers() -> None:
    assert check_plan(plan()).bytes_per_round == 4 * 4032


def test_without_the_base_models_sizes_nothing_is_guessed() -> None:
    lora = value() | {"training": {"trains": "lora", "rank": 8}, "compression": None}
    lora["privacy"]["evaluation_noise_multiplier"] = None
    cost = check_plan(parse_plan(lora, "test"), shoppers=500)
    assert cost.bytes_per_round is None
    assert cost.shop is not None
    assert (cost.shop.useful, cost.shop.signal_to_noise_run) == (None, None)


def test_search_on_public_data_is_said_to_be_free() -> None:
    assert any("public data costs nothing" in note for note in check_plan(plan()).notes)


def run(path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, str(path)])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(value()))
    return path


def test_the_command_prints_json_and_keeps_its_old_name(written: Path) -> None:
    new = run(written, "plan", "check", "--json", "--shoppers", "60", "--merchants", "4")
    old = run(written, "check", "--json", "--shoppers", "60", "--merchants", "4")
    assert new.exit_code == old.exit_code == 0
    assert json.loads(new.output) == json.loads(old.output)
    body = json.loads(new.output)
    assert body["epsilon_total"] == check_plan(plan()).epsilon_total
    assert body["shop"]["useful"] is False


def test_the_command_says_it_in_words(written: Path) -> None:
    result = run(written, "plan", "check", "--shoppers", "60", "--target-epsilon", "2")
    said = " ".join(result.output.split())
    for part in (
        "a shopper: noise_multiplier",
        "none worth the name",
        "too small for a useful budget",
        "bytes a round",
        "public data costs nothing",
    ):
        assert part in said
