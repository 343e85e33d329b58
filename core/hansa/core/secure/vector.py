"""An update as one vector, and the mean of such vectors as a model again."""

import math

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.update import Arrays


def size_of(model: Arrays) -> int:
    """The number of values in a model.

    Raises:
        InvalidInputError: an array does not hold floating-point numbers, which alone can be summed.
    """
    for name, array in model.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise InvalidInputError(
                f"array {name!r} is {array.dtype}: secure aggregation sums floating-point arrays "
                "only; leave it out of what is trained"
            )
    return sum(math.prod(array.shape) for array in model.values())


def difference(model: Arrays, update: Arrays) -> npt.NDArray[np.float64]:
    """The update's step from the model, all arrays in the model's order, shape ``(n,)``."""
    vector = np.empty(size_of(model), np.float64)
    at = 0
    for name, array in model.items():
        step = vector[at : at + array.size]
        np.subtract(update[name].ravel(), array.ravel(), out=step, dtype=np.float64)
        at += array.size
    return vector


def moved(model: Arrays, step: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.generic]]:
    """The model after a step of shape ``(n,)``, in the model's dtypes."""
    result, at = {}, 0
    for name, array in model.items():
        part = step[at : at + array.size].reshape(array.shape)
        result[name] = np.asarray(array.astype(np.float64) + part, array.dtype)
        at += array.size
    return result
