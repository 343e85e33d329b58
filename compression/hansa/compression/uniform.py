"""Uniform quantisation in blocks: one step a block, and whole multiples of it as codes.

A block is ``BLOCK`` neighbouring values. Its step is its largest magnitude divided by the largest
code, so that no value is cut off, with the last eight bits of its mantissa zero, so that a step
times a code is exact in float32. Rounding at random is unbiased: the mean of what is read back is
what was written. Quantising what was read back changes nothing any more.

The block's length is a measured choice. For 73,728 Gaussian values, which is what noise makes of an
update, the root mean square of the error relative to that of the values, and what the steps cost:

=============  ======  ======  ===================
block          8 bits  4 bits  bits a value, extra
=============  ======  ======  ===================
64             0.0084  0.153   0.5
256            0.0099  0.180   0.125
1024           0.0112  0.203   0.031
a whole array  0.0152  0.275   0.000
=============  ======  ======  ===================

References:
    Alistarh et al., "QSGD: communication-efficient SGD via gradient quantization and encoding",
    arXiv:1610.02132.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Bits = Literal[4, 8]
Doubles = npt.NDArray[np.float64]
Steps = npt.NDArray[np.float32]
Take = Callable[[int], bytes | memoryview]
"""Gives the next so many bytes."""

BLOCK: Final = 256
"""Values that share a step."""

PIECE: Final = 256 * BLOCK
"""Values that are read back together, in float64: half a MiB."""

LARGEST: Final[dict[Bits, int]] = {4: 7, 8: 127}
"""The largest code of each width; codes are symmetric, and zero is one of them."""

_STEP: Final = np.dtype("<f4")
_SPARE_BITS: Final = np.uint32(0xFF)


class MalformedError(ValueError):
    """Bytes from outside are not what this package writes; callers translate it."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """Values as codes."""

    steps: Steps
    """One for each block, ``(blocks,)``; zero where a block holds only zeros."""
    codes: npt.NDArray[np.int8]
    """``(n,)``."""

    def values(self) -> Doubles:
        """What the codes stand for, ``(n,)``; exact in float32 too."""
        return self.codes * _spread(self.steps, len(self.codes))


def quantise(values: Doubles, bits: Bits, uniforms: Doubles | None = None) -> Quantised:
    """The values as codes.

    Args:
        values: ``(n,)``.
        bits: width of a code.
        uniforms: independent draws from [0, 1), ``(n,)``, for unbiased rounding at random with an
            error below one step; absent: to the nearest code, with an error of at most half a step.

    Raises:
        ValueError: a value is not finite, or too large for float32.
    """
    largest = LARGEST[bits]
    steps = _steps(values, largest)
    spread = _spread(steps, len(values))
    ratios = np.divide(values, spread, out=np.zeros_like(values), where=spread > 0)
    rounded = np.rint(ratios) if uniforms is None else np.floor(ratios + uniforms)
    return Quantised(steps=steps, codes=np.clip(rounded, -largest, largest).astype(np.int8))


def step_of(values: Doubles, bits: Bits) -> Doubles:
    """The step that each value would be rounded by, ``(n,)``: the bound of its error."""
    return _spread(_steps(values, LARGEST[bits]), len(values))


def body_bytes(count: int, bits: Bits) -> int:
    """The length of ``to_body`` for ``count`` values."""
    return _blocks(count) * _STEP.itemsize + (count * bits + 7) // 8


def to_body(quantised: Quantised, bits: Bits) -> bytes:
    """The steps, then the codes; codes of 4 bits are packed two a byte, the earlier one low."""
    codes = quantised.codes.view(np.uint8)
    packed = _packed(codes) if bits == 4 else codes.tobytes()
    return quantised.steps.astype(_STEP).tobytes() + packed


def pieces(take: Take, count: int, bits: Bits) -> Iterator[tuple[slice, Quantised]]:
    """Reads ``to_body`` of ``count`` values, from anybody, so that few are in memory at a time.

    Args:
        take: gives the next so many bytes of the body, or raises.
        count: of values.
        bits: width of a code.

    Returns:
        Which of the values, and what stands for them; in order, the last piece may be shorter.

    Raises:
        MalformedError: a step is negative or not finite, or a code is none that ``quantise`` gives.
    """
    blocks = _blocks(count)
    steps = np.frombuffer(take(blocks * _STEP.itemsize), _STEP).astype(np.float32)
    if not (np.isfinite(steps).all() and (steps >= 0).all()):
        raise MalformedError("a scale is negative or not a finite number")
    for begin in range(0, count, PIECE):
        place = slice(begin, min(begin + PIECE, count))
        codes = _codes(take, place.stop - begin, bits)
        yield place, Quantised(steps=steps[begin // BLOCK :][: _blocks(PIECE)], codes=codes)


def _codes(take: Take, count: int, bits: Bits) -> npt.NDArray[np.int8]:
    data = np.frombuffer(take((count * bits + 7) // 8), np.uint8)
    codes = _unpacked(data, count) if bits == 4 else data.view(np.int8)
    if int(codes.min()) < -LARGEST[bits]:
        raise MalformedError(f"a code is below -{LARGEST[bits]}")
    return codes


def _steps(values: Doubles, largest: int) -> Steps:
    """The smallest steps of 16 bits by which no block exceeds its largest code."""
    if not np.isfinite(values).all():
        raise ValueError("a value is not a finite number")
    peaks = np.zeros(_blocks(len(values)))
    if len(values):
        peaks = np.maximum.reduceat(np.abs(values), np.arange(0, len(values), BLOCK))
    with np.errstate(over="ignore", under="ignore"):
        steps = (peaks / largest).astype(np.float32)
        steps = np.where(steps * np.float64(largest) < peaks, np.nextafter(steps, np.inf), steps)
        steps = _rounded_up(steps.astype(np.float32))
        too_large = ~np.isfinite(steps * np.float32(largest))
    if too_large.any():
        raise ValueError("a value is too large to be quantised")
    return steps


def _rounded_up(steps: Steps) -> Steps:
    """The next floats whose spare bits are zero; floats at least 0 are ordered as their bits."""
    bits = steps.view(np.uint32)
    return ((bits + _SPARE_BITS) & ~_SPARE_BITS).view(np.float32)


def _spread(steps: Steps, count: int) -> Doubles:
    """Each value's step, ``(count,)``."""
    return np.repeat(steps.astype(np.float64), BLOCK)[:count]


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def _packed(codes: npt.NDArray[np.uint8]) -> bytes:
    even = np.zeros(len(codes) + len(codes) % 2, np.uint8)
    even[: len(codes)] = codes & 0x0F
    return (even[0::2] | (even[1::2] << 4)).astype(np.uint8).tobytes()


def _unpacked(packed: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int8]:
    codes = np.empty(2 * len(packed), np.uint8)
    codes[0::2], codes[1::2] = packed & 0x0F, packed >> 4
    if codes[count:].any():
        raise MalformedError("the unused half of its last byte is not zero")
    # The upper of the four bits is the sign.
    return ((codes[:count] ^ 0x08).astype(np.int8) - 8).astype(np.int8)
