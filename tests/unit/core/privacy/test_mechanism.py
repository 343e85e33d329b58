import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hansa.client.entropy import SystemEntropy
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import AesNormal, Entropy, choose_records, poisson_sample
from tests.fakes.entropy import SeededEntropy


@pytest.mark.parametrize("entropy", [SystemEntropy(), SeededEntropy()])
def test_entropy_gives_the_bytes_asked_for_and_never_the_same(entropy: Entropy) -> None:
    assert len(entropy.random_bytes(0)) == 0
    assert entropy.random_bytes(32) != entropy.random_bytes(32)


def test_noise_has_its_standard_deviation_within_two_percent() -> None:
    noise = AesNormal.fresh(SeededEntropy(1)).normal(200_000, std=0.125)
    assert noise.shape == (200_000,)
    assert noise.std() == pytest.approx(0.125, rel=0.02)
    assert abs(noise.mean()) < 0.125 * 4 / np.sqrt(200_000)


def test_noise_is_gaussian() -> None:
    noise = AesNormal.fresh(SeededEntropy(2)).normal(100_000)
    assert stats.kstest(noise, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02


def test_equal_keys_give_equal_noise_and_another_nonce_does_not() -> None:
    key = bytes(range(32))
    first = AesNormal(key=key, nonce=bytes(16)).normal(9)
    assert np.array_equal(first, AesNormal(key=key, nonce=bytes(16)).normal(9))
    assert not np.array_equal(first, AesNormal(key=key, nonce=b"\1" * 16).normal(9))


def test_a_stream_never_repeats_its_noise() -> None:
    stream = AesNormal.fresh(SeededEntropy())
    assert not np.intersect1d(stream.normal(1000), stream.normal(1000)).size


def test_the_noise_of_no_values_is_empty_and_of_no_deviation_is_zero() -> None:
    stream = AesNormal.fresh(SeededEntropy())
    assert stream.normal(0).shape == (0,)
    assert not stream.normal(3, std=0.0).any()


def test_the_key_does_not_show() -> None:
    assert repr(AesNormal(key=b"k" * 32, nonce=bytes(16))) == "AesNormal(...)"


@pytest.mark.parametrize(("key", "nonce"), [(31, 16), (32, 15), (0, 0)])
def test_a_key_or_nonce_of_another_length_is_refused(key: int, nonce: int) -> None:
    with pytest.raises(InvalidInputError, match="key of 32 bytes"):
        AesNormal(key=bytes(key), nonce=bytes(nonce))


@pytest.mark.parametrize(("size", "std"), [(-1, 1.0), (1, -1.0), (1, np.nan), (1, np.inf)])
def test_noise_needs_a_size_and_a_finite_deviation(size: int, std: float) -> None:
    with pytest.raises(InvalidInputError, match="finite standard deviation"):
        AesNormal.fresh(SeededEntropy()).normal(size, std=std)


def test_each_shopper_is_sampled_with_the_sampling_rate() -> None:
    entropy, times = SeededEntropy(3), np.zeros(2000)
    for _ in range(400):
        times[poisson_sample(2000, 0.05, entropy)] += 1
    assert times.mean() / 400 == pytest.approx(0.05, rel=0.02)
    assert times.var() == pytest.approx(400 * 0.05 * 0.95, rel=0.15)


def test_sampling_with_rate_zero_takes_none_and_with_rate_one_takes_all() -> None:
    assert poisson_sample(100, 0.0, SeededEntropy()).size == 0
    assert poisson_sample(100, 1.0, SeededEntropy()).tolist() == list(range(100))
    assert poisson_sample(0, 0.5, SeededEntropy()).size == 0


@pytest.mark.parametrize(("n", "q"), [(-1, 0.5), (1, -0.1), (1, 1.1), (1, np.nan)])
def test_sampling_needs_a_count_and_a_probability(n: int, q: float) -> None:
    with pytest.raises(InvalidInputError, match="probability"):
        poisson_sample(n, q, SeededEntropy())


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2**32))
def test_at_most_k_different_records_are_chosen(count: int, k: int, seed: int) -> None:
    chosen = choose_records(count, k, SeededEntropy(seed))
    assert len(set(chosen.tolist())) == len(chosen) == min(count, k)
    assert chosen.tolist() == sorted(chosen.tolist())
    assert all(0 <= index < count for index in chosen)


def test_every_record_is_chosen_equally_often() -> None:
    entropy, times = SeededEntropy(4), np.zeros(10)
    for _ in range(6000):
        times[choose_records(10, 3, entropy)] += 1
    assert stats.chisquare(times).pvalue > 1e-3


def test_a_negative_number_of_records_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 0"):
        choose_records(3, -1, SeededEntropy())
