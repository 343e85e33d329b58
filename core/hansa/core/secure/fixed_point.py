"""Numbers as integers modulo 2^32 or 2^64, so that their sum is exact in any order.

A value is cut to ``[-max_abs, max_abs]`` and rounded to the nearest multiple of
``2^-fraction_bits`` (ties to even). Rounding is deterministic: it comes after the shoppers' noise,
so it costs no privacy, and its error is far below that noise. A sum of ``n`` values is off by at
most ``n * 2^-(fraction_bits + 1)``, their mean by ``2^-(fraction_bits + 1)``, if nothing was cut.
The ring is chosen so that the largest allowed group can never overflow it.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError

Ring = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
"""Integers modulo 2^32 or 2^64; their sums wrap."""

_RINGS: Final[dict[int, np.dtype[Any]]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """The coding that all members of a round share.

    Raises:
        InvalidInputError: the group's largest sum fits no ring.
    """

    fraction_bits: int
    """Binary places."""
    max_abs: float
    """Values beyond this are cut."""
    largest_group: int
    """At most so many members are summed."""

    def __post_init__(self) -> None:
        """Chooses a ring, or refuses."""
        _ = self.bits

    @property
    def bits(self) -> int:
        """32 or 64: the smaller ring in which the largest sum keeps its sign."""
        largest = self.largest_group * math.ceil(self.max_abs * 2.0**self.fraction_bits)
        for bits in _RINGS:
            if largest < 2 ** (bits - 1):
                return bits
        raise InvalidInputError(
            f"{self.largest_group} members * max_abs {self.max_abs:g} * "
            f"2^{self.fraction_bits} overflows 64 bits; lower fraction_bits, max_abs or the cohort"
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The ring's little-endian unsigned integer."""
        return _RINGS[self.bits]

    @property
    def max_error(self) -> float:
        """How far a coded value, or the mean of coded values, can be from the uncoded one."""
        return 2.0 ** -(self.fraction_bits + 1)

    def encode(self, values: npt.NDArray[Any]) -> Ring:
        """Ring elements of the same shape; negative numbers are in two's complement.

        Raises:
            InvalidInputError: a value is not finite.
        """
        if not np.all(np.isfinite(values)):
            raise InvalidInputError("only finite numbers can be summed securely")
        cut = np.clip(values.astype(np.float64), -self.max_abs, self.max_abs)
        integers = np.rint(cut * 2.0**self.fraction_bits).astype(np.int64)
        return integers.astype(self.dtype)

    def decode(self, total: Ring) -> npt.NDArray[np.float64]:
        """The numbers of a sum, float64; beyond 53 bits they are rounded to its precision."""
        signed = total.astype(self.dtype).view(np.dtype(f"<i{self.bits // 8}"))
        return signed.astype(np.float64) * 2.0**-self.fraction_bits
