import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.client.training.samples import Integers, Sample, ShopData, Units, draw_negatives
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.events import Unit
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy


def _plan(rate: float, unit: Unit = "shopper") -> PrivacyPlan:
    return PrivacyPlan(
        unit=unit,
        sampling_rate=rate,
        expected_shoppers=8,
        records_per_shopper=4,
        clip_norm=0.5,
        noise_multiplier=1.0,
        evaluation_noise_multiplier=None,
        delta=1e-5,
        local_steps=1,
        rounds=1,
    )


def _drawn(shoppers: Sequence[Integers], plan: PrivacyPlan, entropy: SeededEntropy) -> list[Sample]:
    public = np.eye(3, dtype=np.float32)
    data = ShopData(shoppers=tuple(shoppers), embeddings=public, negatives=public)
    return Units.of(data, plan, entropy).draw(0, entropy)


def test_a_target_is_never_in_its_own_history() -> None:
    shoppers = [np.arange(start, start + 11) for start in range(30)]
    for sample, items in zip(_drawn(shoppers, _plan(1.0), SeededEntropy()), shoppers, strict=True):
        assert len(sample.history) == 5
        assert len(sample.targets) == 4
        assert not set(sample.history) & set(sample.targets)
        assert set(sample.history) | set(sample.targets) <= set(items)


def test_every_item_is_a_target_now_and_then() -> None:
    entropy = SeededEntropy(2)
    seen = [_drawn([np.arange(9)], _plan(1.0), entropy)[0].targets for _ in range(200)]
    assert set(np.concatenate(seen)) == set(range(9))


def test_a_shopper_of_one_item_contributes_nothing() -> None:
    assert _drawn([np.array([3])], _plan(1.0), SeededEntropy()) == []


def test_shoppers_are_sampled_at_the_rate_of_the_plan() -> None:
    drawn = _drawn([np.arange(4)] * 20_000, _plan(0.25), SeededEntropy())
    assert len(drawn) / 20_000 == pytest.approx(0.25, abs=0.01)


def _contents(shoppers: Sequence[Integers], seed: int) -> list[tuple[int, ...]]:
    """What the records' slots hold, those that contribute nothing left out."""
    public = np.eye(3, dtype=np.float32)
    data = ShopData(shoppers=tuple(shoppers), embeddings=public, negatives=public)
    units = Units.of(data, _plan(1.0, "record"), SeededEntropy(seed))
    assert len(units.contents) == 4 * len(shoppers)
    return [tuple(one) for one in units.contents if len(one)]


def test_a_record_is_predicted_from_one_other_and_each_is_in_one_pair_only() -> None:
    pairs = [pair for seed in range(50) for pair in _contents([np.arange(9)], seed)]
    assert all(len(pair) == 2 and len(set(pair)) == 2 for pair in pairs)
    assert {item for pair in pairs for item in pair} == set(range(9))
    for seed in range(50):
        items = [item for pair in _contents([np.arange(9)], seed) for item in pair]
        assert len(items) == len(set(items))


@settings(max_examples=200, deadline=None)
@given(
    shoppers=st.lists(st.sets(st.integers(0, 60), min_size=1, max_size=20), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    more=st.integers(0, 60),
)
def test_one_purchase_more_makes_at_most_one_pair_come_or_go(
    shoppers: list[set[int]], seed: int, more: int
) -> None:
    before = [np.array(sorted(items)) for items in shoppers]
    after = [np.array(sorted(shoppers[0] | {more})), *before[1:]]
    old, new = _contents(before, seed), _contents(after, seed)
    come, gone = [one for one in new if one not in old], [one for one in old if one not in new]
    assert len(come) + len(gone) <= 1


def test_records_are_sampled_at_the_rate_of_the_plan() -> None:
    shoppers = [np.arange(8)] * 5000
    everything = len(_drawn(shoppers, _plan(1.0, "record"), SeededEntropy()))
    drawn = _drawn(shoppers, _plan(0.25, "record"), SeededEntropy())
    assert everything > 1000
    assert len(drawn) / everything == pytest.approx(0.25, abs=0.02)
    assert {(len(one.history), len(one.targets)) for one in drawn} == {(1, 1)}


def test_units_that_take_turns_come_once_in_a_cycle() -> None:
    public = np.eye(3, dtype=np.float32)
    shoppers = tuple(np.array([place, place + 1]) for place in range(300))
    data = ShopData(shoppers=shoppers, embeddings=public, negatives=public)
    plan = dataclasses.replace(_plan(1.0), bands=3, local_steps=6)
    entropy = SeededEntropy()
    units = Units.of(data, plan, entropy)
    steps = [
        {int(min(*one.history, *one.targets)) for one in units.draw(step, entropy)}
        for step in range(6)
    ]
    assert steps[:3] == steps[3:]
    assert sorted(place for step in steps[:3] for place in step) == list(range(300))


def test_negatives_are_all_public_items_where_the_plan_allows_so_many() -> None:
    public = np.eye(5, dtype=np.float32)
    assert np.array_equal(draw_negatives(public, 9, SeededEntropy()), public)
    assert len(np.unique(draw_negatives(public, 3, SeededEntropy()), axis=0)) == 3


@pytest.mark.parametrize(("width", "rows", "value"), [(2, 1, 0.0), (3, 0, 0.0), (3, 1, np.nan)])
def test_embeddings_that_do_not_fit_are_refused(width: int, rows: int, value: float) -> None:
    public = np.full((rows, width), value, np.float32)
    with pytest.raises(InvalidInputError, match="embeddings"):
        ShopData(shoppers=(), embeddings=np.zeros((1, 3), np.float32), negatives=public)
