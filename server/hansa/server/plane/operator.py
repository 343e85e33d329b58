"""The operator's service: invitations, members, runs and evidence; for the operator role only."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from hansa.core.canonical import parse_json
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.flower_plan import parse_any_plan
from hansa.core.identity import Role
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.storage import CHUNK_BYTES, BlobStore
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import operator_pb2 as pb
from hansa.protos.v1 import operator_pb2_grpc as rpc
from hansa.server.authority import Authority
from hansa.server.evidence import EvidenceDesk
from hansa.server.launch import Launcher
from hansa.server.plane.auditing import AuditDesk
from hansa.server.plane.leaving import LeaveDesk
from hansa.server.plane.peer import Gate
from hansa.server.plane.standing import OpenStreams
from hansa.server.plane.status import streaming, unary
from hansa.server.scheduler import watch_plan
from hansa.server.settings import ServerSettings
from hansa.server.state.journal import Journal
from hansa.server.state.members import Members
from hansa.server.state.runs import RoundRecord, Runs
from hansa.server.state.schedules import Schedules
from hansa.server.state.tables import MerchantRow, RunRow, ScheduleRow
from hansa.server.state.tasks import Tasks
from hansa.server.switchboard import Switchboard

_MAX_INVITATION_HOURS = 720


@dataclass(frozen=True, kw_only=True)
class Office:
    """What the service works with."""

    gate: Gate
    streams: OpenStreams
    blobs: BlobStore
    settings: ServerSettings
    authority: Authority
    members: Members
    runs: Runs
    tasks: Tasks
    journal: Journal
    evidence: EvidenceDesk
    switchboard: Switchboard
    launcher: Launcher
    schedules: Schedules
    auditing: AuditDesk
    leaving: LeaveDesk


class OperatorService(rpc.OperatorServicer):
    """See operator.proto for what each call does."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def _check(self, context: Any) -> None:
        self._office.gate.peer(context, Role.OPERATOR)

    @unary
    async def Invite(self, request: pb.InviteRequest, context: Any) -> pb.Invitation:
        """See operator.proto."""
        self._check(context)
        return await asyncio.to_thread(self._invite, request)

    def _invite(self, request: pb.InviteRequest) -> pb.Invitation:
        office = self._office
        if not 1 <= request.valid_for_hours <= _MAX_INVITATION_HOURS:
            raise InvalidInputError(
                f"an invitation is valid for 1 to {_MAX_INVITATION_HOURS} hours"
            )
        merchant = _merchant_name(request.merchant)
        valid_for = dt.timedelta(hours=request.valid_for_hours)
        invitation, serial, expires = office.authority.invite(
            merchant, office.settings.address, valid_for
        )
        office.members.invite(merchant, serial=serial, expires=expires)
        office.journal.note("invited", merchant=merchant)
        return pb.Invitation(token=invitation.to_token(), expires_unix_s=int(expires))

    @unary
    async def ListMerchants(
        self, request: pb.ListMerchantsRequest, context: Any
    ) -> pb.MerchantList:
        """See operator.proto."""
        self._check(context)
        rows = await asyncio.to_thread(self._office.members.everyone)
        return pb.MerchantList(merchants=[self._merchant(row) for row in rows])

    @unary
    async def RevokeMerchant(
        self, request: pb.RevokeMerchantRequest, context: Any
    ) -> pb.MerchantInfo:
        """See operator.proto."""
        self._check(context)
        revoked = await asyncio.to_thread(self._revoke, request.merchant)
        await self._office.streams.check()  # cut off when this returns, not a second later
        return revoked

    def _revoke(self, merchant: str) -> pb.MerchantInfo:
        office = self._office
        office.members.revoke(merchant)
        office.tasks.expire_merchant(merchant)
        office.journal.note("revoked", merchant=merchant)
        office.switchboard.wake(merchant)
        office.switchboard.announce()
        return pb.MerchantInfo(merchant=merchant, state="revoked")

    def _merchant(self, row: MerchantRow) -> pb.MerchantInfo:
        return pb.MerchantInfo(
            merchant=row.name,
            state=row.state,
            online=self._office.members.is_online(row),
            software=row.software,
            certificate_expires_unix_s=int(row.certificate_expires or 0),
            serving_version=row.serving_version,
        )

    @unary
    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.RunInfo:
        """See operator.proto."""
        self._check(context)
        return await asyncio.to_thread(self._start, request.plan_json)

    def _start(self, plan_json: bytes) -> pb.RunInfo:
        plan = parse_any_plan(parse_json(plan_json, "the plan"), "the plan")
        run_id = self._office.launcher.launch(plan, why="the operator's command")
        return _run(self._office.runs.get(run_id), [])

    @unary
    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.RunInfo:
        """See operator.proto."""
        self._check(context)
        return await asyncio.to_thread(self._stop, request.run_id)

    def _stop(self, run_id: str) -> pb.RunInfo:
        office = self._office
        for merchant in office.runs.request_stop(run_id):
            office.switchboard.wake(merchant)
        office.journal.note("stop requested", run=run_id)
        office.switchboard.announce()
        return self._get(run_id)

    @unary
    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.RunInfo:
        """See operator.proto."""
        self._check(context)
        return await asyncio.to_thread(self._get, request.run_id)

    def _get(self, run_id: str) -> pb.RunInfo:
        return _run(self._office.runs.get(run_id), self._office.runs.rounds(run_id))

    @unary
    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.RunList:
        """See operator.proto."""
        self._check(context)
        return await asyncio.to_thread(self._list)

    def _list(self) -> pb.RunList:
        runs = self._office.runs
        return pb.RunList(
            runs=[_run(row, runs.rounds(row.run_id), detailed=False) for row in runs.newest_first()]
        )

    @unary
    async def AddSchedule(self, request: pb.AddScheduleRequest, context: Any) -> pb.ScheduleInfo:
        """See operator.proto."""
        self._check(context)
        return await asyncio.to_thread(self._add_schedule, request)

    def _add_schedule(self, request: pb.AddScheduleRequest) -> pb.ScheduleInfo:
        plan = parse_plan(parse_json(request.plan_json, "the plan"), "the plan")
        drift = _drift(request.drift, plan)
        name = _merchant_name(request.name, "a schedule")
        row = self._office.schedules.add(name, plan, request.cron, drift=drift)
        self._office.journal.note("schedule added", schedule=name, cron=request.cron)
        return _schedule(row)

    @unary
    async def ListSchedules(
        self, request: pb.ListSchedulesRequest, context: Any
    ) -> pb.ScheduleList:
        """See operator.proto."""
        self._check(context)
        rows = await asyncio.to_thread(self._office.schedules.everything)
        return pb.ScheduleList(schedules=[_schedule(row) for row in rows])

    @unary
    async def RemoveSchedule(
        self, request: pb.RemoveScheduleRequest, context: Any
    ) -> pb.ScheduleInfo:
        """See operator.proto."""
        self._check(context)
        await asyncio.to_thread(self._office.schedules.remove, request.name)
        note = self._office.journal.note
        await asyncio.to_thread(note, "schedule removed", schedule=request.name)
        return pb.ScheduleInfo(name=request.name)

    @unary
    async def AdmitAuditor(self, request: pb.AdmitAuditorRequest, context: Any) -> pb.AuditorGrant:
        """See operator.proto."""
        self._check(context)
        name = _merchant_name(request.name, "an auditor")
        grant = await asyncio.to_thread(self._office.auditing.admit, name, request)
        self._office.switchboard.announce()
        return grant

    @unary
    async def DismissAuditor(
        self, request: pb.DismissAuditorRequest, context: Any
    ) -> pb.DismissAuditorReply:
        """See operator.proto."""
        self._check(context)
        await asyncio.to_thread(self._office.auditing.dismiss, request.name)
        self._office.switchboard.announce()
        return pb.DismissAuditorReply()

    @unary
    async def TakeNotice(self, request: pb.TakeNoticeRequest, context: Any) -> pb.TakeNoticeReply:
        """See operator.proto."""
        self._check(context)
        receipt = await asyncio.to_thread(self._office.leaving.take_notice, request.notice)
        await self._office.streams.check()
        return pb.TakeNoticeReply(receipt=receipt)

    @unary
    async def ListObligations(
        self, request: pb.ListObligationsRequest, context: Any
    ) -> pb.ObligationList:
        """See operator.proto."""
        self._check(context)
        found = await asyncio.to_thread(self._office.leaving.obligations)
        return pb.ObligationList(obligations=found)

    @streaming
    async def ExportArrays(
        self, request: pb.ExportArraysRequest, context: Any
    ) -> AsyncIterator[common.Chunk]:
        """See operator.proto."""
        self._check(context)
        office = self._office
        pieces = await asyncio.to_thread(_last_arrays, office.runs, office.blobs, request.run_id)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield common.Chunk(data=piece)

    @streaming
    async def ExportPack(
        self, request: pb.ExportPackRequest, context: Any
    ) -> AsyncIterator[common.Chunk]:
        """See operator.proto."""
        self._check(context)
        pack = await asyncio.to_thread(self._office.evidence.pack, RunId(request.run_id))
        for start in range(0, len(pack), CHUNK_BYTES):
            yield common.Chunk(data=pack[start : start + CHUNK_BYTES])


