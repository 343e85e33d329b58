"""What a task carries: named records of arrays, metrics and settings, as one safetensors file.

One file for everything has three uses: it is content-addressed as a whole, nothing in it can be
executed, and a merchant can open what is about to leave with any safetensors reader. Arrays are
stored as tensors named ``record:array``; order, metrics and settings are in the file's metadata
under ``hansa``.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.tensors import (
    MAX_HEADER_BYTES,
    Array,
    Blob,
    Layout,
    Place,
    StoredArrays,
    array_bytes,
    file_order,
    header_bytes,
    layout_at,
    layout_of,
    spec_of,
    view_array,
)

Value = int | float | str | bytes | bool | list[Any]

MAX_RECORDS = 1000
"""Of a message, all kinds together: an empty record takes a few bytes, but kilobytes in memory."""

_METADATA_KEY = "hansa"
_FORBIDDEN = ":"


@dataclass(frozen=True, kw_only=True)
class Content:
    """The records of one message, by kind and name; order is kept."""

    arrays: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    def pieces(self) -> Iterator[Blob]:
        """The safetensors file in pieces: the header, then each array, made when it is due.

        Raises:
            InvalidInputError: there are too many records, a record's name holds a colon, a metric
                is not finite or a list of lists, or an array has a type that no message may carry.
        """
        places = {
            _tensor_name(record, name): (arrays, name)
            for record, arrays in self.arrays.items()
            for name in arrays
        }
        specs = {tensor: spec_of(*place) for tensor, place in places.items()}
        yield header_bytes(specs, {_METADATA_KEY: self._order_and_values()})
        for tensor in file_order(specs):
            arrays, name = places[tensor]
            yield array_bytes(arrays[name])

    def to_bytes(self) -> bytes:
        """The safetensors file.

        Raises:
            InvalidInputError: as for ``pieces``.
        """
        return b"".join(self.pieces())

    @staticmethod
    def from_bytes(data: Blob) -> "Content":
        """The records of a file that came from outside; the arrays share its memory.

        Raises:
            InvalidInputError: the bytes are not such a file.
        """
        layout = layout_of(data)
        return _content(
            layout,
            lambda _record, places, _alone: {
                name: view_array(data, place) for name, place in places.items()
            },
        )

    @staticmethod
    def open(
        path: Path, sha256: Sha256 | None = None, *, max_header_bytes: int = MAX_HEADER_BYTES
    ) -> "Content":
        """The records of a file; its arrays are read one by one when they are asked for.

        Args:
            path: the file; it must stay as it is while the content is in use.
            sha256: its digest, if the caller knows it.
            max_header_bytes: of everything but the arrays' values; more is refused unread.

        Raises:
            InvalidInputError: it is not such a file, or its header is longer.
            NotFoundError: there is none.
        """
        return _content(
            layout_at(path, max_header_bytes=max_header_bytes),
            lambda record, places, alone: StoredArrays(
                path=path, record=record, places=places, sha256=sha256, is_alone=alone
            ),
        )

    @staticmethod
    def merged(contents: Iterable["Content"]) -> "Content":
        """All records of several contents; of two with the same name, the later one stays."""
        found: tuple[dict[str, Any], ...] = ({}, {}, {})
        for content in contents:
            for kind, records in zip(
                found, (content.arrays, content.metrics, content.configs), strict=True
            ):
                kind.update(records)
        arrays, metrics, configs = found
        return Content(arrays=arrays, metrics=metrics, configs=configs)

    def _order_and_values(self) -> str:
        _check_number(self.arrays, self.metrics, self.configs)
        order = {record: list(arrays) for record, arrays in self.arrays.items()}
        header = {"order": order, "metrics": _tag(self.metrics), "configs": _tag(self.configs)}
        try:
            return json.dumps(header, allow_nan=False)
        except ValueError as error:
            raise InvalidInputError("a metric or setting is not a finite number") from error


def stored_arrays(path: Path, record: str, sha256: Sha256 | None = None) -> StoredArrays:
    """One record of a file, as ``Content.open`` gives it.

    Raises:
        InvalidInputError: it is not such a file, or has no such record.
        NotFoundError: there is none.
    """
    arrays = Content.open(path, sha256).arrays.get(record)
    if not isinstance(arrays, StoredArrays):
        raise InvalidInputError(f"the file {path.name[:12]} holds no record {record!r}")
    return arrays


def _content(
    layout: Layout, arrays_of: Callable[[str, dict[str, Place], bool], Mapping[str, Array]]
) -> Content:
    try:
        header = json.loads(layout.metadata[_METADATA_KEY])
        _check_number(header["order"], header["metrics"], header["configs"])
        metrics, configs = _untag(header["metrics"]), _untag(header["configs"])
        alone = len(header["order"]) == 1 and not metrics and not configs
        arrays = {
            record: arrays_of(record, _places(layout, record, names), alone)
            for record, names in header["order"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"the message is not a Hansa content file: {error}") from error
    if sum(map(len, arrays.values())) != len(layout.places):
        raise InvalidInputError("the message holds arrays that belong to no record")
    return Content(arrays=arrays, metrics=metrics, configs=configs)


def _check_number(*kinds: Mapping[str, Any]) -> None:
    count = sum(map(len, kinds))
    if count > MAX_RECORDS:
        raise InvalidInputError(
            f"the message holds {count} records, where at most {MAX_RECORDS} are taken; put more "
            "into each"
        )


def _places(layout: Layout, record: str, names: list[str]) -> dict[str, Place]:
    return {name: layout.places[_tensor_name(record, name)] for name in names}


def _tensor_name(record: str, name: str) -> str:
    if _FORBIDDEN in record:
        raise InvalidInputError(f"the record name {record!r} may not hold a colon")
    return f"{record}{_FORBIDDEN}{name}"


def _tag(records: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Any]]:
    return {
        key: {name: _tag_value(value) for name, value in record.items()}
        for key, record in records.items()
    }


def _tag_value(value: Any) -> Any:
    return [_tag_one(item) for item in value] if isinstance(value, list) else _tag_one(value)


def _tag_one(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, list):
        raise InvalidInputError("a metric or setting is a list of lists; make it an array")
    return value


def _untag(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Value]]:
    return {
        key: {name: _untag_value(value) for name, value in record.items()}
        for key, record in records.items()
    }


def _untag_value(value: Any) -> Value:
    """A value, or a list of them: lists within lists are nothing that a record may hold."""
    return [_untag_one(item) for item in value] if isinstance(value, list) else _untag_one(value)


def _untag_one(value: Any) -> Value:
    if isinstance(value, dict):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error as error:
            raise ValueError("bytes are not base64") from error
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a value of type {type(value).__name__} is not allowed there")
