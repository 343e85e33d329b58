"""Every field of every message that a client can send, and why it may leave.

Each is declared once. A field that is not here is a fault: a test walks through all services that a
client calls, down to the last nested field, and compares. What the fields ``content``, ``data`` and
``content_data`` carry is declared further, by phase, in ``hansa.client.node.outgoing``.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Flow(StrEnum):
    """Why a field may leave."""

    PUBLIC = "public"
    """Made without a look at any shopper's data."""
    NOISED = "noised"
    """Computed from data, noised, and paid for in the ledger."""
    SEALED = "sealed"
    """Hidden from whoever carries it; what it hides is public or noised."""


class Declared(NamedTuple):
    """One field's reason."""

    flow: Flow
    why: str


def _public(why: str) -> Declared:
    return Declared(Flow.PUBLIC, why)


_VERSION = _public("a constant of the software")
_NAMED_BY_SERVER = _public("repeats what the server sent")
_WHICH_BYTES = _public("names bytes that are declared themselves; their number is the plan's")

FIELDS: Final[Mapping[str, Declared]] = {
    "JoinRequest.protocol": _VERSION,
    "JoinRequest.protocol_minor": _VERSION,
    "JoinRequest.csr_der": _public("a fresh public key and the name as invited"),
    "JoinRequest.ledger_public_key": _public("a fresh public key"),
    "RenewRequest.csr_der": _public("a fresh public key and the member's name"),
    "EnquireRequest.protocol": _VERSION,
    "EnquireRequest.protocol_minor": _VERSION,
    "LeaveRequest.remedy": _public("the merchant's own decision"),
    "LeaveRequest.notice": _public("the same decision and the ledger's head, signed"),
    "RegisterRequest.protocol": _VERSION,
    "RegisterRequest.protocol_minor": _VERSION,
    "RegisterRequest.software": _VERSION,
    "SubscribeRequest.session": _NAMED_BY_SERVER,
    "SubscribeRequest.protocol_minor": _VERSION,
    "HeartbeatRequest.session": _NAMED_BY_SERVER,
    "DownloadRequest.task_id": _NAMED_BY_SERVER,
    "DownloadRequest.sha256": _NAMED_BY_SERVER,
    "DownloadRequest.offset_bytes": _public("bytes of a public blob that are here"),
    "UploadStatusRequest.task_id": _NAMED_BY_SERVER,
    "UploadStatusRequest.blob.sha256": _WHICH_BYTES,
    "UploadStatusRequest.blob.size_bytes": _WHICH_BYTES,
    "UploadMessage.header.task_id": _NAMED_BY_SERVER,
    "UploadMessage.header.blob.sha256": _WHICH_BYTES,
    "UploadMessage.header.blob.size_bytes": _WHICH_BYTES,
    "UploadMessage.header.offset_bytes": _NAMED_BY_SERVER,
    "UploadMessage.chunk.data": Declared(Flow.NOISED, "a task's answer; see its phase"),
    "CompleteRequest.task_id": _NAMED_BY_SERVER,
    "CompleteRequest.session": _NAMED_BY_SERVER,
    "CompleteRequest.content.sha256": _WHICH_BYTES,
    "CompleteRequest.content.size_bytes": _WHICH_BYTES,
    "CompleteRequest.content_data": Declared(Flow.NOISED, "a task's answer; see its phase"),
    "CompleteRequest.refusal.reason": _public("one of four rules; a fault is not told apart"),
    "CompleteRequest.refusal.sentence": _public("of a rule's public terms, or a fault's kind"),
    "CompleteRequest.ledger_entries": _public("plans, caps, events and times; never a count"),
    "MetadataRequest.name": _NAMED_BY_SERVER,
    "TargetRequest.path": _NAMED_BY_SERVER,
    "TargetRequest.sha256": _NAMED_BY_SERVER,
    "TargetRequest.offset_bytes": _public("bytes of a public release that are here"),
    "HealthReport.channel": _NAMED_BY_SERVER,
    "HealthReport.version": _NAMED_BY_SERVER,
    "HealthReport.serving": _public("whether a public model was loaded"),
    "HealthReport.sentence": _public("why a public model was not loaded"),
    "ConsistencyRequest.first": _NAMED_BY_SERVER,
    "ConsistencyRequest.second": _NAMED_BY_SERVER,
    "ConsistencyRequest.leaf_hashes": _public("of ledger entries, which the server holds"),
    "InclusionRequest.size": _NAMED_BY_SERVER,
    "InclusionRequest.leaf_hashes": _public("of ledger entries, which the server holds"),
    "EntriesRequest.first": _public("a position in the public log"),
    "EntriesRequest.count": _public("a constant of the software"),
    "PackRequest.run_id": _NAMED_BY_SERVER,
}
"""``Message.field`` of each request, nested fields with dots."""