def _drift(drift: float, plan: RunPlan) -> float | None:
    """The fall that begins a run; a plan that could not be watched is refused now, not at night."""
    if not 0.0 <= drift <= 1.0:
        raise InvalidInputError("the drift is a fall of recall@10: above 0, at most 1")
    if drift == 0.0:
        return None
    watch_plan(plan)
    return drift


def _schedule(row: ScheduleRow) -> pb.ScheduleInfo:
    return pb.ScheduleInfo(
        name=row.name,
        plan_name=str(row.plan["name"]),
        cron=row.cron,
        drift=row.drift or 0.0,
        next_due_unix_s=int(row.next_due),
        last_run=row.last_run,
    )


def _last_arrays(runs: Runs, blobs: BlobStore, run_id: str) -> Iterator[bytes]:
    runs.get(run_id)
    kept = [one.aggregate_sha256 for one in runs.rounds(run_id) if one.aggregate_sha256]
    if not kept:
        raise NotFoundError(f"run {run_id} has kept no arrays; look at it with 'run show'")
    return blobs.chunks(kept[-1], 0)


def _merchant_name(text: str, what: str = "a merchant") -> MerchantId:
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789-"
    if not 1 <= len(text) <= 63 or text[0] == "-" or any(letter not in allowed for letter in text):
        raise InvalidInputError(
            f"{what} is named by 1 to 63 lower-case letters, digits and hyphens"
        )
    return MerchantId(text)


