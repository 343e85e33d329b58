"""The calls of one session: blobs down and up with resumption, results, heartbeats."""

import hashlib
from collections.abc import Iterator

import grpc

from hansa.client.channel import CALL_TIMEOUT_S, TRANSFER_TIMEOUT_S
from hansa.client.node.outbox import Letter, Outbox
from hansa.core.errors import TransportError
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc

MAX_CONTENT_BYTES = 256 << 20
"""A task whose content is larger is refused before a byte of it is fetched."""

SUBSCRIPTION_S = 3600.0
"""A subscription is renewed after this, so that no stream lives for ever."""


class Wire:
    """The Federation service as one session sees it."""

    def __init__(self, channel: grpc.Channel, session: pb.Session) -> None:
        self._stub = rpc.FederationStub(channel)
        self._session = session
        self.ledger_position = session.next_ledger_position

    def events(self) -> Iterator[pb.ServerEvent]:
        """Tasks and cancellations as they come; ends when the server closes the stream."""
        request = pb.SubscribeRequest(session=self._session.session)
        events: Iterator[pb.ServerEvent] = self._stub.Subscribe(request, timeout=SUBSCRIPTION_S)
        return events

    def heartbeat(self) -> bool:
        """Tells that this client lives; false when a newer session took over."""
        request = pb.HeartbeatRequest(session=self._session.session)
        return not self._stub.Heartbeat(request, timeout=CALL_TIMEOUT_S).fenced

    def download(self, task_id: str, blob: common.BlobRef) -> bytes:
        """A blob of a task, resumed once where a stream broke, and checked against its digest.

        Raises:
            TransportError: it is too large, incomplete, or not what the task names.
        """
        if blob.size_bytes > MAX_CONTENT_BYTES:
            raise TransportError("the task's content is larger than this client accepts")
        data = bytearray()
        try:
            self._fetch(task_id, blob, data)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        if len(data) < blob.size_bytes:
            self._fetch(task_id, blob, data)
        if hashlib.sha256(data).hexdigest() != blob.sha256:
            raise TransportError("the task's content does not have the promised digest")
        return bytes(data)

    def _fetch(self, task_id: str, blob: common.BlobRef, data: bytearray) -> None:
        request = pb.DownloadRequest(task_id=task_id, sha256=blob.sha256, offset_bytes=len(data))
        for chunk in self._stub.Download(request, timeout=TRANSFER_TIMEOUT_S):
            data.extend(chunk.data)
            if len(data) > blob.size_bytes:
                raise TransportError("the server sent more bytes than it promised")

    def upload(self, outbox: Outbox, letter: Letter) -> None:
        """Sends what the server does not have yet of a finished update."""
        blob = common.BlobRef(sha256=letter.sha256, size_bytes=letter.size_bytes)
        status = pb.UploadStatusRequest(task_id=letter.task_id, blob=blob)
        state = self._stub.UploadStatus(status, timeout=CALL_TIMEOUT_S)
        if state.complete:
            return
        messages = _messages(outbox, letter, blob, state.offset_bytes)
        state = self._stub.Upload(messages, timeout=TRANSFER_TIMEOUT_S)
        if not state.complete:
            raise TransportError("the upload broke off; it goes on at the next attempt")

    def complete(self, letter: Letter, entries: bytes) -> pb.Acknowledgement:
        """Closes a task with a finished update."""
        blob = common.BlobRef(sha256=letter.sha256, size_bytes=letter.size_bytes)
        return self._close(
            pb.CompleteRequest(task_id=letter.task_id, content=blob, ledger_entries=entries)
        )

    def refuse(self, task_id: str, refusal: pb.Refusal, entries: bytes) -> pb.Acknowledgement:
        """Closes a task without an update."""
        return self._close(
            pb.CompleteRequest(task_id=task_id, refusal=refusal, ledger_entries=entries)
        )

    def _close(self, request: pb.CompleteRequest) -> pb.Acknowledgement:
        request.session = self._session.session
        reply: pb.CompleteReply = self._stub.Complete(request, timeout=CALL_TIMEOUT_S)
        self.ledger_position = reply.next_ledger_position
        return reply.acknowledgement


def _messages(
    outbox: Outbox, letter: Letter, blob: common.BlobRef, offset: int
) -> Iterator[pb.UploadMessage]:
    yield pb.UploadMessage(
        header=pb.UploadHeader(task_id=letter.task_id, blob=blob, offset_bytes=offset)
    )
    for piece in outbox.chunks(letter, offset, CHUNK_BYTES):
        yield pb.UploadMessage(chunk=common.Chunk(data=piece))
