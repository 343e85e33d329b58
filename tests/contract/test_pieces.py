"""The short way to write and read blobs' messages against protobuf's own."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from hansa.core.storage import CHUNK_BYTES
from hansa.protos.pieces import read_chunk, read_upload, write_chunk, write_upload
from hansa.protos.v1.common_pb2 import BlobRef, Chunk
from hansa.protos.v1.federation_pb2 import UploadHeader, UploadMessage

# Around every length at which the number of bytes of a length changes.
sizes = st.one_of(
    st.integers(0, 300),
    st.integers((1 << 14) - 8, (1 << 14) + 8),
    st.integers(CHUNK_BYTES - 8, CHUNK_BYTES),
    st.integers((1 << 21) - 8, (1 << 21) + 8),
)
UNKNOWN_FIELD = b"\x7a\x01x"


@given(sizes, st.binary(min_size=1, max_size=4))
@example(0, b"\0")
@example(CHUNK_BYTES, b"\x0a")
def test_both_ways_write_the_same_bytes_and_read_back_the_data(size: int, pattern: bytes) -> None:
    data = (pattern * (size // len(pattern) + 1))[:size]
    chunk, upload = Chunk(data=data), UploadMessage(chunk=Chunk(data=data))
    for given_data in (data, memoryview(data)):
        assert write_chunk(given_data) == chunk.SerializeToString()
        assert write_upload(given_data) == upload.SerializeToString()
    assert bytes(read_chunk(chunk.SerializeToString())) == data
    assert bytes(read_upload(upload.SerializeToString())) == data


def test_the_data_of_a_usual_message_are_not_copied() -> None:
    data = bytes(1000)
    assert isinstance(read_chunk(write_chunk(data)), memoryview)
    assert isinstance(read_upload(write_upload(data)), memoryview)


def test_a_header_is_written_and_read_as_protobuf_does() -> None:
    blob = BlobRef(sha256="a" * 64, size_bytes=1 << 40)
    header = UploadMessage(header=UploadHeader(task_id="t", blob=blob, offset_bytes=7))
    assert write_upload(header) == header.SerializeToString()
    assert read_upload(write_upload(header)) == header
    assert read_upload(b"") == UploadMessage()


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (b"\x0a\x01x" + UNKNOWN_FIELD, b"x"),
        (UNKNOWN_FIELD + b"\x0a\x01x", b"x"),
        (b"\x0a\x01x\x0a\x02yz", b"yz"),
        (b"\x0a\x81\x80\x00x", b"x"),
        (b"\x0a\x00", b""),
        (b"", b""),
    ],
)
def test_a_chunk_of_another_form_means_what_it_means_to_protobuf(
    message: bytes, data: bytes
) -> None:
    assert Chunk.FromString(message).data == data
    assert bytes(read_chunk(message)) == data
    inner = bytes([0x12, len(message)]) + message
    assert bytes(read_upload(inner)) == data
    assert bytes(read_upload(inner + UNKNOWN_FIELD)) == data


@given(st.binary(max_size=40))
def test_any_bytes_mean_what_they_mean_to_protobuf(message: bytes) -> None:
    """Also with the first tag set right, so that the short way is tried."""
    for start in (b"", b"\x0a", b"\x12", b"\x12\x05\x0a"):
        assert _outcome(read_chunk, start + message) == _outcome(
            lambda raw: Chunk.FromString(raw).data, start + message
        )
        assert _outcome(read_upload, start + message) == _outcome(_protobuf, start + message)


def _protobuf(raw: bytes) -> object:
    parsed = UploadMessage.FromString(raw)
    return parsed.chunk.data if parsed.WhichOneof("part") == "chunk" else parsed


def _outcome(read, raw: bytes) -> object:
    try:
        found = read(raw)
    except DecodeError:
        return DecodeError
    return bytes(found) if isinstance(found, memoryview) else found
