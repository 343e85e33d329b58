"""The service of the rounds: tasks down, updates up."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.identity import Role
from hansa.core.ids import MerchantId, Sha256
from hansa.core.storage import BlobStore, check_sha256
from hansa.protos.pieces import Data, read_upload, write_chunk
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc
from hansa.server.ledger_desk import LedgerDesk
from hansa.server.plane.handout import Handout
from hansa.server.plane.peer import Gate
from hansa.server.plane.status import streaming, unary
from hansa.server.plane.transfers import Transfers
from hansa.server.plane.turns import Turns
from hansa.server.plane.version import agreed_minor
from hansa.server.state.members import HEARTBEAT_PERIOD_S, Members
from hansa.server.state.runs import Runs
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import Outcome, Result, Tasks
from hansa.server.switchboard import Switchboard
from hansa.server.uploads import Slot, Uploads

_PING_PERIOD_S = 20.0
_MAX_SENTENCE = 500
_SERVICE = pb.DESCRIPTOR.services_by_name["Federation"].full_name
_REASONS = {
    pb.REFUSAL_REASON_BUDGET: "budget",
    pb.REFUSAL_REASON_CONTRACT: "contract",
    pb.REFUSAL_REASON_INTERRUPTED: "interrupted",
    pb.REFUSAL_REASON_FAILED: "failed",
}
_ACKNOWLEDGEMENTS = {
    Outcome.ACCEPTED: pb.ACKNOWLEDGEMENT_ACCEPTED,
    Outcome.DUPLICATE: pb.ACKNOWLEDGEMENT_DUPLICATE,
    Outcome.LATE: pb.ACKNOWLEDGEMENT_LATE,
    Outcome.CONFLICT: pb.ACKNOWLEDGEMENT_CONFLICT,
    Outcome.UNKNOWN: pb.ACKNOWLEDGEMENT_UNKNOWN,
}

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the service works with."""

    gate: Gate
    members: Members
    tasks: Tasks
    runs: Runs
    blobs: BlobStore
    uploads: Uploads
    ledgers: LedgerDesk
    switchboard: Switchboard
    checkpoint: Callable[[], bytes] = bytes
    """The newest signed checkpoint of the log; empty where there is none."""
    terms: Callable[[], bytes] = bytes
    """The operator's signed offer of terms; empty where there is none."""


