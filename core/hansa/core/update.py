"""What an update must be before it may enter an aggregate."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.core.errors import UpdateRejectedError
from hansa.core.tensors import Spec, spec_of

Arrays = Mapping[str, npt.NDArray[Any]]

_PIECE = 1 << 14


def check_update(model: Arrays, update: Arrays, *, max_norm: float) -> None:
    """Accepts an update only when it is a finite, bounded step away from the round's model.

    Of arrays that are read when they are asked for, one is in memory at a time.

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
    for name in update:
        _check_spec(name, spec_of(model, name), spec_of(update, name))
    square = 0.0
    for name in update:
        array = update[name]
        distance = _square_distance(model[name], array)
        # A distance that is not finite comes of such a value, or of one too large to be squared.
        if not math.isfinite(distance) and not np.all(np.isfinite(array)):
            raise UpdateRejectedError(f"array {name!r} holds values that are not finite")
        square += distance
    if not math.sqrt(square) <= max_norm:
        raise UpdateRejectedError(
            f"the update's norm {math.sqrt(square):.4g} exceeds the plan's bound {max_norm:.4g}"
        )


def update_norm(model: Arrays, update: Arrays) -> float:
    """The L2 distance between two sets of arrays, in float64."""
    return math.sqrt(sum(_square_distance(model[name], update[name]) for name in model))


def _square_distance(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """In float64, over pieces that stay in the processor's cache.

    Not by ``dot``: it would begin threads, which wait for one another on a busy machine.
    """
    ones, others = first.reshape(-1), second.reshape(-1)
    total = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for begin in range(0, ones.size, _PIECE):
            end = begin + _PIECE
            step = np.subtract(others[begin:end], ones[begin:end], dtype=np.float64)
            total += float(np.square(step, out=step).sum())
    return total


def _check_spec(name: str, expected: Spec, found: Spec) -> None:
    if found != expected:
        raise UpdateRejectedError(
            f"array {name!r} is {found.dtype}{list(found.shape)}, the plan's model has "
            f"{expected.dtype}{list(expected.shape)}"
        )
