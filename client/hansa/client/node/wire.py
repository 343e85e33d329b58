"""The calls of one session: blobs down and up with resumption, results, heartbeats."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc

from hansa.client.channel import CALL_TIMEOUT_S, TRANSFER_TIMEOUT_S
from hansa.client.node.log_line import GrpcLogLine
from hansa.client.node.outbox import Letter, Outbox
from hansa.core.errors import InvalidInputError, NotFoundError, TransportError
from hansa.core.storage import CHUNK_BYTES, BlobStore, PartFile, check_sha256
from hansa.protos.pieces import Data, read_chunk, write_upload
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc

MAX_CONTENT_BYTES = 256 << 20
"""A task whose content is larger is refused before a byte of it is fetched."""

_SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name
_UPLOAD_ATTEMPTS = 3

_UNASKED_BYTES = 512 << 10
"""What is no larger is sent at once; a server that has some of it already says so then."""
_NOTHING_YET = pb.UploadState(piece_bytes=256 << 10)

SUBSCRIPTION_S = 3600.0
"""A subscription is renewed after this, so that no stream lives for ever."""


class Wire:
    """The Federation service as one session sees it."""

    def __init__(self, channel: grpc.Channel, session: pb.Session) -> None:
        self._stub = rpc.FederationStub(channel)
        self.log = GrpcLogLine(channel)
        # Blobs' messages are written and read the short way.
        self._download = channel.unary_stream(
            f"/{_SERVICE}/Download", pb.DownloadRequest.SerializeToString, read_chunk
        )
        self._upload = channel.stream_unary(
            f"/{_SERVICE}/Upload", write_upload, pb.UploadState.FromString
        )
        self._session = session
        self.ledger_position = session.next_ledger_position

    def events(self) -> Iterator[pb.ServerEvent]:
        """Tasks and cancellations as they come; ends when the server closes the stream."""
        request = pb.SubscribeRequest(
            session=self._session.session, protocol_minor=self._session.protocol_minor
        )
        events: Iterator[pb.ServerEvent] = self._stub.Subscribe(request, timeout=SUBSCRIPTION_S)
        return events

    def heartbeat(self) -> bool:
        """Tells that this client lives; false when a newer session took over."""
        request = pb.HeartbeatRequest(session=self._session.session)
        return not self._stub.Heartbeat(request, timeout=CALL_TIMEOUT_S).fenced

    def download(self, task_id: str, blob: common.BlobRef, store: BlobStore) -> Path:
        """A blob of a task, in the store; what an earlier attempt left of it is not fetched again.

        A stream that breaks is resumed once. The bytes are hashed as they come.

        Raises:
            TransportError: it is incomplete, or not what the task names.
            InvalidInputError: the task names no digest, or more bytes than are taken.
        """
        sha = check_sha256(blob.sha256)
        if blob.size_bytes > MAX_CONTENT_BYTES:
            raise InvalidInputError(
                f"the task's content has {blob.size_bytes} bytes, where this client takes at most "
                f"{MAX_CONTENT_BYTES}; let the plan send a smaller model"
            )
        try:
            return store.checked(sha)
        except NotFoundError:
            store.drop(sha)  # the disk has damaged it, if it was here
        with contextlib.closing(PartFile(store.part(sha))) as part:
            self._fetch(task_id, blob, part)
            if part.sha256 != sha:
                part.path.unlink()
                raise TransportError("the task's content does not have the promised digest")
            store.adopt(part.path, sha)
        return store.path(sha)

    def _fetch(self, task_id: str, blob: common.BlobRef, part: PartFile) -> None:
        try:
            self._stream(task_id, blob, part)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        if part.size < blob.size_bytes:
            self._stream(task_id, blob, part)
        if part.size < blob.size_bytes:
            raise TransportError("the download broke off; it goes on at the next attempt")

    def _stream(self, task_id: str, blob: common.BlobRef, part: PartFile) -> None:
        if part.size == blob.size_bytes:
            return
        request = pb.DownloadRequest(task_id=task_id, sha256=blob.sha256, offset_bytes=part.size)
        for piece in self._download(request, timeout=TRANSFER_TIMEOUT_S):
            if part.size + len(piece) > blob.size_bytes:
                part.path.unlink()
                raise TransportError("the server sent more bytes than it promised")
            part.append(piece)

    def upload(self, outbox: Outbox, letter: Letter) -> None:
        """Sends what the server does not have yet of a finished update.

        Raises:
            TransportError: it is not whole at the server; the next attempt goes on from there.
            InvalidInputError: the server does not take these bytes.
        """
        blob = common.BlobRef(sha256=letter.sha256, size_bytes=letter.size_bytes)
        if letter.size_bytes <= _UNASKED_BYTES and self._send(outbox, letter, blob, _NOTHING_YET):
            return
        status = pb.UploadStatusRequest(task_id=letter.task_id, blob=blob)
        for _ in range(_UPLOAD_ATTEMPTS):
            state = self._stub.UploadStatus(status, timeout=CALL_TIMEOUT_S)
            if state.complete or self._send(outbox, letter, blob, state):
                return
        raise TransportError("the upload broke off; it goes on at the next attempt")

    def _send(
        self, outbox: Outbox, letter: Letter, blob: common.BlobRef, state: pb.UploadState
    ) -> bool:
        """Whether the server has all of it now; false when another offset must be asked for."""
        messages = _messages(outbox, letter, blob, state)
        try:
            return bool(self._upload(messages, timeout=TRANSFER_TIMEOUT_S).complete)
        except grpc.RpcError as error:
            # Some of it is there, or an older stream of this client, half dead, still stores bytes.
            if error.code() is grpc.StatusCode.ALREADY_EXISTS:
                return False
            raise _named(error) from error

    def complete(self, letter: Letter, entries: bytes, content: bytes = b"") -> pb.Acknowledgement:
        """Closes a task with a finished update.

        Args:
            letter: names the update.
            entries: lines of the ledger.
            content: the update itself, where it is small and was not uploaded.

        Raises:
            InvalidInputError: the server will never take it.
        """
        blob = common.BlobRef(sha256=letter.sha256, size_bytes=letter.size_bytes)
        request = pb.CompleteRequest(
            task_id=letter.task_id, content=blob, ledger_entries=entries, content_data=content
        )
        try:
            return self._close(request)
        except grpc.RpcError as error:
            raise _named(error) from error

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


def _named(error: grpc.RpcError) -> Exception:
    """What will not mend by itself as an error of its own; the session ends with any other."""
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInputError(error.details() or "")
    return error


def _messages(
    outbox: Outbox, letter: Letter, blob: common.BlobRef, state: pb.UploadState
) -> Iterator[pb.UploadMessage | Data]:
    offset = state.offset_bytes
    yield pb.UploadMessage(
        header=pb.UploadHeader(task_id=letter.task_id, blob=blob, offset_bytes=offset)
    )
    yield from outbox.chunks(letter, offset, min(state.piece_bytes or CHUNK_BYTES, CHUNK_BYTES))
