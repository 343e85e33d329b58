"""The session's transfers against a server that breaks them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from hansa.client.node.outbox import Letter, Outbox
from hansa.client.node.wire import MAX_CONTENT_BYTES, Wire
from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, TransportError
from hansa.core.ids import TaskId
from hansa.core.storage import BlobStore
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
        self.stored = b""
        self.pieces: list[int] = []
        self.piece_bytes = 0
        self.asked = 0
        self.before_upload: Callable[[], None] = lambda: None

    def Download(self, request: pb.DownloadRequest, context: Any) -> Iterator[common.Chunk]:
        self.offsets.append(request.offset_bytes)
        rest = self.data[request.offset_bytes :]
        count, status = self.breaks.pop(0) if self.breaks else (len(rest), None)
        yield common.Chunk(data=rest[:count])
        if status is not None:
            context.abort(status, "the fake line broke")

    def UploadStatus(self, request: pb.UploadStatusRequest, context: Any) -> pb.UploadState:
        self.asked += 1
        return pb.UploadState(
            offset_bytes=len(self.stored),
            complete=self.stored == self.data,
            piece_bytes=self.piece_bytes,
        )

    def Upload(self, request: Iterator[pb.UploadMessage], context: Any) -> pb.UploadState:
        self.before_upload()
        header = next(request).header
        self.offsets.append(header.offset_bytes)
        if header.offset_bytes != len(self.stored):
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "the upload must go on elsewhere")
        for message in request:
            self.pieces.append(len(message.chunk.data))
            self.stored += message.chunk.data
        return pb.UploadState(offset_bytes=len(self.stored), complete=self.stored == self.data)


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


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


class TestDownload:
    @pytest.mark.parametrize("status", [None, grpc.StatusCode.UNAVAILABLE])
    def test_a_broken_one_goes_on_once_where_it_stopped(
        self,
        server: BreakingServer,
        wire: Wire,
        store: BlobStore,
        status: grpc.StatusCode | None,
    ) -> None:
        server.breaks = [(1000, status)]
        assert wire.download("task", BLOB, store).read_bytes() == DATA
        assert server.offsets == [0, 1000]

    def test_one_that_breaks_again_and_again_is_a_fault_of_the_line(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        server.breaks = [(1000, grpc.StatusCode.UNAVAILABLE)] * 2
        with pytest.raises(grpc.RpcError) as fault:
            wire.download("task", BLOB, store)
        assert fault.value.code() is grpc.StatusCode.UNAVAILABLE

    def test_what_came_before_a_restart_is_not_fetched_again(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        server.breaks = [(1000, None), (500, None)]
        with pytest.raises(TransportError, match="broke off"):
            wire.download("task", BLOB, store)
        assert wire.download("task", BLOB, BlobStore(store.folder)).read_bytes() == DATA
        assert server.offsets == [0, 1000, 1500]

    def test_a_blob_that_is_here_is_not_fetched_at_all(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        store.put(DATA)
        assert wire.download("task", BLOB, store).read_bytes() == DATA
        assert server.offsets == []

    def test_a_blob_that_the_disk_has_damaged_is_fetched_anew(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        store.path(store.put(DATA)).write_bytes(DATA[::-1])
        restarted = BlobStore(store.folder)
        assert wire.download("task", BLOB, restarted).read_bytes() == DATA

    def test_a_refused_one_is_not_tried_again(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        server.breaks = [(0, grpc.StatusCode.PERMISSION_DENIED)]
        with pytest.raises(grpc.RpcError):
            wire.download("task", BLOB, store)
        assert server.offsets == [0]

    def test_other_bytes_than_the_task_names_are_refused_and_forgotten(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        server.data = DATA[::-1]
        with pytest.raises(TransportError, match="promised digest"):
            wire.download("task", BLOB, store)
        server.data = DATA
        assert wire.download("task", BLOB, store).read_bytes() == DATA

    def test_more_bytes_than_promised_are_refused(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        server.data = DATA + b"more"
        with pytest.raises(TransportError, match="more bytes than it promised"):
            wire.download("task", BLOB, store)

    def test_what_is_too_large_is_refused_before_a_byte_of_it_is_fetched(
        self, server: BreakingServer, wire: Wire, store: BlobStore
    ) -> None:
        huge = common.BlobRef(sha256=BLOB.sha256, size_bytes=MAX_CONTENT_BYTES + 1)
        # No fault of the line: connecting again would not mend it.
        with pytest.raises(InvalidInputError, match="takes at most 268435456"):
            wire.download("task", huge, store)
        assert server.offsets == []

    def test_a_digest_that_is_a_path_is_refused(self, wire: Wire, store: BlobStore) -> None:
        with pytest.raises(InvalidInputError):
            wire.download("task", common.BlobRef(sha256="../" * 22, size_bytes=1), store)


class TestUpload:
    @pytest.fixture
    def outbox(self, tmp_path: Path) -> Outbox:
        return Outbox(tmp_path / "outbox")

    @pytest.fixture
    def letter(self, outbox: Outbox) -> Letter:
        return outbox.put(TaskId("task"), DATA)

    def test_only_what_the_server_lacks_is_sent(
        self, server: BreakingServer, wire: Wire, outbox: Outbox, letter: Letter
    ) -> None:
        server.stored = DATA[:4000]
        wire.upload(outbox, letter)
        assert server.stored == DATA
        assert sum(server.pieces) == len(DATA) - 4000

    def test_pieces_are_as_small_as_the_server_would_like(
        self, server: BreakingServer, wire: Wire, outbox: Outbox
    ) -> None:
        server.piece_bytes, server.data = 500_000, DATA * 60
        wire.upload(outbox, outbox.put(TaskId("task"), server.data))
        assert server.pieces == [500_000, len(DATA) * 60 - 500_000]
        assert server.asked == 1

    def test_a_small_one_is_sent_without_asking_first(
        self, server: BreakingServer, wire: Wire, outbox: Outbox, letter: Letter
    ) -> None:
        wire.upload(outbox, letter)
        assert server.stored == DATA
        assert server.asked == 0

    def test_where_an_older_stream_was_still_storing_it_asks_again_where_to_go_on(
        self, server: BreakingServer, wire: Wire, outbox: Outbox, letter: Letter
    ) -> None:
        def older_stream() -> None:
            server.stored = server.stored or DATA[:100]

        server.before_upload = older_stream
        wire.upload(outbox, letter)
        assert server.stored == DATA
        assert server.offsets == [0, 100]

    def test_an_upload_that_never_gets_anywhere_is_a_fault_of_the_line(
        self, server: BreakingServer, wire: Wire, outbox: Outbox, letter: Letter
    ) -> None:
        def rival() -> None:
            server.stored += b"x"

        server.before_upload = rival
        with pytest.raises(TransportError, match="goes on at the next attempt"):
            wire.upload(outbox, letter)
