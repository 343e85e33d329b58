"""The messages that move blobs, written and read without protobuf where their form is usual.

A ``Chunk`` on the wire is a tag, a length and the data; an ``UploadMessage`` with a chunk is a tag,
a length and that. Protobuf copies the data three times on the way; here it is once, in writing. The
bytes are the same as protobuf's, and what has any other form goes to protobuf's own parser.
"""

from hansa.protos.v1.common_pb2 import Chunk
from hansa.protos.v1.federation_pb2 import UploadMessage

Data = bytes | memoryview
"""What a chunk holds."""

_DATA_TAG = 0x0A  # field 1 of Chunk: bytes
_CHUNK_TAG = 0x12  # field 2 of UploadMessage: a message
_SHORTEST_VARINT = 0x80
_LONGEST_VARINT_BYTES = 5


def write_chunk(data: Data) -> bytes:
    """``Chunk(data=data).SerializeToString()``."""
    return b"".join((_head(_DATA_TAG, len(data)), data)) if len(data) else b""


def read_chunk(message: bytes) -> Data:
    """``Chunk.FromString(message).data``, mostly without a copy.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no chunk.
    """
    begin = _body(message, 0, _DATA_TAG)
    return Chunk.FromString(message).data if begin is None else memoryview(message)[begin:]


def write_upload(part: UploadMessage | Data) -> bytes:
    """``SerializeToString()`` of a header's message, or of the message that carries the data."""
    if isinstance(part, UploadMessage):
        return bytes(part.SerializeToString())
    head = _head(_DATA_TAG, len(part)) if len(part) else b""
    return b"".join((_head(_CHUNK_TAG, len(head) + len(part)), head, part))


def read_upload(message: bytes) -> UploadMessage | Data:
    """The data of a message that carries a chunk, mostly without a copy; any other as it is.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such message.
    """
    chunk = _body(message, 0, _CHUNK_TAG)
    begin = None if chunk is None else _body(message, chunk, _DATA_TAG)
    if begin is not None:
        return memoryview(message)[begin:]
    parsed = UploadMessage.FromString(message)
    return parsed.chunk.data if parsed.WhichOneof("part") == "chunk" else parsed


def _head(tag: int, length: int) -> bytes:
    head = bytearray((tag,))
    while length >= _SHORTEST_VARINT:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


def _body(message: bytes, at: int, tag: int) -> int | None:
    """Where the field begins that fills the message from ``at`` to its end, if there is one."""
    if len(message) < at + 2 or message[at] != tag:
        return None
    length = 0
    for count in range(min(_LONGEST_VARINT_BYTES, len(message) - at - 1)):
        byte = message[at + 1 + count]
        length |= (byte & 0x7F) << (7 * count)
        if byte < _SHORTEST_VARINT:
            begin = at + 2 + count
            return begin if length == len(message) - begin else None
    return None
