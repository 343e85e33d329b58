from hansa.protos.v1 import common_pb2 as _common_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class MetadataRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class MetadataFile(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class TargetRequest(_message.Message):
    __slots__ = ("path", "sha256", "offset_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    offset_bytes: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class HealthReport(_message.Message):
    __slots__ = ("channel", "version", "serving", "sentence")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    channel: str
    version: int
    serving: bool
    sentence: str
    def __init__(self, channel: _Optional[str] = ..., version: _Optional[int] = ..., serving: _Optional[bool] = ..., sentence: _Optional[str] = ...) -> None: ...

class HealthReceipt(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
