from hansa.protos.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InviteRequest(_message.Message):
    __slots__ = ("merchant", "valid_for_hours")
    MERCHANT_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_HOURS_FIELD_NUMBER: _ClassVar[int]
    merchant: str
    valid_for_hours: int
    def __init__(self, merchant: _Optional[str] = ..., valid_for_hours: _Optional[int] = ...) -> None: ...

class Invitation(_message.Message):
    __slots__ = ("token", "expires_unix_s")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_unix_s: int
    def __init__(self, token: _Optional[str] = ..., expires_unix_s: _Optional[int] = ...) -> None: ...

class ListMerchantsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MerchantInfo(_message.Message):
    __slots__ = ("merchant", "state", "online", "software", "certificate_expires_unix_s", "serving_version")
    MERCHANT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    SERVING_VERSION_FIELD_NUMBER: _ClassVar[int]
    merchant: str
    state: str
    online: bool
    software: str
    certificate_expires_unix_s: int
    serving_version: int
    def __init__(self, merchant: _Optional[str] = ..., state: _Optional[str] = ..., online: _Optional[bool] = ..., software: _Optional[str] = ..., certificate_expires_unix_s: _Optional[int] = ..., serving_version: _Optional[int] = ...) -> None: ...

class MerchantList(_message.Message):
    __slots__ = ("merchants",)
    MERCHANTS_FIELD_NUMBER: _ClassVar[int]
    merchants: _containers.RepeatedCompositeFieldContainer[MerchantInfo]
    def __init__(self, merchants: _Optional[_Iterable[_Union[MerchantInfo, _Mapping]]] = ...) -> None: ...

class RevokeMerchantRequest(_message.Message):
    __slots__ = ("merchant",)
    MERCHANT_FIELD_NUMBER: _ClassVar[int]
    merchant: str
    def __init__(self, merchant: _Optional[str] = ...) -> None: ...

class StartRunRequest(_message.Message):
    __slots__ = ("plan_json",)
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    plan_json: bytes
    def __init__(self, plan_json: _Optional[bytes] = ...) -> None: ...

class StopRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RefusedTask(_message.Message):
    __slots__ = ("merchant", "reason", "sentence")
    MERCHANT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    merchant: str
    reason: str
    sentence: str
    def __init__(self, merchant: _Optional[str] = ..., reason: _Optional[str] = ..., sentence: _Optional[str] = ...) -> None: ...

class RoundInfo(_message.Message):
    __slots__ = ("round", "cohort", "accepted", "refused", "seconds", "down_bytes", "up_bytes")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DOWN_BYTES_FIELD_NUMBER: _ClassVar[int]
    UP_BYTES_FIELD_NUMBER: _ClassVar[int]
    round: int
    cohort: _containers.RepeatedScalarFieldContainer[str]
    accepted: _containers.RepeatedScalarFieldContainer[str]
    refused: _containers.RepeatedCompositeFieldContainer[RefusedTask]
    seconds: float
    down_bytes: int
    up_bytes: int
    def __init__(self, round: _Optional[int] = ..., cohort: _Optional[_Iterable[str]] = ..., accepted: _Optional[_Iterable[str]] = ..., refused: _Optional[_Iterable[_Union[RefusedTask, _Mapping]]] = ..., seconds: _Optional[float] = ..., down_bytes: _Optional[int] = ..., up_bytes: _Optional[int] = ...) -> None: ...

class RunInfo(_message.Message):
    __slots__ = ("run_id", "plan_name", "plan_digest", "state", "sentence", "rounds_done", "rounds_planned", "rounds", "release_version", "parent_version", "evaluation_json")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_NAME_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_DONE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_PLANNED_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PARENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_JSON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    plan_name: str
    plan_digest: str
    state: str
    sentence: str
    rounds_done: int
    rounds_planned: int
    rounds: _containers.RepeatedCompositeFieldContainer[RoundInfo]
    release_version: int
    parent_version: int
    evaluation_json: str
    def __init__(self, run_id: _Optional[str] = ..., plan_name: _Optional[str] = ..., plan_digest: _Optional[str] = ..., state: _Optional[str] = ..., sentence: _Optional[str] = ..., rounds_done: _Optional[int] = ..., rounds_planned: _Optional[int] = ..., rounds: _Optional[_Iterable[_Union[RoundInfo, _Mapping]]] = ..., release_version: _Optional[int] = ..., parent_version: _Optional[int] = ..., evaluation_json: _Optional[str] = ...) -> None: ...

