"""The one place where the server touches Flower's private types, and where records change form."""

from typing import Any, cast

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.supercore.task_identity import TaskIdentity

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, UpdateRejectedError

OPERATOR_NODE_ID = 1


def adopt_identity() -> None:
    """Lets strategies create messages.

    Flower 1.41's ``Message`` reads the run, node and task of the process from a class that it does
    not export. The values are process-wide, so the Grid ignores them and keeps its own run id.
    """
    TaskIdentity.run_id = 1
    TaskIdentity.node_id = OPERATOR_NODE_ID
    TaskIdentity.task_id = 1


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


def read_records(data: bytes) -> RecordDict:
    """The records of a merchant's reply.

    Raises:
        UpdateRejectedError: the bytes are no content file, or hold what no Flower record may hold.
    """
    try:
        return to_records(Content.from_bytes(data))
    except (InvalidInputError, TypeError, ValueError) as error:
        raise UpdateRejectedError(f"the reply cannot be read: {error}") from error


def make_reply(answer: RecordDict | Error, metadata: Metadata) -> Message:
    """A merchant's reply; ``Message`` takes ``metadata``, but its typed overloads leave it out."""
    if isinstance(answer, Error):
        return cast("Message", Message(metadata=metadata, error=answer))  # type: ignore[call-overload]
    return cast("Message", Message(answer, metadata=metadata))  # type: ignore[call-overload]
