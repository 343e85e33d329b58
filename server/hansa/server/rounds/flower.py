"""The one place where the server touches Flower's types that are not public, and where records change form."""

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hansa.core.content import Content

OPERATOR_NODE_ID = 1


def adopt_identity() -> None:
    """Lets strategies create messages.

    Flower 1.41's ``Message`` reads the run, node and task of the process from a class that it does not export.
    The values are process-wide, so the Grid ignores them and keeps its own run id.
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
        records[key] = MetricRecord(dict(metrics))
    for key, config in content.configs.items():
        records[key] = ConfigRecord(dict(config))
    return records
