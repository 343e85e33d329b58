import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.errors import InvalidInputError
from hansa.core.metrics import ndcg_at_k, recall_at_k


def test_recall_divides_by_what_was_possible() -> None:
    scores, relevant = [0.9, 0.8, 0.7, 0.6], [True, False, True, True]
    assert recall_at_k(scores, relevant, 2) == 1 / 2
    assert recall_at_k(scores, relevant, 4) == 1.0
    assert recall_at_k([3, 2, 1], [True, True, True], 2) == 1.0


def test_ndcg_discounts_by_the_logarithm_of_the_rank() -> None:
    scores, relevant = [0.9, 0.8, 0.7], [False, True, True]
    ideal = 1.0 + 1.0 / math.log2(3)
    assert ndcg_at_k(scores, relevant, 2) == pytest.approx((1.0 / math.log2(3)) / ideal)
    assert ndcg_at_k([1, 2, 3], relevant, 3) == pytest.approx(1.0)


def test_fewer_candidates_than_k_are_ranked_all_the_same() -> None:
    assert recall_at_k([1.0], [True], 10) == ndcg_at_k([1.0], [True], 10) == 1.0


def test_ties_go_to_the_earlier_candidate() -> None:
    assert recall_at_k([1.0, 1.0], [True, False], 1) == 1.0
    assert recall_at_k([1.0, 1.0], [False, True], 1) == 0.0


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1), st.integers(1, 12))
def test_both_lie_between_zero_and_one(rows: list[tuple[float, bool]], k: int) -> None:
    scores, relevant = [row[0] for row in rows], [row[1] for row in rows]
    if any(relevant):
        assert 0.0 <= recall_at_k(scores, relevant, k) <= 1.0
        assert 0.0 <= ndcg_at_k(scores, relevant, k) <= 1.0 + 1e-12


@pytest.mark.parametrize(
    ("scores", "relevant", "k"),
    [([1.0], [True, False], 1), ([np.nan], [True], 1), ([1.0], [False], 1), ([1.0], [True], 0)],
)
def test_what_is_no_ranking_is_refused(scores: list[float], relevant: list[bool], k: int) -> None:
    for metric in (recall_at_k, ndcg_at_k):
        with pytest.raises(InvalidInputError, match="a ranking needs"):
            metric(scores, relevant, k)
