import dataclasses

import numpy as np
import pytest

from hansa.client.evaluation import (
    RECALL_SUM,
    SHOPPERS,
    Quality,
    baselines,
    compare,
    ensemble,
    judge,
    nearest_history,
    noised_metric,
    popularity,
    tower_scorer,
    zero_shot,
)
from hansa.client.examples import Case, Examples
from hansa.core.errors import InvalidInputError
from hansa.core.models.tower import Tower
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy

PRIVACY = PrivacyPlan(
    unit="shopper",
    sampling_rate=0.5,
    expected_shoppers=20,
    records_per_shopper=4,
    clip_norm=1.0,
    noise_multiplier=2.0,
    evaluation_noise_multiplier=5.0,
    delta=1e-5,
    local_steps=1,
    rounds=1,
)
EMBEDDINGS = np.array(
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32
)
EXAMPLES = Examples(
    known=np.array([0, 1, 2]),
    cold=np.array([3, 4, 5]),
    training=(np.array([0, 2]), np.array([2])),
    cases=(Case(history=np.array([0, 1]), targets=np.array([3])),),
)


def test_popularity_is_that_of_items_with_like_text() -> None:
    assert popularity(EXAMPLES, EMBEDDINGS)(np.array([1])).argsort().tolist() == [1, 0, 2]


def test_popularity_counts_training_shoppers_only() -> None:
    untrained = dataclasses.replace(EXAMPLES, training=())
    assert not popularity(untrained, EMBEDDINGS)(np.array([0])).any()


def test_zero_shot_is_the_cosine_to_the_mean_of_the_history() -> None:
    np.testing.assert_allclose(zero_shot(EXAMPLES, EMBEDDINGS)(np.array([0, 1])), [0.5, 0.5, 0.0])


def test_nearest_history_takes_the_mean_of_the_best_cosines() -> None:
    history = np.array([0, 1])
    assert nearest_history(EXAMPLES, EMBEDDINGS, neighbours=1)(history).tolist() == [1, 1, 0]
    assert nearest_history(EXAMPLES, EMBEDDINGS)(history).tolist() == [0.5, 0.5, 0.0]


def test_an_untrained_tower_scores_as_zero_shot() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((6, 3)).astype(np.float32)
    tower = Tower.initial(embeddings, 2)
    history = np.array([0, 2])
    np.testing.assert_allclose(
        tower_scorer(tower, EXAMPLES, embeddings)(history),
        zero_shot(EXAMPLES, embeddings)(history),
        rtol=1e-6,
    )


def test_every_scorer_ranks_all_cold_items_of_the_shop() -> None:
    figures = compare(EXAMPLES, baselines(EXAMPLES, EMBEDDINGS))
    assert list(figures) == ["popularity", "zero_shot", "nearest_history"]
    assert figures["zero_shot"].recall == 1.0
    assert figures["zero_shot"].ndcg == 1.0
    with pytest.raises(InvalidInputError, match="one score and one mark a candidate"):
        judge(EXAMPLES, lambda _history: np.zeros(2))


def test_an_ensemble_adds_standardised_scores() -> None:
    up, down = (lambda _h: np.array([0.0, 1.0, 2.0])), (lambda _h: np.array([200.0, 100.0, 0.0]))
    np.testing.assert_allclose(ensemble([up, down])(np.array([0])), 0.0, atol=1e-6)
    with pytest.raises(InvalidInputError, match="at least one"):
        ensemble([])


def test_quality_adds_up_over_shops_and_does_not_show() -> None:
    one, two = (Quality(shoppers=n, recall_sum=n / 2, ndcg_sum=n / 4) for n in (2, 6))
    assert one + two == two + one == Quality(shoppers=8, recall_sum=4.0, ndcg_sum=2.0)
    assert repr(one) == "Quality()"


def test_a_released_metric_carries_the_noise_that_is_booked() -> None:
    entropy = SeededEntropy(4)
    quality = Quality(shoppers=10, recall_sum=4.0, ndcg_sum=0.0)
    drawn = [noised_metric(quality, PRIVACY, entropy) for _ in range(4000)]
    for name, truth in ((RECALL_SUM, 4.0), (SHOPPERS, 10.0)):
        values = np.array([one[name] for one in drawn])
        assert values.std() == pytest.approx(5.0 * np.sqrt(2.0), rel=0.03)
        assert values.mean() == pytest.approx(truth, abs=0.5)


def test_one_shopper_moves_the_released_pair_by_no_more_than_its_sensitivity() -> None:
    for recall in (0.0, 0.3, 1.0):
        assert np.hypot(recall, 1.0) <= np.sqrt(2.0)


def test_without_evaluation_noise_no_metric_leaves() -> None:
    plan = dataclasses.replace(PRIVACY, evaluation_noise_multiplier=None)
    with pytest.raises(InvalidInputError, match="no metric"):
        noised_metric(Quality(shoppers=1, recall_sum=0.0, ndcg_sum=0.0), plan, SeededEntropy())


@pytest.mark.parametrize("total", [-0.1, 1.1, float("nan")])
def test_a_sum_that_breaks_the_sensitivity_is_refused(total: float) -> None:
    with pytest.raises(InvalidInputError, match="between 0 and"):
        noised_metric(Quality(shoppers=1, recall_sum=total, ndcg_sum=0.0), PRIVACY, SeededEntropy())
