from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("protocol", "csr_der", "ledger_public_key", "protocol_minor")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    LEDGER_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    csr_der: bytes
    ledger_public_key: bytes
    protocol_minor: int
    def __init__(self, protocol: _Optional[str] = ..., csr_der: _Optional[bytes] = ..., ledger_public_key: _Optional[bytes] = ..., protocol_minor: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_der",)
    CSR_DER_FIELD_NUMBER: _ClassVar[int]
    csr_der: bytes
    def __init__(self, csr_der: _Optional[bytes] = ...) -> None: ...

class EnquireRequest(_message.Message):
    __slots__ = ("protocol", "protocol_minor")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    protocol_minor: int
    def __init__(self, protocol: _Optional[str] = ..., protocol_minor: _Optional[int] = ...) -> None: ...

class ServerFacts(_message.Message):
    __slots__ = ("protocol_minor", "server_time_unix_ms", "software")
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    protocol_minor: int
    server_time_unix_ms: int
    software: str
    def __init__(self, protocol_minor: _Optional[int] = ..., server_time_unix_ms: _Optional[int] = ..., software: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("remedy", "notice")
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    remedy: str
    notice: bytes
    def __init__(self, remedy: _Optional[str] = ..., notice: _Optional[bytes] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ("receipt",)
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    receipt: bytes
    def __init__(self, receipt: _Optional[bytes] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("merchant", "certificate_der", "plan_public_key", "tuf_root", "takes_contracts")
    MERCHANT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_DER_FIELD_NUMBER: _ClassVar[int]
    PLAN_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    TUF_ROOT_FIELD_NUMBER: _ClassVar[int]
    TAKES_CONTRACTS_FIELD_NUMBER: _ClassVar[int]
    merchant: str
    certificate_der: bytes
    plan_public_key: bytes
    tuf_root: bytes
    takes_contracts: bool
    def __init__(self, merchant: _Optional[str] = ..., certificate_der: _Optional[bytes] = ..., plan_public_key: _Optional[bytes] = ..., tuf_root: _Optional[bytes] = ..., takes_contracts: _Optional[bool] = ...) -> None: ...
