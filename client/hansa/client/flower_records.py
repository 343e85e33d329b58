"""Flower's records and content files, from one form into the other; no torch is needed for it."""

from typing import Any, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from hansa.core.content import Content
from hansa.core.errors import HansaError


class ApplicationError(HansaError):
    """The Flower app gave no usable reply."""


def to_records(content: Content) -> RecordDict:
    """A content file's records as Flower's."""
    records = RecordDict()
    for key, arrays in content.arrays.items():
        records[key] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    for key, metrics in content.metrics.items():
        records[key] = MetricRecord(cast("dict[str, Any]", metrics))
    for key, config in content.configs.items():
        records[key] = ConfigRecord(dict(config))
    return records


def to_content(records: RecordDict) -> Content:
    """Flower's records as a content file's."""
    return Content(
        arrays={
            key: {name: array.numpy() for name, array in record.items()}
            for key, record in records.array_records.items()
        },
        metrics={key: dict(record) for key, record in records.metric_records.items()},
        configs={key: dict(record) for key, record in records.config_records.items()},
    )
