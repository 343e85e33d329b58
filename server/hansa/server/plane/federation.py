"""The service of the rounds: tasks down, updates up."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.ids import MerchantId, Sha256, TaskId
from hansa.core.storage import BlobStore, check_sha256
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc
from hansa.server.ledger_desk import LedgerDesk
from hansa.server.plane.peer import Gate
from hansa.server.plane.status import streaming, unary
from hansa.server.plane.version import check_protocol
from hansa.server.state.members import HEARTBEAT_PERIOD_S, Members
from hansa.server.state.runs import Runs
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import Outcome, Result, Tasks
from hansa.server.switchboard import Switchboard
from hansa.server.uploads import Slot, Uploads

_PING_PERIOD_S = 20.0
_MAX_SENTENCE = 500

_PHASES = {"train": pb.PHASE_TRAIN, "evaluate": pb.PHASE_EVALUATE}
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


class FederationService(rpc.FederationServicer):
    """Every call is made by a merchant; who it is stands in its certificate."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def _caller(self, context: Any) -> MerchantId:
        return await asyncio.to_thread(self._desk.gate.merchant, context)

    @unary
    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.Session:
        """See federation.proto."""
        merchant = await self._caller(context)
        check_protocol(request.protocol)
        number = await asyncio.to_thread(
            self._desk.members.open_session, merchant, request.software
        )
        self._desk.switchboard.wake(merchant)
        self._desk.switchboard.announce()
        return pb.Session(
            session=number,
            heartbeat_period_ms=int(HEARTBEAT_PERIOD_S * 1000),
            merchant=merchant,
            next_ledger_position=await asyncio.to_thread(
                self._desk.ledgers.next_position, merchant
            ),
        )

    @unary
    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:
        """See federation.proto."""
        merchant = await self._caller(context)
        alive = await asyncio.to_thread(self._desk.members.heartbeat, merchant, request.session)
        return pb.HeartbeatReply(fenced=not alive)

    @streaming
    async def Subscribe(
        self, request: pb.SubscribeRequest, context: Any
    ) -> AsyncIterator[pb.ServerEvent]:
        """See federation.proto."""
        merchant = await self._caller(context)
        event = self._desk.switchboard.listen(merchant)
        sent: set[str] = set()
        try:
            while not self._desk.switchboard.closed:
                # Cleared before every look, so that no news, revocation or newer session is missed.
                event.clear()
                await self._caller(context)
                await asyncio.to_thread(self._check_session, merchant, request.session)
                for news in await asyncio.to_thread(self._news, merchant, sent):
                    yield news
                await self._sleep(event)
                if not event.is_set():
                    yield pb.ServerEvent(ping=pb.Ping())
        finally:
            self._desk.switchboard.hang_up(merchant, event)

    def _check_session(self, merchant: MerchantId, session: int) -> None:
        """An error rather than a quiet end: whoever is fenced off must not just register again."""
        if not self._desk.members.holds_session(merchant, session):
            raise ConflictError("a newer session of this merchant took over")

    @staticmethod
    async def _sleep(event: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(event.wait(), _PING_PERIOD_S)
        except TimeoutError:
            return

    def _news(self, merchant: str, sent: set[str]) -> list[pb.ServerEvent]:
        rows = {row.task_id: row for row in self._desk.tasks.open_for(merchant)}
        closed = self._desk.tasks.states([TaskId(name) for name in sent - rows.keys()])
        gone = [
            pb.ServerEvent(cancel=pb.Cancel(task_id=row.task_id))
            for row in closed
            if row.state == "expired"
        ]
        fresh = [
            pb.ServerEvent(task=self._task(row)) for name, row in rows.items() if name not in sent
        ]
        sent.clear()
        sent.update(rows)
        return gone + fresh

    def _task(self, row: TaskRow) -> pb.Task:
        run = self._desk.runs.get(row.run_id)
        return pb.Task(
            task_id=row.task_id,
            run_id=row.run_id,
            round=row.round_number,
            phase=_PHASES[row.phase],
            content=common.BlobRef(sha256=row.content_sha256, size_bytes=row.content_bytes),
            context=self._context(run.context_sha256),
            signed_plan=run.signed_plan,
            time_left_ms=max(0, int((row.deadline - time.time()) * 1000)),
        )

    def _context(self, sha256: str | None) -> common.BlobRef | None:
        if sha256 is None:
            return None
        return common.BlobRef(sha256=sha256, size_bytes=self._desk.blobs.size(Sha256(sha256)))

    def _may_fetch(self, merchant: MerchantId, task_id: str, sha: Sha256) -> bool:
        row = self._desk.tasks.find(task_id, merchant)
        if row is None:
            return False
        return sha in (row.content_sha256, self._desk.runs.get(row.run_id).context_sha256)

    @streaming
    async def Download(
        self, request: pb.DownloadRequest, context: Any
    ) -> AsyncIterator[common.Chunk]:
        """See federation.proto."""
        merchant = await self._caller(context)
        sha = check_sha256(request.sha256)
        if not await asyncio.to_thread(self._may_fetch, merchant, request.task_id, sha):
            raise NotFoundError("no task of this merchant names that blob")
        pieces = self._desk.blobs.chunks(Sha256(sha), request.offset_bytes)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            await self._caller(context)  # an open stream outlives a revocation
            yield common.Chunk(data=piece)

    async def _slot(self, context: Any, task_id: str, blob: common.BlobRef) -> Slot:
        merchant = await self._caller(context)
        if await asyncio.to_thread(self._desk.tasks.find, task_id, merchant) is None:
            raise NotFoundError("there is no such task for this merchant")
        return Slot.checked(merchant, task_id, blob.sha256, blob.size_bytes)

    @unary
    async def UploadStatus(self, request: pb.UploadStatusRequest, context: Any) -> pb.UploadState:
        """See federation.proto."""
        slot = await self._slot(context, request.task_id, request.blob)
        return await asyncio.to_thread(self._state, slot)

    @unary
    async def Upload(
        self, request: AsyncIterator[pb.UploadMessage], context: Any
    ) -> pb.UploadState:
        """See federation.proto."""
        await self._caller(context)  # before anything is read
        header = (await _first(request)).header
        slot = await self._slot(context, header.task_id, header.blob)
        append = await asyncio.to_thread(self._desk.uploads.begin, slot, header.offset_bytes)
        async for message in request:
            await self._caller(context)
            await asyncio.to_thread(append, message.chunk.data)
        await asyncio.to_thread(self._desk.uploads.finish, slot)
        return await asyncio.to_thread(self._state, slot)

    def _state(self, slot: Slot) -> pb.UploadState:
        uploads = self._desk.uploads
        return pb.UploadState(offset_bytes=uploads.offset(slot), complete=uploads.is_complete(slot))

    @unary
    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteReply:
        """See federation.proto."""
        merchant = await self._caller(context)
        reply = await asyncio.to_thread(self._complete, merchant, request)
        self._desk.switchboard.announce()
        return reply

    def _complete(self, merchant: MerchantId, request: pb.CompleteRequest) -> pb.CompleteReply:
        desk = self._desk
        if not desk.members.holds_session(merchant, request.session):
            return self._reply(merchant, pb.ACKNOWLEDGEMENT_FENCED)
        desk.ledgers.accept(merchant, request.ledger_entries)
        task = desk.tasks.find(request.task_id, merchant)
        if task is None:
            return self._reply(merchant, pb.ACKNOWLEDGEMENT_UNKNOWN)
        if request.WhichOneof("result") == "refusal":
            outcome = desk.tasks.complete(request.task_id, merchant, _refusal(request.refusal))
            return self._reply(merchant, _ACKNOWLEDGEMENTS[outcome])
        slot = Slot.checked(
            merchant, request.task_id, request.content.sha256, request.content.size_bytes
        )
        if not desk.uploads.is_complete(slot):
            return self._reply(merchant, pb.ACKNOWLEDGEMENT_MISSING_BLOB)
        desk.ledgers.check_booked(task, desk.runs.get(task.run_id), slot.sha256)
        result = Result(sha256=slot.sha256, size_bytes=slot.size_bytes)
        return self._reply(
            merchant, _ACKNOWLEDGEMENTS[desk.tasks.complete(request.task_id, merchant, result)]
        )

    def _reply(self, merchant: MerchantId, acknowledgement: pb.Acknowledgement) -> pb.CompleteReply:
        position = self._desk.ledgers.next_position(merchant)
        return pb.CompleteReply(acknowledgement=acknowledgement, next_ledger_position=position)


def _refusal(refusal: pb.Refusal) -> Result:
    reason = _REASONS.get(refusal.reason)
    if reason is None:
        raise InvalidInputError("a refusal needs a reason")
    return Result(reason=reason, sentence=refusal.sentence[:_MAX_SENTENCE])


async def _first(stream: AsyncIterator[pb.UploadMessage]) -> pb.UploadMessage:
    async for message in stream:
        if message.WhichOneof("part") == "header":
            return message
        break
    raise InvalidInputError("an upload begins with its header")


def bind(server: grpc.aio.Server, desk: Desk) -> None:
    """Adds the service to a server."""
    rpc.add_FederationServicer_to_server(FederationService(desk), server)
