"""What an update must be before it may enter an aggregate."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.core.errors import UpdateRejectedError

Arrays = Mapping[str, npt.NDArray[Any]]


def check_update(model: Arrays, update: Arrays, *, max_norm: float) -> None:
    """Accepts an update only when it is a finite, bounded step away from the round's model.

    Args:
        model: the arrays that the round began with, by name and in order.
        update: the arrays that a merchant returned.
        max_norm: the largest allowed L2 distance over all arrays together.

    Raises:
        UpdateRejectedError: names, order, shapes or dtypes differ, a value is not finite, or the
            distance exceeds ``max_norm``.
    """
    if list(model) != list(update):
        raise UpdateRejectedError("the update's arrays are not those of the round's model")
    for name, array in update.items():
        _check_array(name, model[name], array)
    distance = update_norm(model, update)
    if distance > max_norm:
        raise UpdateRejectedError(
            f"the update's norm {distance:.4g} exceeds the plan's bound {max_norm:.4g}"
        )


def update_norm(model: Arrays, update: Arrays) -> float:
    """The L2 distance between two sets of arrays, in float64."""
    squares = (
        float(np.sum(np.square(update[name].astype(np.float64) - model[name].astype(np.float64))))
        for name in model
    )
    return math.sqrt(sum(squares))


def _check_array(name: str, expected: npt.NDArray[Any], array: npt.NDArray[Any]) -> None:
    if array.shape != expected.shape or array.dtype != expected.dtype:
        raise UpdateRejectedError(
            f"array {name!r} is {array.dtype}{list(array.shape)}, the plan's model has "
            f"{expected.dtype}{list(expected.shape)}"
        )
    if not np.all(np.isfinite(array)):
        raise UpdateRejectedError(f"array {name!r} holds values that are not finite")
