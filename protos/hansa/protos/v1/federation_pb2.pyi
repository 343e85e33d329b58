from hansa.protos.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[Phase]
    PHASE_TRAIN: _ClassVar[Phase]
    PHASE_EVALUATE: _ClassVar[Phase]
    PHASE_KEYS: _ClassVar[Phase]
    PHASE_SHARES: _ClassVar[Phase]
    PHASE_SURVIVORS: _ClassVar[Phase]
    PHASE_UNMASK: _ClassVar[Phase]
    PHASE_QUERY: _ClassVar[Phase]

class RefusalReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_REASON_UNSPECIFIED: _ClassVar[RefusalReason]
    REFUSAL_REASON_BUDGET: _ClassVar[RefusalReason]
    REFUSAL_REASON_CONTRACT: _ClassVar[RefusalReason]
    REFUSAL_REASON_INTERRUPTED: _ClassVar[RefusalReason]
    REFUSAL_REASON_FAILED: _ClassVar[RefusalReason]

class Acknowledgement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACKNOWLEDGEMENT_UNSPECIFIED: _ClassVar[Acknowledgement]
    ACKNOWLEDGEMENT_ACCEPTED: _ClassVar[Acknowledgement]
    ACKNOWLEDGEMENT_DUPLICATE: _ClassVar[Acknowledgement]
    ACKNOWLEDGEMENT_LATE: _ClassVar[Acknowledgement]
    ACKNOWLEDGEMENT_CONFLICT: _ClassVar[Acknowledgement]
    ACKNOWLEDGEMENT_MISSING_BLOB: _ClassVar[Acknowledgement]
    ACKNOWLEDGEMENT_FENCED: _ClassVar[Acknowledgement]
    ACKNOWLEDGEMENT_UNKNOWN: _ClassVar[Acknowledgement]
PHASE_UNSPECIFIED: Phase
PHASE_TRAIN: Phase
PHASE_EVALUATE: Phase
PHASE_KEYS: Phase
PHASE_SHARES: Phase
PHASE_SURVIVORS: Phase
PHASE_UNMASK: Phase
PHASE_QUERY: Phase
REFUSAL_REASON_UNSPECIFIED: RefusalReason
REFUSAL_REASON_BUDGET: RefusalReason
REFUSAL_REASON_CONTRACT: RefusalReason
REFUSAL_REASON_INTERRUPTED: RefusalReason
REFUSAL_REASON_FAILED: RefusalReason
ACKNOWLEDGEMENT_UNSPECIFIED: Acknowledgement
ACKNOWLEDGEMENT_ACCEPTED: Acknowledgement
ACKNOWLEDGEMENT_DUPLICATE: Acknowledgement
ACKNOWLEDGEMENT_LATE: Acknowledgement
ACKNOWLEDGEMENT_CONFLICT: Acknowledgement
ACKNOWLEDGEMENT_MISSING_BLOB: Acknowledgement
ACKNOWLEDGEMENT_FENCED: Acknowledgement
ACKNOWLEDGEMENT_UNKNOWN: Acknowledgement

