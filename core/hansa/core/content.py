"""What a task carries: named records of arrays, metrics and settings, as one safetensors file.

One file for everything has three uses: it is content-addressed as a whole, nothing in it can be
executed, and a merchant can open what is about to leave with any safetensors reader. Arrays are
stored as tensors named ``record:array``; order, metrics and settings are in the file's metadata
under ``hansa``.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from hansa.core.errors import InvalidInputError

Array = npt.NDArray[Any]
Value = int | float | str | bytes | bool | list[Any]

_METADATA_KEY = "hansa"
_FORBIDDEN = ":"


@dataclass(frozen=True, kw_only=True)
class Content:
    """The records of one message, by kind and name; order is kept."""

    arrays: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The safetensors file.

        Raises:
            InvalidInputError: a record's name holds a colon, or a metric is not finite.
        """
        tensors = {
            _tensor_name(record, name): np.ascontiguousarray(array).reshape(array.shape)
            for record, arrays in self.arrays.items()
            for name, array in arrays.items()
        }
        order = {record: list(arrays) for record, arrays in self.arrays.items()}
        header = {"order": order, "metrics": _tag(self.metrics), "configs": _tag(self.configs)}
        try:
            text = json.dumps(header, allow_nan=False)
        except ValueError as error:
            raise InvalidInputError("a metric or setting is not a finite number") from error
        return save_tensors(tensors, {_METADATA_KEY: text})

    @staticmethod
    def from_bytes(data: bytes) -> "Content":
        """The records of a file that came from outside.

        Raises:
            InvalidInputError: the bytes are not such a file.
        """
        try:
            tensors = load_tensors(data)
            header = json.loads(_metadata(data)[_METADATA_KEY])
            arrays = {
                record: {name: tensors[_tensor_name(record, name)] for name in names}
                for record, names in header["order"].items()
            }
            metrics, configs = _untag(header["metrics"]), _untag(header["configs"])
        except (
            SafetensorError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
        ) as error:
            raise InvalidInputError(f"the message is not a Hansa content file: {error}") from error
        return Content(arrays=arrays, metrics=metrics, configs=configs)


def _tensor_name(record: str, name: str) -> str:
    if _FORBIDDEN in record:
        raise InvalidInputError(f"the record name {record!r} may not hold a colon")
    return f"{record}{_FORBIDDEN}{name}"


def _metadata(data: bytes) -> dict[str, str]:
    """The header's metadata; the format puts the header's length into the first eight bytes."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length])["__metadata__"])


def _tag(records: Mapping[str, Mapping[str, Value]]) -> dict[str, dict[str, Any]]:
    return {
        key: {name: _tag_value(value) for name, value in record.items()}
        for key, record in records.items()
    }


def _tag_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, list):
        return [_tag_value(item) for item in value]
    return value


def _untag(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Value]]:
    return {
        key: {name: _untag_value(value) for name, value in record.items()}
        for key, record in records.items()
    }


def _untag_value(value: Any) -> Value:
    if isinstance(value, dict):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error as error:
            raise ValueError("bytes are not base64") from error
    if isinstance(value, list):
        return [_untag_value(item) for item in value]
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a value of type {type(value).__name__} is not allowed")
