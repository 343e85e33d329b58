"""The operator's service: invitations, members, runs and evidence; for the operator role only."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from hansa.core.canonical import parse_json
from hansa.core.errors import InvalidInputError
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.identity import Role
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import parse_plan
from hansa.core.signing import sign
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import operator_pb2 as pb
from hansa.protos.v1 import operator_pb2_grpc as rpc
from hansa.server.authority import Authority
from hansa.server.evidence import EvidenceDesk
from hansa.server.plane.peer import Gate
from hansa.server.plane.status import streaming, unary
from hansa.server.settings import ServerSettings
from hansa.server.state.journal import Journal
from hansa.server.state.members import Members
from hansa.server.state.runs import RoundRecord, Runs
from hansa.server.state.tables import MerchantRow, RunRow
from hansa.server.state.tasks import Tasks
from hansa.server.switchboard import Switchboard

_MAX_INVITATION_HOURS = 720


@dataclass(frozen=True, kw_only=True)
class Office:
    """What the service works with."""

    gate: Gate
    settings: ServerSettings
    authority: Authority
    members: Members
    runs: Runs
    tasks: Tasks
    journal: Journal
    evidence: EvidenceDesk
    switchboard: Switchboard


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
        return await asyncio.to_thread(self._revoke, request.merchant)

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
        office = self._office
        plan = parse_plan(parse_json(plan_json, "the plan"), "the plan")
        if plan.model.base not in office.settings.base_models:
            known = ", ".join(office.settings.base_models)
            raise InvalidInputError(
                f"this server has no base model {plan.model.base!r}; it has: {known}"
            )
        run_id = RunId(f"{plan.name}-{office.runs.next_number():04d}")
        signed = sign(plan.model_dump(mode="json"), office.authority.plan_key, domain=PLAN_DOMAIN)
        office.runs.queue(run_id, plan, signed.to_bytes())
        office.journal.note("run queued", run=run_id, plan=plan.digest)
        office.switchboard.announce()
        return _run(office.runs.get(run_id), [])

    @unary
    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.RunInfo:
        """See operator.proto."""
        self._check(context)
        await asyncio.to_thread(self._office.runs.request_stop, request.run_id)
        await asyncio.to_thread(self._office.journal.note, "stop requested", run=request.run_id)
        self._office.switchboard.announce()
        return await asyncio.to_thread(self._get, request.run_id)

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

    @streaming
    async def ExportPack(
        self, request: pb.ExportPackRequest, context: Any
    ) -> AsyncIterator[common.Chunk]:
        """See operator.proto."""
        self._check(context)
        pack = await asyncio.to_thread(self._office.evidence.pack, RunId(request.run_id))
        for start in range(0, len(pack), CHUNK_BYTES):
            yield common.Chunk(data=pack[start : start + CHUNK_BYTES])


def _merchant_name(text: str) -> MerchantId:
    allowed = "abcdefghijklmnopqrstuvwxyz0123456789-"
    if not 1 <= len(text) <= 63 or text[0] == "-" or any(letter not in allowed for letter in text):
        raise InvalidInputError(
            "a merchant is named by 1 to 63 lower-case letters, digits and hyphens"
        )
    return MerchantId(text)


def _run(row: RunRow, rounds: list[RoundRecord], *, detailed: bool = True) -> pb.RunInfo:
    return pb.RunInfo(
        run_id=row.run_id,
        plan_name=row.plan_name,
        plan_digest=row.plan_digest,
        state=row.state,
        sentence=row.sentence,
        rounds_done=len(rounds),
        rounds_planned=row.plan["federation"]["rounds"],
        rounds=[_round(record) for record in rounds] if detailed else [],
        release_version=row.release_version,
        evaluation_json=json.dumps(row.evaluation or {}),
    )


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