def _run(row: RunRow, rounds: list[RoundRecord], *, detailed: bool = True) -> pb.RunInfo:
    return pb.RunInfo(
        run_id=row.run_id,
        plan_name=row.plan_name,
        plan_digest=row.plan_digest,
        state=row.state,
        sentence=row.sentence,
        rounds_done=sum(bool(record.cohort) for record in rounds),
        rounds_planned=_planned(row.plan),
        rounds=[_round(record) for record in rounds if record.cohort] if detailed else [],
        release_version=row.release_version,
        parent_version=row.parent_version,
        evaluation_json=json.dumps(row.evaluation or {}),
    )


def _planned(plan: dict[str, Any]) -> int:
    """A Flower app sets its rounds itself; by Flower's custom they are in this setting."""
    if "federation" in plan:
        return int(plan["federation"]["rounds"])
    rounds = plan["config"].get("num-server-rounds", 0)
    return rounds if isinstance(rounds, int) and rounds > 0 else 0


def _round(record: RoundRecord) -> pb.RoundInfo:
    return pb.RoundInfo(
        round=record.number,
        cohort=record.cohort,
        accepted=list(record.accepted),
        refused=[
            pb.RefusedTask(merchant=name, reason=refusal.reason, sentence=refusal.sentence)
            for name, refusal in record.refused.items()
        ],
        seconds=record.seconds,
        down_bytes=record.down_bytes,
        up_bytes=record.up_bytes,
    )
