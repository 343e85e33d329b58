from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.banded import (
    BandedNoise,
    column_norms,
    most_participations,
    prefix_errors,
    sensitivity,
    square_root_coefficients,
    strategy_matrix,
)
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.noise import IndependentNoise
from tests.fakes.entropy import SeededEntropy


def test_the_first_coefficients_are_those_of_the_square_root_by_hand() -> None:
    raw = square_root_coefficients(4) / square_root_coefficients(4)[0]
    assert raw == pytest.approx([1.0, 1 / 2, 3 / 8, 5 / 16])


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_with_as_many_bands_as_steps_the_matrix_is_the_square_root_of_prefix_sums(
    steps: int,
) -> None:
    coefficients = square_root_coefficients(steps)
    toeplitz = strategy_matrix(steps, steps) * column_norms(coefficients, steps)
    root = toeplitz / coefficients[0]
    assert root @ root == pytest.approx(np.tri(steps))


def test_its_error_is_the_published_one() -> None:
    # Both factors are the square root, so the largest error times the sensitivity is the sum of its
    # squared coefficients: 1 + 1/4 + 9/64 + 25/256. Scaling columns to norm 1 only lowers it.
    coefficients = square_root_coefficients(4)
    toeplitz = strategy_matrix(4, 4) * column_norms(coefficients, 4)
    last = np.linalg.norm(np.linalg.inv(toeplitz).sum(axis=0))
    assert last == pytest.approx(1 + 1 / 4 + 9 / 64 + 25 / 256)
    assert prefix_errors(4, 4)[-1] * sensitivity(4, 4) <= last

    # For many steps these sums are Landau's constants, (ln(16 n) + Euler's gamma) / pi.
    for steps in (64, 1024):
        landau = (np.log(16.0 * steps) + np.euler_gamma) / np.pi
        assert square_root_coefficients(steps)[0] ** -2 == pytest.approx(landau, abs=0.002)


def test_independent_noise_adds_up_and_banded_noise_adds_up_less() -> None:
    assert prefix_errors(1, 9)[-1] == pytest.approx(3.0)
    errors = [prefix_errors(bands, 64)[-1] for bands in (1, 2, 4, 8, 16, 32, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(8.0)


def brute_force(matrix: np.ndarray, apart: int) -> float:
    """The largest norm of a sum of columns at least ``apart`` from each other, all signs equal."""
    steps, largest = len(matrix), 0.0
    for size in range(1, steps + 1):
        for pattern in combinations(range(steps), size):
            if all(later - earlier >= apart for earlier, later in pairwise(pattern)):
                largest = max(largest, float(np.linalg.norm(matrix[:, pattern].sum(axis=1))))
    return largest


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 10), st.integers(1, 10))
def test_the_sensitivity_is_that_of_the_worst_pattern_of_participation(
    bands: int, steps: int
) -> None:
    if bands > steps:
        bands, steps = steps, bands
    matrix = strategy_matrix(bands, steps)
    assert np.linalg.norm(matrix, axis=0) == pytest.approx(1.0)
    assert brute_force(matrix, bands) == pytest.approx(sensitivity(bands, steps))
    assert sensitivity(bands, steps) ** 2 == pytest.approx(most_participations(bands, steps))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**32))
def test_what_a_unit_moves_is_within_the_sensitivity_whatever_its_gradients(
    bands: int, steps: int, seed: int
) -> None:
    bands = min(bands, steps)
    draw = np.random.default_rng(seed)
    moved = np.zeros((steps, 5))
    for step in range(int(draw.integers(bands)), steps, bands):
        gradient = draw.normal(size=5)
        moved[step] = gradient / np.linalg.norm(gradient)
    assert np.linalg.norm(strategy_matrix(bands, steps) @ moved) <= sensitivity(bands, steps) + 1e-9


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(1, 12))
def test_the_stream_is_the_inverse_matrix_times_independent_noise(bands: int, steps: int) -> None:
    bands = min(bands, steps)
    key, nonce = bytes(range(32)), bytes(16)
    plain = IndependentNoise(AesNormal(key=key, nonce=nonce), std=0.5)
    noise = np.stack([plain.next(7) for _ in range(steps)])
    stream = BandedNoise(AesNormal(key=key, nonce=nonce), bands=bands, steps=steps, std=0.5)
    rows = np.stack([stream.next(7) for _ in range(steps)])
    assert strategy_matrix(bands, steps) @ rows == pytest.approx(noise)


def test_the_noise_has_its_standard_deviation_within_one_percent() -> None:
    independent = IndependentNoise(AesNormal.fresh(SeededEntropy(1)), std=0.25)
    assert independent.next(400_000).std() == pytest.approx(0.25, rel=0.01)
    stream = BandedNoise(AesNormal.fresh(SeededEntropy(2)), bands=3, steps=6, std=0.25)
    rows = np.stack([stream.next(100_000) for _ in range(6)])
    true = np.linalg.norm(np.linalg.inv(strategy_matrix(3, 6)), axis=1) * 0.25
    assert rows.std(axis=1) == pytest.approx(true, rel=0.01)
    released = strategy_matrix(3, 6) @ rows
    assert released.std(axis=1) == pytest.approx(0.25, rel=0.01)


def test_the_stream_remembers_no_more_rows_than_bands() -> None:
    stream = BandedNoise(AesNormal.fresh(SeededEntropy()), bands=3, steps=9, std=1.0)
    for _ in range(9):
        stream.next(4)
    assert len(stream._rows) == 2


def test_noise_ends_with_its_round() -> None:
    stream = BandedNoise(AesNormal.fresh(SeededEntropy()), bands=2, steps=2, std=1.0)
    stream.next(4)
    stream.next(4)
    with pytest.raises(InvalidInputError, match="used up"):
        stream.next(4)


def test_the_steps_of_a_round_have_one_size() -> None:
    stream = BandedNoise(AesNormal.fresh(SeededEntropy()), bands=2, steps=2, std=1.0)
    stream.next(4)
    with pytest.raises(InvalidInputError, match="one size"):
        stream.next(5)


@pytest.mark.parametrize(("bands", "steps"), [(0, 3), (4, 3)])
def test_a_run_has_at_least_as_many_steps_as_bands(bands: int, steps: int) -> None:
    with pytest.raises(InvalidInputError, match="as many steps as bands"):
        BandedNoise(AesNormal.fresh(SeededEntropy()), bands=bands, steps=steps, std=1.0)


def test_no_noise_shows() -> None:
    assert repr(BandedNoise(AesNormal.fresh(SeededEntropy()), bands=1, steps=1, std=1.0)) == (
        "BandedNoise(...)"
    )
