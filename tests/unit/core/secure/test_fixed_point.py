import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa.core.errors import InvalidInputError
from hansa.core.secure.fixed_point import FixedPoint

WIDE = FixedPoint(fraction_bits=24, max_abs=8.0, largest_group=1000)
NARROW = FixedPoint(fraction_bits=8, max_abs=4.0, largest_group=100)
within = hnp.arrays(np.float32, 5, elements=st.floats(-4, 4, width=32))


def test_the_smaller_ring_that_holds_the_largest_sum_is_taken() -> None:
    assert (WIDE.bits, NARROW.bits) == (64, 32)
    # 2^21 members of at most 2^10 steps of 2^-0 each are one too many for 31 bits.
    fits = FixedPoint(fraction_bits=8, max_abs=4.0, largest_group=2**21 - 1)
    assert fits.bits == 32
    assert FixedPoint(fraction_bits=8, max_abs=4.0, largest_group=2**21).bits == 64


def test_a_plan_whose_sums_would_overflow_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="overflows 64 bits"):
        FixedPoint(fraction_bits=40, max_abs=1e6, largest_group=1000)


def test_numbers_are_rounded_to_the_nearest_step_and_ties_to_even() -> None:
    values = np.array([0.0, 1.0, -1.0, 1.5 / 256, 2.5 / 256, -0.4 / 256], np.float64)
    assert NARROW.encode(values).astype(np.int32).tolist() == [0, 256, -256, 2, 2, 0]


def test_what_lies_outside_is_cut() -> None:
    values = np.array([1e9, -1e9, 4.1], np.float32)
    assert NARROW.decode(NARROW.encode(values)).tolist() == [4.0, -4.0, 4.0]


@given(within)
def test_one_number_comes_back_within_the_stated_error(values) -> None:
    for coding in (WIDE, NARROW):
        back = coding.decode(coding.encode(values))
        assert np.max(np.abs(back - values.astype(np.float64))) <= coding.max_error


@given(st.lists(within, min_size=1, max_size=20), st.randoms())
def test_a_sum_is_exact_in_any_order_and_its_mean_within_the_stated_error(many, random) -> None:
    for coding in (WIDE, NARROW):
        coded = [coding.encode(values) for values in many]
        total = np.sum(coded, axis=0, dtype=coding.dtype)
        random.shuffle(coded)
        assert np.array_equal(np.sum(coded, axis=0, dtype=coding.dtype), total)
        mean = coding.decode(total) / len(many)
        exact = np.mean([values.astype(np.float64) for values in many], axis=0)
        assert np.max(np.abs(mean - exact)) <= coding.max_error + 1e-15


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_group_at_its_largest_values_does_not_overflow(sign: float) -> None:
    coding = FixedPoint(fraction_bits=8, max_abs=4.0, largest_group=2**21 - 1)
    one = coding.encode(np.array([sign * 4.0]))
    total = one * np.uint32(coding.largest_group)
    assert coding.decode(total)[0] == sign * 4.0 * coding.largest_group


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InvalidInputError, match="finite"):
        WIDE.encode(np.array([0.0, bad]))
