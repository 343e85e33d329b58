"""One array on its way: a short header and a body, as an array of bytes.

======  =====================================================
bytes   what
======  =====================================================
1       version of this form: 1
1       bits of a value: 4, 8, or 32 for "as it is"
1       how the body is packed: 0 as it is, 1 zstd
1       dtype, by its place in ``DTYPES``
1       number of dimensions, at most 8
8 each  the dimensions, little endian
rest    the body
======  =====================================================

An array that travels as it is has the bytes of its values regrouped when it is packed, all first
bytes, then all second ones, and so on, which zstd makes more of. What is unpacked is never longer
than the header's shape says, and the caller bounds that. It is read in pieces, so that no second
copy of an array is in memory beside the one that comes out.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from hansa.compression.uniform import Bits, MalformedError, body_bytes
from hansa.core.tensors import Blob

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

AS_IT_IS: Final = 32
DTYPES: Final = (
    "float32",
    "float64",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
    "uint16",
    "uint32",
    "uint64",
)
_QUANTISED: Final = ("float32", "float64")
"""A step times a code is exact in these."""

_VERSION: Final = 1
_HEAD: Final = struct.Struct("<5B")
_MAX_DIMENSIONS: Final = 8
_LEVEL: Final = 3
"""Higher levels of zstd gain under 1 % on weights, at a hundredth of the speed."""
_MAX_WINDOW_BYTES: Final = 8 << 20
_PIECE_BYTES: Final = 1 << 18
_AS_IT_IS, _ZSTD = 0, 1


@dataclass(frozen=True, kw_only=True)
class Label:
    """What a parcel says that it holds."""

    bits: int
    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def of(array: Array, bits: int) -> "Label":
        """How this array travels where the plan wants ``bits``; only float32 and 64 are quantised.

        Raises:
            ValueError: arrays of this dtype or of so many dimensions do not travel.
        """
        name = array.dtype.name
        if name not in DTYPES or array.ndim > _MAX_DIMENSIONS:
            raise ValueError(f"an array of {name} with {array.ndim} dimensions does not travel")
        return Label(bits=bits if name in _QUANTISED else AS_IT_IS, dtype=name, shape=array.shape)

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def array_bytes(self) -> int:
        """Length of the array that comes out."""
        return self.count * np.dtype(self.dtype).itemsize

    @property
    def body_bytes(self) -> int:
        """Length of the body before zstd."""
        width = quantised_bits(self.bits)
        return self.array_bytes if width is None else body_bytes(self.count, width)

    def to_bytes(self, packing: int) -> bytes:
        """The header."""
        place, dimensions = DTYPES.index(self.dtype), len(self.shape)
        head = _HEAD.pack(_VERSION, self.bits, packing, place, dimensions)
        return head + struct.pack(f"<{dimensions}Q", *self.shape)


def quantised_bits(bits: int) -> Bits | None:
    """The width of a code; None where values travel as they are.

    Raises:
        MalformedError: there is no such width.
    """
    match bits:
        case 4 | 8:
            return 4 if bits == 4 else 8
        case 32:
            return None
        case _:
            raise MalformedError(f"values of {bits} bits are unknown")


def wrap(label: Label, body: bytes, *, zstd: bool) -> Bytes:
    """The parcel; zstd packs it where that makes it smaller."""
    if zstd and body:
        ready = _regrouped(body, label) if label.bits == AS_IT_IS else body
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(ready)
        if len(packed) < len(body):
            return np.frombuffer(label.to_bytes(_ZSTD) + packed, np.uint8)
    return np.frombuffer(label.to_bytes(_AS_IT_IS) + body, np.uint8)


def read_label(parcel: Array) -> Label:
    """What a parcel from anybody says that it holds.

    Raises:
        MalformedError: it is no parcel.
    """
    return _opened(parcel)[0]


class Body:
    """The body of a parcel from anybody, to be read once from its beginning to its end."""

    def __init__(self, data: memoryview, label: Label, *, is_packed: bool) -> None:
        """Unpacks nothing yet.

        Raises:
            MalformedError: it is not as long as the label says, or not shorter for being packed.
        """
        self.is_packed = is_packed
        self._length = label.body_bytes
        self._rest = data
        self._reader: zstandard.ZstdDecompressionReader | None = None
        if not is_packed and len(data) != self._length:
            raise self._of_other_length()
        if is_packed and len(data) >= self._length:
            raise MalformedError("it is not smaller for being packed")
        if is_packed:
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
            self._reader = decompressor.stream_reader(data)

    def take(self, count: int) -> Blob:
        """The next ``count`` bytes.

        Raises:
            MalformedError: it ends before, or cannot be unpacked.
        """
        piece = self._next(count)
        if len(piece) != count:
            raise self._of_other_length()
        return piece

    def check_end(self) -> None:
        """To be called when everything was taken.

        Raises:
            MalformedError: there is more.
        """
        if len(self._next(1)):
            raise self._of_other_length()

    def _next(self, count: int) -> Blob:
        """At most ``count`` bytes, whatever a frame's own header promises."""
        if self._reader is None:
            piece, self._rest = self._rest[:count], self._rest[count:]
            return piece
        try:
            return self._reader.read(count)
        except (zstandard.ZstdError, MemoryError) as error:
            raise MalformedError(f"its body cannot be unpacked: {error}") from error

    def _of_other_length(self) -> MalformedError:
        return MalformedError(f"its body is not of the {self._length} bytes that it promises")


