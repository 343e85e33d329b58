"""Arrays as Flower sees them, without their bytes in memory: read from a blob when they are used.

A round's model and its replies are files in the blob store. A strategy that works on one array of
one reply after the other, as means do, then needs the memory of one array, however many reply.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from hansa.compression.codec import DecodedUpdate
from hansa.core.ids import Sha256
from hansa.core.tensors import Array as Values
from hansa.core.tensors import LazyArrays, Spec, StoredArrays

_NUMPY = "numpy.ndarray"
_NPY = b"\x93NUMPY"
_ROW_BY_ROW = b"'fortran_order': False"


class StoredArray(Array):
    """One of Flower's arrays whose values lie in a blob; each use reads (and decodes) them anew."""

    def __init__(self, arrays: StoredArrays | DecodedUpdate, name: str) -> None:
        spec = arrays.spec(name)
        # Not by Flower's own constructor, which wants the bytes.
        self.__dict__.update(
            dtype=spec.dtype.name, shape=spec.shape, stype=_NUMPY, source=(arrays, name)
        )

    @property
    def source(self) -> tuple[StoredArrays | DecodedUpdate, str]:
        """The blob's arrays, and which of them this is."""
        arrays, name = self.__dict__["source"]
        return arrays, name

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The values in NumPy's file format, as Flower serialises them; a copy each time."""
        buffer = BytesIO()
        np.save(buffer, self.numpy(), allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> Values:
        """The values, in memory of their own."""
        arrays, name = self.source
        return arrays[name]

    def __reduce__(self) -> tuple[type[Array], tuple[Any, ...]]:
        """A copy is one of Flower's own: the process that gets it may not have the blob."""
        return Array, (self.dtype, self.shape, self.stype, self.data)

    def __repr__(self) -> str:
        return f"StoredArray(dtype={self.dtype!r}, shape={self.shape!r})"


@dataclass(frozen=True, kw_only=True)
class KeptArrays(LazyArrays):
    """A model in memory of which a blob holds the same, so that it need not be stored again."""

    held: Mapping[str, Values]
    stored: StoredArrays

    def __getitem__(self, name: str) -> Values:
        return self.held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def spec(self, name: str) -> Spec:
        """What the array is."""
        return self.stored.spec(name)


class RecordArrays(LazyArrays):
    """One of Flower's records as NumPy arrays, each made when it is asked for; only for reading."""

    def __init__(self, record: ArrayRecord) -> None:
        self._record = record

    def __getitem__(self, name: str) -> Values:
        return _values(self._record[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._record)

    def __len__(self) -> int:
        return len(self._record)

    def spec(self, name: str) -> Spec:
        """What the array is; one that lies in a blob is not read for this."""
        array = self._record[name]
        if isinstance(array, StoredArray):
            arrays, stored_name = array.source
            return arrays.spec(stored_name)
        values = _values(array)
        return Spec(dtype=values.dtype, shape=values.shape)


def array_record(arrays: Mapping[str, Values]) -> ArrayRecord:
    """The arrays as a record of Flower's; those that a blob holds stay there."""
    stored = arrays.stored if isinstance(arrays, KeptArrays) else arrays
    record = ArrayRecord()
    for name in arrays:
        if isinstance(stored, StoredArrays | DecodedUpdate):
            record[name] = StoredArray(stored, name)
        else:
            record[name] = Array(arrays[name])
    return record


def blob_of(records: RecordDict) -> Sha256 | None:
    """The blob that holds exactly the arrays of these records, if there is one."""
    array_records: list[tuple[str, ArrayRecord]] = list(records.array_records.items())
    if len(array_records) != 1:
        return None
    key, record = array_records[0]
    source = _only_source(record)
    if source is None or source.record != key or list(source) != list(record):
        return None
    return source.sha256 if source.is_alone else None


def _only_source(record: ArrayRecord) -> StoredArrays | None:
    """The stored arrays of which the record's are, each under its own name."""
    sources: list[StoredArrays] = []
    for name, array in record.items():
        if not isinstance(array, StoredArray) or array.source[1] != name:
            return None
        source = array.source[0]
        if not isinstance(source, StoredArrays):
            return None
        sources.append(source)
    return sources[0] if sources and all(one is sources[0] for one in sources) else None


def _values(array: Array) -> Values:
    """The array's values; where Flower holds them row by row, a view of its bytes."""
    if isinstance(array, StoredArray) or array.stype != _NUMPY:
        return _numpy(array)
    dtype = np.dtype(array.dtype)
    count = int(np.prod(array.shape, dtype=np.int64))
    begin = len(array.data) - count * dtype.itemsize
    head = array.data[: max(0, begin)]
    plain = (
        head.startswith(_NPY) and _ROW_BY_ROW in head and f"'descr': '{dtype.str}'".encode() in head
    )
    if not plain or not count:
        return _numpy(array)
    return np.frombuffer(array.data, dtype, count, begin).reshape(array.shape)


def _numpy(array: Array) -> Values:
    values: np.ndarray[Any, Any] = array.numpy()
    return values