class FederationService(rpc.FederationServicer):
    """Every call is made by a merchant; who it is stands in its certificate."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._handout = Handout(desk.tasks, desk.runs, desk.blobs, desk.members, desk.checkpoint)
        self._transfers = Transfers()
        self._turns = Turns()

    async def _for_caller(
        self, context: Any, work: Callable[[MerchantId], _Value], *, arriving: bool = False
    ) -> _Value:
        """Who calls, and what is to be done for it: in one thread, one after the other."""
        gate = self._desk.gate
        known = gate.arriving if arriving else gate.merchant
        async with self._turns.of(gate.peer(context, Role.MERCHANT).identity.name):
            return await asyncio.to_thread(lambda: work(known(context)))

    @unary
    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.Session:
        """See federation.proto."""
        session = await self._for_caller(
            context, lambda merchant: self._register(merchant, request), arriving=True
        )
        self._desk.switchboard.wake(session.merchant)
        self._desk.switchboard.announce()
        return session

    def _register(self, merchant: MerchantId, request: pb.RegisterRequest) -> pb.Session:
        minor = agreed_minor(request.protocol, request.protocol_minor)
        return pb.Session(
            session=self._desk.members.open_session(merchant, request.software),
            heartbeat_period_ms=int(HEARTBEAT_PERIOD_S * 1000),
            merchant=merchant,
            protocol_minor=minor,
            server_time_unix_ms=time.time_ns() // 1_000_000,
            next_ledger_position=self._desk.ledgers.next_position(merchant),
            signed_terms=self._desk.terms(),
        )

    @unary
    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:
        """See federation.proto."""
        alive = await self._for_caller(
            context, lambda merchant: self._desk.members.heartbeat(merchant, request.session)
        )
        return pb.HeartbeatReply(fenced=not alive)

    @streaming
    async def Subscribe(
        self, request: pb.SubscribeRequest, context: Any
    ) -> AsyncIterator[pb.ServerEvent]:
        """See federation.proto."""
        merchant = await self._for_caller(context, lambda merchant: merchant)
        event = self._desk.switchboard.listen(merchant)
        sent: set[str] = set()
        try:
            with self._transfers.connected():
                while not self._desk.switchboard.closed:
                    # Cleared before every look, so that no news and no newer session is missed.
                    event.clear()
                    news = await self._for_caller(
                        context, lambda merchant: self._look(merchant, request, sent)
                    )
                    for one in news:
                        yield one
                    if not await self._woken(event):
                        yield pb.ServerEvent(ping=pb.Ping())
        finally:
            self._desk.switchboard.hang_up(merchant, event)

    def _look(
        self, merchant: MerchantId, request: pb.SubscribeRequest, sent: set[str]
    ) -> list[pb.ServerEvent]:
        """An error rather than a quiet end: whoever is fenced off must not just register again."""
        if not self._desk.members.holds_session(merchant, request.session):
            raise ConflictError("a newer session of this merchant took over")
        news = self._handout.news(merchant, request, sent)
        self._handout.note(news, request.session)
        return news

    @staticmethod
    async def _woken(event: asyncio.Event) -> bool:
        """Waits for news; false when it is time for a ping."""
        try:
            return await asyncio.wait_for(event.wait(), _PING_PERIOD_S)
        except TimeoutError:
            return False

    @streaming
    async def Download(self, request: pb.DownloadRequest, context: Any) -> AsyncIterator[Data]:
        """See federation.proto. While the stream is open, ``standing`` sees to the caller."""
        pieces = await self._for_caller(context, lambda merchant: self._fetched(merchant, request))
        async for piece in self._transfers.send(pieces):
            yield piece

    def _fetched(self, merchant: MerchantId, request: pb.DownloadRequest) -> Iterator[bytes]:
        sha = check_sha256(request.sha256)
        row = self._desk.tasks.find(request.task_id, merchant)
        if row is None or not self._handout.may_fetch(row, sha):
            raise NotFoundError("no task of this merchant names that blob")
        return self._desk.blobs.chunks(
            sha, request.offset_bytes, self._transfers.measure.piece_bytes
        )

    def _slot(self, merchant: MerchantId, task_id: str, blob: common.BlobRef) -> Slot:
        task = self._desk.tasks.find(task_id, merchant)
        if task is None:
            raise NotFoundError("there is no such task for this merchant")
        wanted = task.state == "open"
        return Slot.checked(merchant, task_id, blob.sha256, blob.size_bytes, wanted=wanted)

    def _announced(self, merchant: MerchantId, header: pb.UploadHeader | None) -> tuple[Slot, int]:
        """What a stream says that it brings, and from which byte on."""
        if header is None:
            raise InvalidInputError("an upload begins with its header")
        return self._slot(merchant, header.task_id, header.blob), header.offset_bytes

    @unary
    async def UploadStatus(self, request: pb.UploadStatusRequest, context: Any) -> pb.UploadState:
        """See federation.proto."""
        return await self._for_caller(
            context,
            lambda merchant: self._state(self._slot(merchant, request.task_id, request.blob)),
        )

    def _state(self, slot: Slot) -> pb.UploadState:
        stored = self._desk.uploads.offset(slot)
        whole = stored == slot.size_bytes
        complete = whole and (not slot.wanted or self._desk.uploads.is_complete(slot))
        return pb.UploadState(
            offset_bytes=stored, complete=complete, piece_bytes=self._transfers.measure.piece_bytes
        )

    @unary
    async def Upload(
        self, request: AsyncIterator[pb.UploadMessage | Data], context: Any
    ) -> pb.UploadState:
        """See federation.proto. While the stream is open, ``standing`` sees to the caller."""
        self._desk.gate.peer(context, Role.MERCHANT)  # before anything is read
        header = await _first(request)
        slot, offset = await self._for_caller(
            context, lambda merchant: self._announced(merchant, header)
        )
        uploads = self._desk.uploads
        incoming = await self._transfers.run(uploads.begin, slot, offset)
        try:
            complete = await self._transfers.receive(request, incoming)
        finally:
            self._transfers.begin(uploads.end, incoming)
        return pb.UploadState(offset_bytes=incoming.size, complete=complete)

    @unary
    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteReply:
        """See federation.proto."""
        reply = await self._for_caller(context, lambda merchant: self._complete(merchant, request))
        self._desk.switchboard.announce()
        return reply

    def _complete(self, merchant: MerchantId, request: pb.CompleteRequest) -> pb.CompleteReply:
        desk = self._desk
        if not desk.members.holds_session(merchant, request.session):
            position = desk.ledgers.next_position(merchant)
            fenced = pb.ACKNOWLEDGEMENT_FENCED
            return pb.CompleteReply(acknowledgement=fenced, next_ledger_position=position)
        position = desk.ledgers.accept(merchant, request.ledger_entries)
        acknowledgement = self._close(merchant, request)
        return pb.CompleteReply(acknowledgement=acknowledgement, next_ledger_position=position)

    def _close(self, merchant: MerchantId, request: pb.CompleteRequest) -> pb.Acknowledgement:
        desk = self._desk
        task = desk.tasks.find(request.task_id, merchant)
        if task is None:
            return pb.ACKNOWLEDGEMENT_UNKNOWN
        result = self._result(task, request)
        if result is None:
            return pb.ACKNOWLEDGEMENT_MISSING_BLOB
        outcome = desk.tasks.complete(task.task_id, merchant, result)
        desk.uploads.forget(merchant, task.task_id)
        return _ACKNOWLEDGEMENTS[outcome]

    def _result(self, task: TaskRow, request: pb.CompleteRequest) -> Result | None:
        """The result, once it is known to be paid for; None where its blob must come first.

        A task that is closed needs no blob any more: whatever its client has left is refused.
        """
        if request.WhichOneof("result") == "refusal":
            return _refusal(request.refusal)
        blob = request.content
        if task.state == "expired":
            return Result(sha256=Sha256(blob.sha256), size_bytes=blob.size_bytes)
        slot = Slot.checked(MerchantId(task.merchant), task.task_id, blob.sha256, blob.size_bytes)
        result = Result(sha256=slot.sha256, size_bytes=slot.size_bytes)
        missing = task.state == "open" and not self._desk.uploads.is_complete(slot)
        if missing and not request.content_data:
            return None
        self._desk.ledgers.check_booked(task, self._desk.runs.terms(task.run_id), slot.sha256)
        if missing:
            self._desk.uploads.take(slot, request.content_data)
        return result


def _refusal(refusal: pb.Refusal) -> Result:
    reason = _REASONS.get(refusal.reason)
    if reason is None:
        raise InvalidInputError("a refusal needs a reason")
    return Result(reason=reason, sentence=refusal.sentence[:_MAX_SENTENCE])


async def _first(stream: AsyncIterator[pb.UploadMessage | Data]) -> pb.UploadHeader | None:
    """The header with which an upload begins, if it does."""
    async for message in stream:
        if isinstance(message, pb.UploadMessage) and message.WhichOneof("part") == "header":
            return message.header
        break
    return None


def bind(server: grpc.aio.Server, desk: Desk) -> None:
    """Adds the service to a server; blobs' messages are written and read the short way."""
    desk.uploads.sweep()
    service = FederationService(desk)
    blobs: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Download": grpc.unary_stream_rpc_method_handler(
            service.Download, pb.DownloadRequest.FromString, write_chunk
        ),
        "Upload": grpc.stream_unary_rpc_method_handler(
            service.Upload, read_upload, pb.UploadState.SerializeToString
        ),
    }
    # Of two generic handlers of a method gRPC takes the first, of two registered ones the last.
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, blobs),))
    rpc.add_FederationServicer_to_server(service, server)
    server.add_registered_method_handlers(_SERVICE, blobs)
