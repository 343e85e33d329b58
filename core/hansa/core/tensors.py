"""The safetensors layout: a length, a JSON header, and the bytes of the arrays one after another.

Written and read here rather than by the library, which holds a whole file in memory twice; any
safetensors reader opens what this writes, and this opens what any safetensors writer wrote. Nothing
of a file is believed before it was checked: every offset, shape and type, and that the arrays fill
the file without a gap or an overlap.
"""

import functools
import json
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.ids import Sha256

Array = npt.NDArray[Any]
Blob = bytes | memoryview
"""A run of bytes, copied or not."""

MAX_HEADER_BYTES = 16 << 20
"""What any reader takes; who reads for strangers says how much less is enough."""

_MAX_DIMENSIONS = 32
_MAX_VALUES = 1 << 48  # also where a dimension is zero: NumPy multiplies the others
_LENGTH_BYTES = 8
_LONGEST_READ = 1 << 30  # Linux reads at most 2 GiB at once
_ALIGNMENT = 8
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}

# In the order in which the safetensors library writes arrays: aligned ones come last to first.
_TYPES: Mapping[str, np.dtype[Any]] = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in (
        ("BOOL", "bool"),
        ("U8", "uint8"),
        ("I8", "int8"),
        ("I16", "int16"),
        ("U16", "uint16"),
        ("F16", "float16"),
        ("I32", "int32"),
        ("U32", "uint32"),
        ("F32", "float32"),
        ("C64", "complex64"),
        ("F64", "float64"),
        ("I64", "int64"),
        ("U64", "uint64"),
    )
}
_CODES = {dtype: code for code, dtype in _TYPES.items()}
_RANKS = {code: rank for rank, code in enumerate(_TYPES)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What an array is, without its values."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """The length of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where an array lies in its file."""

    spec: Spec
    begin: int
    """Bytes from the file's beginning."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A file's header, checked."""

    metadata: Mapping[str, str]
    places: Mapping[str, Place]


class LazyArrays(Mapping[str, Array]):
    """Arrays by name that are read or made one by one, each time that they are asked for."""

    @abstractmethod
    def spec(self, name: str) -> Spec:
        """What the array is, without reading it.

        Raises:
            KeyError: there is no such array.
        """


def spec_of(arrays: Mapping[str, Array], name: str) -> Spec:
    """What one of the arrays is; reads it only where there is no other way.

    Raises:
        KeyError: there is no such array.
    """
    if isinstance(arrays, LazyArrays):
        return arrays.spec(name)
    array = arrays[name]
    return Spec(dtype=array.dtype, shape=array.shape)


@dataclass(frozen=True, kw_only=True)
class StoredArrays(LazyArrays):
    """Arrays in a file, each read when it is asked for, into memory of its own."""

    path: Path
    record: str
    """The record of the file's content that they make up."""
    places: Mapping[str, Place]
    sha256: Sha256 | None = None
    """The file's digest, where the caller knew it."""
    is_alone: bool = False
    """Whether the file holds this record and nothing else."""

    def __getitem__(self, name: str) -> Array:
        place = self.places[name]
        return read_array(self.path, place)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def spec(self, name: str) -> Spec:
        """What the array is, by the file's header."""
        return self.places[name].spec


def read_array(path: Path, place: Place) -> Array:
    """One array of a file.

    Raises:
        NotFoundError: the file is gone, or shorter than when its header was checked.
    """
    values = np.empty(math.prod(place.spec.shape), place.spec.dtype)
    _read_into(path, values.view(np.uint8).data, place.begin)
    return values.reshape(place.spec.shape)


def _read_into(path: Path, rest: memoryview, at: int) -> None:
    try:
        file = _opened(path)
        while rest:
            count = os.preadv(file.number, [rest[:_LONGEST_READ]], at)
            if not count:
                raise NotFoundError(
                    f"the file {path.name[:12]} was cut short; restore it from a backup"
                )
            rest, at = rest[count:], at + count
    except OSError as error:
        raise NotFoundError(f"the file {path.name[:12]} cannot be read: {error}") from error


class _Opened:
    """An open file, closed when nobody refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@functools.lru_cache(maxsize=8)
def _opened(path: Path) -> _Opened:
    """The file for reading; whoever reads a file's arrays one by one opens it once."""
    return _Opened(path)


def view_array(data: Blob, place: Place) -> Array:
    """One array of a file in memory; it shares the memory and cannot be written to."""
    count = math.prod(place.spec.shape)
    if count == 0:
        return np.empty(place.spec.shape, place.spec.dtype)
    return np.frombuffer(data, place.spec.dtype, count, place.begin).reshape(place.spec.shape)


def array_bytes(array: Array) -> memoryview:
    """The values as a file holds them: row by row, little-endian; copied only where need be."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def file_order(specs: Mapping[str, Spec]) -> list[str]:
    """The names in the order in which the arrays lie in a file.

    Raises:
        InvalidInputError: the layout has no word for an array's type.
    """
    return sorted(specs, key=lambda name: (-_RANKS[_code(name, specs[name])], name))


def header_bytes(specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file, up to its first array.

    Raises:
        InvalidInputError: a type has no word, or a name cannot be written in UTF-8.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    begin = 0
    for name in file_order(specs):
        end = begin + specs[name].size_bytes
        header[name] = {
            "dtype": _code(name, specs[name]),
            "shape": list(specs[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("a name holds characters that UTF-8 has no bytes for") from error
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _code(name: str, spec: Spec) -> str:
    code = _CODES.get(spec.dtype.newbyteorder("<"))
    if code is None:
        raise InvalidInputError(f"array {name!r} has type {spec.dtype}, which no message may carry")
    return code


def layout_of(data: Blob) -> Layout:
    """The checked header of a file in memory.

    Raises:
        InvalidInputError: the bytes are not such a file.
    """
    length = _header_length(bytes(data[:_LENGTH_BYTES]), len(data))
    return _layout(bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length]), len(data))


def layout_at(path: Path, *, max_header_bytes: int = MAX_HEADER_BYTES) -> Layout:
    """The checked header of a file on the disk; nothing else of it is read.

    Args:
        path: the file.
        max_header_bytes: a longer header is refused unread. What is parsed takes many times its
            length in memory.

    Raises:
        InvalidInputError: it is not such a file, or its header is longer.
        NotFoundError: there is none.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = _header_length(file.read(_LENGTH_BYTES), size, max_header_bytes)
            return _layout(file.read(length), size)
    except OSError as error:
        raise NotFoundError(f"the file {path.name[:12]} cannot be read: {error}") from error


def header_length_at(path: Path) -> int:
    """How long a file's header says that it is; the header itself is not read.

    Raises:
        InvalidInputError: it is not such a file.
        NotFoundError: there is none.
    """
    try:
        with path.open("rb") as file:
            return _header_length(file.read(_LENGTH_BYTES), file.seek(0, 2))
    except OSError as error:
        raise NotFoundError(f"the file {path.name[:12]} cannot be read: {error}") from error


def _header_length(prefix: bytes, file_bytes: int, limit: int = MAX_HEADER_BYTES) -> int:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_BYTES or not 0 < length <= file_bytes - _LENGTH_BYTES:
        raise InvalidInputError("not a safetensors file: its header is cut short")
    if length > limit:
        raise InvalidInputError(
            f"its header (names, shapes, metrics, settings) is {length} bytes long, where at most "
            f"{limit} are taken; send fewer of them, or put large values into arrays"
        )
    return length


def _layout(text: bytes, file_bytes: int) -> Layout:
    try:
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        metadata = _metadata(header.pop(_METADATA, {}))
        start = _LENGTH_BYTES + len(text)
        places = {name: _place(fields, start) for name, fields in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InvalidInputError(f"not a safetensors header: {error}") from error
    _check_filled(places, start, file_bytes)
    return Layout(metadata=metadata, places=places)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets the last of two equal names win; another reader may take the first."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("the metadata are not texts")
    return value


def _place(fields: Any, start: int) -> Place:
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise ValueError("an array has a type, a shape and two offsets, nothing else")
    shape, offsets = fields["shape"], fields["data_offsets"]
    if not _naturals(shape) or not _naturals(offsets) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("a shape or an offset is not made of whole numbers")
    spec = Spec(dtype=_TYPES[fields["dtype"]], shape=tuple(shape))
    if math.prod(filter(None, shape)) > _MAX_VALUES:
        raise ValueError("a shape is larger than any array")
    begin, end = offsets
    if end - begin != spec.size_bytes:
        raise ValueError("an array's offsets do not fit its shape")
    return Place(spec=spec, begin=start + begin)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_filled(places: Mapping[str, Place], start: int, file_bytes: int) -> None:
    """No byte belongs to two arrays, and none to no array."""
    at = start
    for place in sorted(places.values(), key=lambda one: (one.begin, one.spec.size_bytes)):
        if place.begin != at:
            raise InvalidInputError("the arrays of the file overlap or leave a gap")
        at += place.spec.size_bytes
    if at != file_bytes:
        raise InvalidInputError("the arrays do not fill the file")