class RunList(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunInfo]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunInfo, _Mapping]]] = ...) -> None: ...

class ExportArraysRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ExportPackRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class AddScheduleRequest(_message.Message):
    __slots__ = ("name", "plan_json", "cron", "drift")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    name: str
    plan_json: bytes
    cron: str
    drift: float
    def __init__(self, name: _Optional[str] = ..., plan_json: _Optional[bytes] = ..., cron: _Optional[str] = ..., drift: _Optional[float] = ...) -> None: ...

class RemoveScheduleRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListSchedulesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScheduleInfo(_message.Message):
    __slots__ = ("name", "plan_name", "cron", "drift", "next_due_unix_s", "last_run")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PLAN_NAME_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    NEXT_DUE_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    LAST_RUN_FIELD_NUMBER: _ClassVar[int]
    name: str
    plan_name: str
    cron: str
    drift: float
    next_due_unix_s: int
    last_run: str
    def __init__(self, name: _Optional[str] = ..., plan_name: _Optional[str] = ..., cron: _Optional[str] = ..., drift: _Optional[float] = ..., next_due_unix_s: _Optional[int] = ..., last_run: _Optional[str] = ...) -> None: ...

class ScheduleList(_message.Message):
    __slots__ = ("schedules",)
    SCHEDULES_FIELD_NUMBER: _ClassVar[int]
    schedules: _containers.RepeatedCompositeFieldContainer[ScheduleInfo]
    def __init__(self, schedules: _Optional[_Iterable[_Union[ScheduleInfo, _Mapping]]] = ...) -> None: ...

class AdmitAuditorRequest(_message.Message):
    __slots__ = ("name", "csr_der", "valid_for_days")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_DAYS_FIELD_NUMBER: _ClassVar[int]
    name: str
    csr_der: bytes
    valid_for_days: int
    def __init__(self, name: _Optional[str] = ..., csr_der: _Optional[bytes] = ..., valid_for_days: _Optional[int] = ...) -> None: ...

class AuditorGrant(_message.Message):
    __slots__ = ("name", "certificate_der", "authority_pem", "address", "plan_public_key")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_PEM_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PLAN_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    name: str
    certificate_der: bytes
    authority_pem: bytes
    address: str
    plan_public_key: bytes
    def __init__(self, name: _Optional[str] = ..., certificate_der: _Optional[bytes] = ..., authority_pem: _Optional[bytes] = ..., address: _Optional[str] = ..., plan_public_key: _Optional[bytes] = ...) -> None: ...

class DismissAuditorRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DismissAuditorReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TakeNoticeRequest(_message.Message):
    __slots__ = ("notice",)
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    notice: bytes
    def __init__(self, notice: _Optional[bytes] = ...) -> None: ...

class TakeNoticeReply(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...

class ListObligationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChannelState(_message.Message):
    __slots__ = ("channel", "newest_version", "holding", "newest_holds", "newest_without")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    NEWEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    NEWEST_HOLDS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_WITHOUT_FIELD_NUMBER: _ClassVar[int]
    channel: str
    newest_version: int
    holding: _containers.RepeatedScalarFieldContainer[int]
    newest_holds: bool
    newest_without: int
    def __init__(self, channel: _Optional[str] = ..., newest_version: _Optional[int] = ..., holding: _Optional[_Iterable[int]] = ..., newest_holds: _Optional[bool] = ..., newest_without: _Optional[int] = ...) -> None: ...

class Obligation(_message.Message):
    __slots__ = ("merchant", "remedy", "left_unix_s", "open", "channels", "unfinished_runs", "receipt")
    MERCHANT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    LEFT_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_RUNS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    merchant: str
    remedy: str
    left_unix_s: int
    open: bool
    channels: _containers.RepeatedCompositeFieldContainer[ChannelState]
    unfinished_runs: _containers.RepeatedScalarFieldContainer[str]
    receipt: bytes
    def __init__(self, merchant: _Optional[str] = ..., remedy: _Optional[str] = ..., left_unix_s: _Optional[int] = ..., open: _Optional[bool] = ..., channels: _Optional[_Iterable[_Union[ChannelState, _Mapping]]] = ..., unfinished_runs: _Optional[_Iterable[str]] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class ObligationList(_message.Message):
    __slots__ = ("obligations",)
    OBLIGATIONS_FIELD_NUMBER: _ClassVar[int]
    obligations: _containers.RepeatedCompositeFieldContainer[Obligation]
    def __init__(self, obligations: _Optional[_Iterable[_Union[Obligation, _Mapping]]] = ...) -> None: ...
