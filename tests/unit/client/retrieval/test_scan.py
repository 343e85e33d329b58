import subprocess
import sys

import numpy as np
import pytest

from hansa.client.retrieval.scan import ExactScan

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "dim"), [(1, 4), (7, 3), (500, 64), (5000, 384)])
def test_the_best_are_those_of_exact_float(n: int, dim: int) -> None:
    vectors = RNG.standard_normal((n, dim)).astype(np.float32)
    scan = ExactScan(vectors, threads=1)
    for query in RNG.standard_normal((10, dim)).astype(np.float32):
        rows, scores = scan.top(query, 10)
        exact = np.argsort(-(vectors @ query))[:10]
        np.testing.assert_array_equal(rows, exact)
        np.testing.assert_allclose(scores, (vectors @ query)[exact], rtol=1e-4, atol=1e-4)


def test_lengths_count_because_scores_are_dot_products() -> None:
    vectors = np.array([[1, 0], [5, 0], [0, 9]], np.float32)
    rows, scores = ExactScan(vectors, threads=1).top(np.array([1, 0], np.float32), 2)
    np.testing.assert_array_equal(rows, [1, 0])
    np.testing.assert_array_equal(scores, [5, 1])


def test_ties_go_to_the_lower_row() -> None:
    vectors = np.ones((100, 8), np.float32)
    rows, _ = ExactScan(vectors, threads=1).top(np.ones(8, np.float32), 5)
    assert list(ExactScan(vectors[:30], threads=1).top(np.ones(8, np.float32), 5)[0]) == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip
    assert sorted(rows) == list(rows)


def test_a_scan_of_nothing_answers_nothing() -> None:
    scan = ExactScan(np.zeros((0, 8), np.float32), threads=1)
    rows, scores = scan.top(np.ones(8, np.float32), 5)
    assert len(rows) == len(scores) == 0
    assert scan.check_recall(np.zeros((0, 8), np.float32)) == 1.0


def test_zero_vectors_are_ranked_without_a_warning() -> None:
    rows, scores = ExactScan(np.zeros((200, 8), np.float32), threads=1).top(np.zeros(8), 3)
    assert len(rows) == 3
    np.testing.assert_array_equal(scores, 0)


def test_a_good_int8_copy_is_kept() -> None:
    vectors = RNG.standard_normal((2000, 64)).astype(np.float32)
    scan = ExactScan(vectors, threads=1)
    assert scan.check_recall(vectors[:50]) >= 0.99
    assert scan.is_int8


def test_a_bad_int8_copy_is_given_up_and_answers_are_exact_again() -> None:
    vectors = RNG.standard_normal((2000, 16)).astype(np.float32)
    vectors[0] *= 1e4  # one outlier takes all 127 steps of the common scale
    queries = RNG.standard_normal((50, 16)).astype(np.float32)
    scan = ExactScan(vectors, threads=1)
    assert scan.check_recall(queries) < 0.98
    assert not scan.is_int8
    np.testing.assert_array_equal(
        scan.top(queries[0], 10)[0], np.argsort(-(vectors @ queries[0]))[:10]
    )


def test_the_scan_and_the_runtime_load_in_any_order_that_a_command_uses() -> None:
    code = "import hansa.client.retrieval.scan, torch, onnxruntime, usearch.index"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