def unwrap(parcel: Array, expected: Label) -> Body:
    """The body of a parcel from anybody, once it says that it holds what is expected.

    Raises:
        MalformedError: it holds something else, or its body is not as long as its header says.
    """
    label, packing, body = _opened(parcel)
    if label != expected:
        raise MalformedError(
            f"it holds {label.dtype}{list(label.shape)} in {label.bits} bits, not "
            f"{expected.dtype}{list(expected.shape)} in {expected.bits}"
        )
    return Body(body, label, is_packed=packing == _ZSTD)


def read_plain(body: Body, label: Label) -> Array:
    """The array, ``label.shape``, that travels as it is.

    Raises:
        MalformedError: the body ends before.
    """
    dtype = np.dtype(label.dtype).newbyteorder("<")
    array = np.empty(label.count, dtype)
    places = array.view(np.uint8)
    # Packed, all values' first bytes come first.
    for part in places.reshape(-1, dtype.itemsize).T if body.is_packed else [places]:
        for begin in range(0, len(part), _PIECE_BYTES):
            piece = part[begin : begin + _PIECE_BYTES]
            piece[:] = np.frombuffer(body.take(len(piece)), np.uint8)
    return array.astype(label.dtype, copy=False).reshape(label.shape)


def _opened(parcel: Array) -> tuple[Label, int, memoryview]:
    if parcel.dtype != np.uint8 or parcel.ndim != 1:
        raise MalformedError("it is no row of bytes")
    data = np.ascontiguousarray(parcel).data
    if len(data) < _HEAD.size:
        raise MalformedError("it is shorter than a header")
    version, bits, packing, place, dimensions = _HEAD.unpack_from(data)
    end = _HEAD.size + 8 * dimensions
    if version != _VERSION or packing not in (_AS_IT_IS, _ZSTD):
        raise MalformedError(f"version {version} with packing {packing} is unknown")
    if place >= len(DTYPES) or dimensions > _MAX_DIMENSIONS or len(data) < end:
        raise MalformedError("its header is damaged")
    quantised_bits(bits)
    shape = struct.unpack_from(f"<{dimensions}Q", data, _HEAD.size)
    return Label(bits=bits, dtype=DTYPES[place], shape=shape), packing, data[end:]


def _regrouped(body: bytes, label: Label) -> bytes:
    width = np.dtype(label.dtype).itemsize
    return np.frombuffer(body, np.uint8).reshape(-1, width).T.tobytes()
