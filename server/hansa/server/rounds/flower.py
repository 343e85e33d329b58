"""The one place where the server touches Flower's private types, and where records change form."""

from pathlib import Path
from typing import Any, Final, cast

from flwr.app import (
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
from hansa.core.ids import Sha256
from hansa.server.rounds.records import RecordArrays, array_record

OPERATOR_NODE_ID = 1

MAX_REPLY_HEADER_BYTES: Final = 4 << 20
"""Of a reply about whose model nothing is known, as those of foreign apps: an array takes about 200
bytes, so this is room for some 20,000 arrays of any size."""


def adopt_identity() -> None:
    """Lets strategies create messages.

    Flower 1.41's ``Message`` reads the run, node and task of the process from a class that it does
    not export. The values are process-wide, so the Grid ignores them and keeps its own run id.
    """
    TaskIdentity.run_id = 1
    TaskIdentity.node_id = OPERATOR_NODE_ID
    TaskIdentity.task_id = 1


def to_content(records: RecordDict) -> Content:
    """Flower's records as a content file's; each array is made when it is written."""
    return Content(
        arrays={key: RecordArrays(record) for key, record in records.array_records.items()},
        metrics={key: dict(record) for key, record in records.metric_records.items()},
        configs={key: dict(record) for key, record in records.config_records.items()},
    )


def to_records(content: Content) -> RecordDict:
    """A content file's records as Flower's; arrays that lie in a blob stay there."""
    records = RecordDict()
    for key, arrays in content.arrays.items():
        records[key] = array_record(arrays)
    for key, metrics in content.metrics.items():
        records[key] = MetricRecord(cast("dict[str, Any]", metrics))
    for key, config in content.configs.items():
        records[key] = ConfigRecord(dict(config))
    return records


def read_records(
    path: Path, sha256: Sha256, *, max_header_bytes: int = MAX_REPLY_HEADER_BYTES
) -> RecordDict:
    """The records of a merchant's reply; its arrays are read from the blob when they are used.

    Args:
        path: the reply.
        sha256: its digest.
        max_header_bytes: of everything but the arrays' values; more is refused unread.

    Raises:
        UpdateRejectedError: the bytes are no content file, have a longer header, or hold what no
            Flower record may hold.
    """
    try:
        return to_records(Content.open(path, sha256, max_header_bytes=max_header_bytes))
    except (InvalidInputError, TypeError, ValueError) as error:
        raise UpdateRejectedError(f"the reply cannot be read: {error}") from error


def make_reply(answer: RecordDict | Error, metadata: Metadata) -> Message:
    """A merchant's reply; ``Message`` takes ``metadata``, but its typed overloads leave it out."""
    if isinstance(answer, Error):
        return cast("Message", Message(metadata=metadata, error=answer))  # type: ignore[call-overload]
    return cast("Message", Message(answer, metadata=metadata))  # type: ignore[call-overload]
