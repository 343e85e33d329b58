import tracemalloc

import numpy as np
import pytest

from hansa.core.errors import UpdateRejectedError
from hansa.core.tensors import LazyArrays, Spec
from hansa.core.update import check_update, update_norm

MODEL = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(1, np.float32)}


def test_a_step_within_the_bound_is_accepted() -> None:
    check_update(
        MODEL, {"a": np.full((2, 2), 1.5, np.float32), "b": np.zeros(1, np.float32)}, max_norm=3.0
    )


def test_the_norm_is_that_of_all_arrays_together() -> None:
    update = {"a": np.full((2, 2), 1.0, np.float32), "b": np.full(1, 2.0, np.float32)}
    assert update_norm(MODEL, update) == pytest.approx(8.0**0.5)


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({"a": np.full((2, 2), 2.0, np.float32), "b": MODEL["b"]}, "exceeds"),
        ({"a": np.full((2, 2), np.nan, np.float32), "b": MODEL["b"]}, "not finite"),
        ({"a": np.full((2, 2), np.inf, np.float32), "b": MODEL["b"]}, "not finite"),
        ({"a": np.zeros((4,), np.float32), "b": MODEL["b"]}, "the plan's model has"),
        ({"a": np.zeros((2, 2), np.float64), "b": MODEL["b"]}, "the plan's model has"),
        ({"b": MODEL["b"], "a": MODEL["a"]}, "not those"),
        ({"a": MODEL["a"]}, "not those"),
    ],
)
def test_any_other_update_is_rejected_with_its_reason(update, reason) -> None:
    with pytest.raises(UpdateRejectedError, match=reason):
        check_update(MODEL, update, max_norm=3.0)


class CountedArrays(LazyArrays):
    """Arrays of 80 kB that are made when they are asked for."""

    def __init__(self, count: int, value: float, *, dtype: type = np.float32) -> None:
        self._names = [str(number) for number in range(count)]
        self._value = value
        self._dtype = np.dtype(dtype)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.append(name)
        return np.full(20_000, self._value, self._dtype)

    def __iter__(self):
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def spec(self, name: str) -> Spec:
        return Spec(dtype=self._dtype, shape=(20_000,))


def peak_bytes(count: int) -> int:
    tracemalloc.start()
    try:
        check_update(CountedArrays(count, 1.0), CountedArrays(count, 1.5), max_norm=1e9)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_arrays_that_are_read_one_by_one_are_never_all_in_memory() -> None:
    peak_bytes(1)
    assert peak_bytes(50) < peak_bytes(2) + 80_000


def test_nothing_is_read_of_an_update_whose_arrays_are_of_another_type() -> None:
    update = CountedArrays(3, 1.0, dtype=np.float64)
    with pytest.raises(UpdateRejectedError, match="float64"):
        check_update(CountedArrays(3, 1.0), update, max_norm=1.0)
    assert update.read == []


def test_a_value_that_is_too_large_to_be_squared_is_beyond_the_bound_not_infinite() -> None:
    model, update = {"a": np.zeros(1)}, {"a": np.array([1e200])}
    with pytest.raises(UpdateRejectedError, match="exceeds"):
        check_update(model, update, max_norm=1e300)
