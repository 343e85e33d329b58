"""What a plan with secure aggregation may say."""

import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.ids import RunId
from hansa.core.plan import SUMMABLE_STRATEGIES, RunPlan, parse_plan
from hansa.core.secure.protocol import Setting


def plan(**federation: object) -> RunPlan:
    value = {
        "name": "sums",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 3, "quorum": 3, "secure_aggregation": {}, **federation},
    }
    return parse_plan(value, "the plan")


@pytest.mark.parametrize("strategy", sorted(SUMMABLE_STRATEGIES))
def test_strategies_that_need_only_the_mean_are_allowed(strategy: str) -> None:
    assert plan(strategy=strategy).federation.strategy == strategy


@pytest.mark.parametrize(
    "strategy",
    [
        "FedMedian",
        "FedTrimmedAvg",
        "Krum",
        "MultiKrum",
        "Bulyan",
        "QFedAvg",
        "Unknown",
        "shop.strategies:Mine",
    ],
)
def test_strategies_that_look_at_single_updates_are_refused_by_name(strategy: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"{strategy} needs single updates.*FedAvg"):
        plan(strategy=strategy)


@pytest.mark.parametrize("bits", [4, 8])
def test_another_coding_on_the_way_up_is_refused(bits: int) -> None:
    with pytest.raises(InvalidInputError, match="uplink_bits is 32"):
        plan(codec={"uplink_bits": bits})


def test_the_coding_on_the_way_down_is_free() -> None:
    assert plan(codec={"downlink_bits": 8, "zstd": True}).federation.codec.downlink_bits == 8


def test_an_asynchronous_run_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="needs rounds"):
        plan(asynchronous={"updates": 3})


@pytest.mark.parametrize("quorum", [1, 2])
def test_a_sum_of_two_is_refused(quorum: int) -> None:
    with pytest.raises(InvalidInputError, match="quorum of at least 3"):
        plan(quorum=quorum)


def test_sums_that_could_overflow_are_refused_before_the_run() -> None:
    """1000 members where there is no cohort; 10 where it is 8 with a quarter more."""
    big = {"fraction_bits": 40, "max_abs": 1000.0}
    with pytest.raises(InvalidInputError, match=r"1000 members .* overflows 64 bits"):
        plan(secure_aggregation={**big, "max_abs": 1e5})
    assert plan(secure_aggregation=big, cohort=8, over_selection=0.25).federation.coding()


def test_a_small_cohort_may_be_summed_in_32_bits() -> None:
    narrow = plan(cohort=8, secure_aggregation={"fraction_bits": 20, "max_abs": 8.0})
    coding = narrow.federation.coding()
    assert coding is not None
    assert (coding.bits, coding.largest_group) == (32, 8)


def test_a_threshold_of_half_or_less_is_refused() -> None:
    """Two lists of survivors could both be signed."""
    with pytest.raises(InvalidInputError, match="threshold_fraction"):
        plan(secure_aggregation={"threshold_fraction": 0.5})


def test_a_rounds_setting_comes_from_the_signed_plan_alone() -> None:
    first = Setting.of(plan(), RunId("run-1"), 1)
    assert (first.quorum, first.threshold_fraction, first.coding.bits) == (3, 0.67, 64)
    contexts = {
        first.context,
        Setting.of(plan(), RunId("run-1"), 2).context,
        Setting.of(plan(), RunId("run-2"), 1).context,
        Setting.of(plan(quorum=4), RunId("run-1"), 1).context,
    }
    assert len(contexts) == 4
    without = plan().model_copy(
        update={"federation": plan().federation.model_copy(update={"secure_aggregation": None})}
    )
    with pytest.raises(InvalidInputError, match="does not ask"):
        Setting.of(without, RunId("run-1"), 1)
