from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from hansa.compression.fidelity import measure, ndcg_loss
from hansa.core.errors import InvalidInputError

Floats = npt.NDArray[np.float32]


class Table:
    """An encoder that knows its texts by heart."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors

    def embed(self, texts: Sequence[str]) -> Floats:
        return self._vectors[[int(text) for text in texts]]


def mirrored(n: int) -> tuple[Floats, Floats]:
    """Unit vectors of two models of which each ranks exactly against the other."""
    rng = np.random.default_rng(3)
    drawn = rng.uniform(-0.05, 0.05, (n, n))
    slant = np.triu(drawn, 1) + np.triu(drawn, 1).T
    return tuple(np.linalg.cholesky(np.eye(n) + sign * slant) for sign in (1, -1))  # type: ignore[return-value]


def test_a_model_loses_nothing_against_itself() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    assert ndcg_loss(vectors, vectors) == pytest.approx(0.0, abs=1e-12)


def test_scale_does_not_matter() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    assert ndcg_loss(vectors, 3 * vectors) == pytest.approx(0.0, abs=1e-12)


def test_reversed_ranking_loses_what_the_formula_says() -> None:
    discount = [1 / np.log2(1 + rank) for rank in range(1, 11)]
    best = sum(grade * d for grade, d in zip(range(10, 0, -1), discount, strict=True))
    worst = sum(grade * d for grade, d in zip(range(1, 11), discount, strict=True))
    assert ndcg_loss(*mirrored(11)) == pytest.approx(1 - worst / best, abs=1e-6)


def test_unrelated_rankings_lose_nearly_everything() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((2, 600, 16)).astype(np.float32)
    assert ndcg_loss(left, right) > 0.95


def test_cosines_are_of_the_same_texts_and_repeats_count_once() -> None:
    teacher = np.tile(np.eye(12, dtype=np.float32), 1)
    candidate = teacher.copy()
    candidate[0] = (teacher[0] + teacher[1]) / np.sqrt(2)  # cosine 0.7071 on one of 12
    texts = [str(i) for i in range(12)] + ["0", "0"]
    figures = measure(Table(teacher), Table(candidate), texts, size_bytes=77, teacher_size_bytes=99)
    assert figures.texts == 12
    assert figures.size_bytes == 77
    assert figures.mean_cosine == pytest.approx((11 + 2**-0.5) / 12, abs=1e-6)
    assert figures.p1_cosine == pytest.approx(2**-0.5 + 0.11 * (1 - 2**-0.5), abs=1e-6)


def test_ten_texts_are_too_few() -> None:
    table = Table(np.eye(10, dtype=np.float32))
    with pytest.raises(InvalidInputError, match="11 distinct texts"):
        measure(table, table, [str(i) for i in range(10)], size_bytes=1, teacher_size_bytes=1)


def test_nan_embeddings_are_refused() -> None:
    good = np.eye(12, dtype=np.float32)
    bad = good.copy()
    bad[3, 3] = np.nan
    with pytest.raises(InvalidInputError, match="finite"):
        measure(
            Table(good), Table(bad), [str(i) for i in range(12)], size_bytes=1, teacher_size_bytes=1
        )


def test_embeddings_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="one shape"):
        measure(
            Table(np.ones((12, 4), np.float32)),
            Table(np.ones((12, 5), np.float32)),
            [str(i) for i in range(12)],
            size_bytes=1,
            teacher_size_bytes=1,
        )
