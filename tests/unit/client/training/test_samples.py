import numpy as np
import pytest

from hansa.client.training.samples import ShopData, draw_negatives, draw_samples
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy


def _plan(rate: float) -> PrivacyPlan:
    return PrivacyPlan(
        unit="shopper",
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


def test_a_target_is_never_in_its_own_history() -> None:
    shoppers = [np.arange(start, start + 11) for start in range(30)]
    for sample, items in zip(
        draw_samples(shoppers, _plan(1.0), SeededEntropy()), shoppers, strict=True
    ):
        assert len(sample.history) == 5
        assert len(sample.targets) == 4
        assert not set(sample.history) & set(sample.targets)
        assert set(sample.history) | set(sample.targets) <= set(items)


def test_every_item_is_a_target_now_and_then() -> None:
    entropy = SeededEntropy(2)
    seen = [draw_samples([np.arange(9)], _plan(1.0), entropy)[0].targets for _ in range(200)]
    assert set(np.concatenate(seen)) == set(range(9))


def test_a_shopper_of_one_item_contributes_nothing() -> None:
    assert draw_samples([np.array([3])], _plan(1.0), SeededEntropy()) == []


def test_shoppers_are_sampled_at_the_rate_of_the_plan() -> None:
    drawn = draw_samples([np.arange(4)] * 20_000, _plan(0.25), SeededEntropy())
    assert len(drawn) / 20_000 == pytest.approx(0.25, abs=0.01)


def test_negatives_are_all_public_items_where_the_plan_allows_so_many() -> None:
    public = np.eye(5, dtype=np.float32)
    assert np.array_equal(draw_negatives(public, 9, SeededEntropy()), public)
    assert len(np.unique(draw_negatives(public, 3, SeededEntropy()), axis=0)) == 3


@pytest.mark.parametrize(("width", "rows", "value"), [(2, 1, 0.0), (3, 0, 0.0), (3, 1, np.nan)])
def test_embeddings_that_do_not_fit_are_refused(width: int, rows: int, value: float) -> None:
    public = np.full((rows, width), value, np.float32)
    with pytest.raises(InvalidInputError, match="embeddings"):
        ShopData(shoppers=(), embeddings=np.zeros((1, 3), np.float32), negatives=public)
