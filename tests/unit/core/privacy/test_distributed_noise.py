"""Shares of one noise draw: exact integers, bounded sensitivity, and the whole noise in the sum."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hansa.core.errors import InvalidInputError, QuorumNotMetError
from hansa.core.plan import RunPlan
from hansa.core.privacy.discrete_gaussian import discrete_gaussian
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.noise_share import NOISED_SUM, NoiseShare, mean_step, noised_sum
from hansa.core.secure import collector
from hansa.core.secure.messages import names_content
from tests.fakes.entropy import SeededEntropy
from tests.fakes.secure_round import SecureWorld, name_of, setting

SIZE = 2000


def stream(seed: int = 0) -> AesNormal:
    return AesNormal.fresh(SeededEntropy(seed))


def share(**changes: Any) -> NoiseShare:
    values: dict[str, Any] = {
        "noise_multiplier": 1.0,
        "clip_norm": 0.5,
        "expected_units": 64,
        "honest": 4,
        "fraction_bits": 24,
        "max_abs": 8.0,
        "size": SIZE,
    }
    return NoiseShare(**{**values, **changes})


def plan(**privacy: Any) -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "shared",
            "training": {"learning_rate": 0.25},
            "privacy": {
                "sampling_rate": 0.1,
                "expected_shoppers": 64,
                "noise_multiplier": 1.0,
                "distributed_noise": {"colluders": 1},
                **privacy,
            },
            "federation": {"rounds": 60, "quorum": 5, "secure_aggregation": {}},
        }
    )


class TestTheDiscreteGaussian:
    def test_each_integer_has_its_probability(self) -> None:
        drawn = discrete_gaussian(400_000, 1.0, stream())
        whole = sum(math.exp(-k * k / 2) for k in range(-20, 21))
        for k in range(-3, 4):
            expected = math.exp(-k * k / 2) / whole
            assert np.mean(drawn == k) == pytest.approx(expected, abs=4 * (expected / 4e5) ** 0.5)

    @pytest.mark.parametrize("sigma", [1.5, 64.0, 1e6])
    def test_its_standard_deviation_is_sigma_within_one_percent(self, sigma: float) -> None:
        drawn = discrete_gaussian(200_000, sigma, stream())
        assert drawn.std() == pytest.approx(sigma, rel=0.01)
        assert abs(drawn.mean()) < 4 * sigma / math.sqrt(200_000)

    def test_no_two_streams_give_the_same_noise(self) -> None:
        one, other = (
            discrete_gaussian(100, 50.0, stream(1)),
            discrete_gaussian(100, 50.0, stream(2)),
        )
        assert (one != other).mean() > 0.9

    @pytest.mark.parametrize("sigma", [0.0, 0.9, math.nan, math.inf, 2.0**51])
    def test_a_sigma_out_of_bounds_is_refused(self, sigma: float) -> None:
        with pytest.raises(InvalidInputError, match="sigma from 1"):
            discrete_gaussian(1, sigma, stream())

    def test_no_values_need_no_noise(self) -> None:
        assert discrete_gaussian(0, 2.0, stream()).shape == (0,)


class TestAShare:
    @given(st.integers(0, 2**32), st.floats(0.0, 400.0), st.integers(1, 4096))
    def test_one_unit_moves_the_integers_by_no_more_than_the_sensitivity(
        self, seed: int, others: float, units: int
    ) -> None:
        """Also where values are cut, and where all the rest is large."""
        rng = np.random.default_rng(seed)
        one = share(expected_units=units, size=50)
        rest = rng.normal(size=50) * others
        unit = rng.normal(size=50)
        unit *= one.clip_norm / np.linalg.norm(unit)
        moved = one.on_grid(rest + unit) - one.on_grid(rest)
        assert np.linalg.norm(moved) <= one.sensitivity * (1 + 1e-12)

    def test_honest_shares_alone_make_up_the_whole_noise(self) -> None:
        one = share()
        drawn = [one.integers(np.zeros(SIZE), stream(seed)) for seed in range(one.honest * 25)]
        sums = np.concatenate(
            [np.sum(drawn[at : at + one.honest], axis=0) for at in range(0, len(drawn), one.honest)]
        )
        assert sums.std() / one.sensitivity == pytest.approx(one.noise_multiplier, rel=0.01)

    def test_what_the_rounding_takes_from_the_noise_is_added_to_it(self) -> None:
        one = share(noise_multiplier=3.0)
        whole = one.share_sigma**2 * one.honest
        assert math.sqrt(whole - 4.0**2) / one.sensitivity == pytest.approx(3.0, rel=1e-12)

    def test_fewer_honest_merchants_add_larger_shares(self) -> None:
        assert share(honest=1).share_sigma == pytest.approx(2 * share(honest=4).share_sigma)

    def test_it_counts_on_the_quorum_less_the_colluders(self) -> None:
        assert NoiseShare.of(plan(), SIZE).honest == 4
        assert NoiseShare.of(plan(distributed_noise={"colluders": 3}), SIZE).honest == 2

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"honest": 0}, "raise the quorum"),
            ({"expected_units": 2**20, "size": 1}, "fraction_bits"),
            ({"expected_units": 1, "noise_multiplier": 20.0}, "max_abs"),
        ],
    )
    def test_a_grid_that_does_not_fit_is_refused_by_the_field_to_change(
        self, changes: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=sentence):
            share(**changes).check()

    @pytest.mark.parametrize("total", [np.full(SIZE, np.nan), np.zeros(SIZE - 1)])
    def test_a_sum_that_is_not_the_models_is_refused(self, total: Any) -> None:
        with pytest.raises(InvalidInputError, match="finite numbers"):
            share().on_grid(total)


class TestTheSumOfASecureRound:
    def values(self, world: SecureWorld) -> dict[Any, Any]:
        one = share(honest=3)
        return {
            name: one.integers(np.full(SIZE, at + 1.0), stream(at))
            for at, name in enumerate(world.names)
        }

    def run(self, gone: set[Any]) -> tuple[SecureWorld, Any]:
        """Five members, each with the sum ``at + 1`` in every value; some are gone in stage 3."""
        world = SecureWorld(5, where=setting(quorum=4, coding=plan().federation.coding()))
        values, dealt = self.values(world), world.dealt()
        there = [name for name in world.names if name not in gone]
        request = names_content(sharers=dealt.sharers).to_bytes()
        answers = {}
        for name in there:
            state = world.members[name].begin_masking(world.states[name], request)
            world.states[name] = state
            answers[name] = world.members[name].masked_integers(state, values[name])
        masked = collector.collect_masked(dealt, answers, SIZE)[0]
        agreed = collector.collect_votes(masked, world.vote(masked.survivors, there))[0]
        return world, collector.unmask(agreed, world.reveal(agreed, there))[0]

    def test_it_holds_the_mean_gradient_with_one_draw_of_noise(self) -> None:
        _, total = self.run(set())
        step = mean_step(plan(clip_norm=0.5), total, 5)
        # Means over 64 expected units; five merchants; 0.25 is the learning rate.
        assert step.mean() == pytest.approx(-0.25 * (1 + 2 + 3 + 4 + 5) / 5 / 64, rel=0.02)
        alone = share(honest=3).share_sigma * 2.0**-24 * 0.5 * 0.25 / 5
        assert step.std() == pytest.approx(alone * math.sqrt(5), rel=0.05)

    def test_without_a_member_that_dropped_out_it_is_the_others(self) -> None:
        _, total = self.run({name_of(4)})
        assert mean_step(plan(clip_norm=0.5), total, 4).mean() == pytest.approx(
            -0.25 * (1 + 2 + 3 + 4) / 4 / 64, rel=0.02
        )

    def test_below_the_quorum_nothing_is_shown(self) -> None:
        with pytest.raises(QuorumNotMetError, match="nothing is revealed"):
            self.run({name_of(3), name_of(4)})


class TestWhatAnAppReturns:
    def test_is_one_array_of_integers(self) -> None:
        steps = np.arange(4)
        assert noised_sum({NOISED_SUM: steps}, 4) is steps

    @pytest.mark.parametrize(
        "arrays",
        [
            {},
            {"down": np.zeros(4)},
            {NOISED_SUM: np.zeros(4)},
            {NOISED_SUM: np.zeros(3, np.int64)},
            {NOISED_SUM: np.zeros(4, np.int64), "down": np.zeros(4)},
        ],
    )
    def test_and_nothing_else(self, arrays: dict[str, Any]) -> None:
        with pytest.raises(InvalidInputError, match="4 noised integers"):
            noised_sum(arrays, 4)


class TestThePlan:
    def refused(self, **changes: Any) -> str:
        body = plan().model_dump(mode="json")
        for part, fields in changes.items():
            body[part] = {**body[part], **fields}
        with pytest.raises(ValidationError) as error:
            RunPlan.model_validate(body)
        return str(error.value)

    def test_must_aggregate_securely(self) -> None:
        assert "secure_aggregation" in self.refused(federation={"secure_aggregation": None})

    def test_makes_each_step_a_round(self) -> None:
        assert "local_steps" in self.refused(training={"local_steps": 2})

    def test_leaves_an_honest_share(self) -> None:
        assert "raise the quorum" in self.refused(privacy={"distributed_noise": {"colluders": 5}})

    def test_without_it_moves_by_the_mean_of_the_updates(self) -> None:
        local = RunPlan.model_validate(
            replace_noise(plan().model_dump(mode="json")),
        )
        assert mean_step(local, np.array([3.0]), 3) == pytest.approx([1.0])


def replace_noise(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "privacy": {**body["privacy"], "distributed_noise": None}}