class RegisterRequest(_message.Message):
    __slots__ = ("protocol", "software", "protocol_minor")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    software: str
    protocol_minor: int
    def __init__(self, protocol: _Optional[str] = ..., software: _Optional[str] = ..., protocol_minor: _Optional[int] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("session", "heartbeat_period_ms", "merchant", "next_ledger_position", "protocol_minor", "server_time_unix_ms", "signed_terms")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
    MERCHANT_FIELD_NUMBER: _ClassVar[int]
    NEXT_LEDGER_POSITION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SIGNED_TERMS_FIELD_NUMBER: _ClassVar[int]
    session: int
    heartbeat_period_ms: int
    merchant: str
    next_ledger_position: int
    protocol_minor: int
    server_time_unix_ms: int
    signed_terms: bytes
    def __init__(self, session: _Optional[int] = ..., heartbeat_period_ms: _Optional[int] = ..., merchant: _Optional[str] = ..., next_ledger_position: _Optional[int] = ..., protocol_minor: _Optional[int] = ..., server_time_unix_ms: _Optional[int] = ..., signed_terms: _Optional[bytes] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("session", "protocol_minor")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    session: int
    protocol_minor: int
    def __init__(self, session: _Optional[int] = ..., protocol_minor: _Optional[int] = ...) -> None: ...

class ServerEvent(_message.Message):
    __slots__ = ("task", "cancel", "ping")
    TASK_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    task: Task
    cancel: Cancel
    ping: Ping
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "run_id", "round", "phase", "content", "signed_plan", "context", "time_left_ms", "settings", "node_id", "checkpoint", "content_data")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SIGNED_PLAN_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TIME_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DATA_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    run_id: str
    round: int
    phase: Phase
    content: _common_pb2.BlobRef
    signed_plan: bytes
    context: _common_pb2.BlobRef
    time_left_ms: int
    settings: bytes
    node_id: int
    checkpoint: bytes
    content_data: bytes
    def __init__(self, task_id: _Optional[str] = ..., run_id: _Optional[str] = ..., round: _Optional[int] = ..., phase: _Optional[_Union[Phase, str]] = ..., content: _Optional[_Union[_common_pb2.BlobRef, _Mapping]] = ..., signed_plan: _Optional[bytes] = ..., context: _Optional[_Union[_common_pb2.BlobRef, _Mapping]] = ..., time_left_ms: _Optional[int] = ..., settings: _Optional[bytes] = ..., node_id: _Optional[int] = ..., checkpoint: _Optional[bytes] = ..., content_data: _Optional[bytes] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: int
    def __init__(self, session: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("fenced",)
    FENCED_FIELD_NUMBER: _ClassVar[int]
    fenced: bool
    def __init__(self, fenced: _Optional[bool] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("task_id", "sha256", "offset_bytes")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    sha256: str
    offset_bytes: int
    def __init__(self, task_id: _Optional[str] = ..., sha256: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class UploadStatusRequest(_message.Message):
    __slots__ = ("task_id", "blob")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    blob: _common_pb2.BlobRef
    def __init__(self, task_id: _Optional[str] = ..., blob: _Optional[_Union[_common_pb2.BlobRef, _Mapping]] = ...) -> None: ...

class UploadState(_message.Message):
    __slots__ = ("offset_bytes", "complete", "piece_bytes")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    PIECE_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    complete: bool
    piece_bytes: int
    def __init__(self, offset_bytes: _Optional[int] = ..., complete: _Optional[bool] = ..., piece_bytes: _Optional[int] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("task_id", "blob", "offset_bytes")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    blob: _common_pb2.BlobRef
    offset_bytes: int
    def __init__(self, task_id: _Optional[str] = ..., blob: _Optional[_Union[_common_pb2.BlobRef, _Mapping]] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class UploadMessage(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: _common_pb2.Chunk
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[_Union[_common_pb2.Chunk, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason", "sentence")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    reason: RefusalReason
    sentence: str
    def __init__(self, reason: _Optional[_Union[RefusalReason, str]] = ..., sentence: _Optional[str] = ...) -> None: ...

class CompleteRequest(_message.Message):
    __slots__ = ("task_id", "session", "content", "refusal", "ledger_entries", "content_data")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    LEDGER_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DATA_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    session: int
    content: _common_pb2.BlobRef
    refusal: Refusal
    ledger_entries: bytes
    content_data: bytes
    def __init__(self, task_id: _Optional[str] = ..., session: _Optional[int] = ..., content: _Optional[_Union[_common_pb2.BlobRef, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., ledger_entries: _Optional[bytes] = ..., content_data: _Optional[bytes] = ...) -> None: ...

class CompleteReply(_message.Message):
    __slots__ = ("acknowledgement", "next_ledger_position")
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    NEXT_LEDGER_POSITION_FIELD_NUMBER: _ClassVar[int]
    acknowledgement: Acknowledgement
    next_ledger_position: int
    def __init__(self, acknowledgement: _Optional[_Union[Acknowledgement, str]] = ..., next_ledger_position: _Optional[int] = ...) -> None: ...
