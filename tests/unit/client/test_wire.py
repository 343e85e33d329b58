"""The session's transfers against a server that breaks them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from hansa.client.node.wire import MAX_CONTENT_BYTES, Wire
from hansa.core.canonical import sha256_hex
from hansa.core.errors import TransportError
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc

DATA = bytes(range(256)) * 40
BLOB = common.BlobRef(sha256=sha256_hex(DATA), size_bytes=len(DATA))


class BreakingServer(rpc.FederationServicer):
    """Serves ``DATA`` and breaks each stream as told: after so many bytes, with what status."""

    def __init__(self) -> None:
        self.breaks: list[tuple[int, grpc.StatusCode | None]] = []
        self.offsets: list[int] = []
        self.data = DATA

    def Download(self, request: pb.DownloadRequest, context: Any) -> Iterator[common.Chunk]:
        self.offsets.append(request.offset_bytes)
        rest = self.data[request.offset_bytes :]
        count, status = self.breaks.pop(0) if self.breaks else (len(rest), None)
        yield common.Chunk(data=rest[:count])
        if status is not None:
            context.abort(status, "the fake line broke")


@pytest.fixture
def server() -> Iterator[BreakingServer]:
    running, fake = grpc.server(ThreadPoolExecutor(2)), BreakingServer()
    rpc.add_FederationServicer_to_server(fake, running)
    fake.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield fake
    running.stop(None).wait()


@pytest.fixture
def wire(server: BreakingServer) -> Iterator[Wire]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Wire(channel, pb.Session(session=1))


@pytest.mark.parametrize("status", [None, grpc.StatusCode.UNAVAILABLE])
def test_a_broken_download_goes_on_once_where_it_stopped(
    server: BreakingServer, wire: Wire, status: grpc.StatusCode | None
) -> None:
    server.breaks = [(1000, status)]
    assert wire.download("task", BLOB) == DATA
    assert server.offsets == [0, 1000]


def test_a_download_that_breaks_again_and_again_is_a_fault_of_the_line(
    server: BreakingServer, wire: Wire
) -> None:
    server.breaks = [(1000, grpc.StatusCode.UNAVAILABLE)] * 2
    with pytest.raises(grpc.RpcError) as fault:
        wire.download("task", BLOB)
    assert fault.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_refused_download_is_not_tried_again(server: BreakingServer, wire: Wire) -> None:
    server.breaks = [(0, grpc.StatusCode.PERMISSION_DENIED)]
    with pytest.raises(grpc.RpcError):
        wire.download("task", BLOB)
    assert server.offsets == [0]


def test_other_bytes_than_the_task_names_are_refused(server: BreakingServer, wire: Wire) -> None:
    server.data = DATA[::-1]
    with pytest.raises(TransportError, match="promised digest"):
        wire.download("task", BLOB)


def test_more_bytes_than_promised_are_refused(server: BreakingServer, wire: Wire) -> None:
    server.data = DATA + b"more"
    with pytest.raises(TransportError, match="more bytes than it promised"):
        wire.download("task", BLOB)


def test_a_content_that_is_too_large_is_refused_before_a_byte_of_it_is_fetched(
    server: BreakingServer, wire: Wire
) -> None:
    huge = common.BlobRef(sha256=BLOB.sha256, size_bytes=MAX_CONTENT_BYTES + 1)
    with pytest.raises(TransportError, match="larger than this client accepts"):
        wire.download("task", huge)
    assert server.offsets == []
