import numpy as np
import pytest

from hansa.core.errors import UpdateRejectedError
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
