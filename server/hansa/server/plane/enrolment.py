"""The service by which a merchant becomes a member."""

import asyncio
import time
from typing import Any

from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.identity import Role
from hansa.core.wire_version import WIRE
from hansa.protos.v1 import enrolment_pb2 as pb
from hansa.protos.v1 import enrolment_pb2_grpc as rpc
from hansa.server.authority import Authority
from hansa.server.plane.leaving import LeaveDesk
from hansa.server.plane.peer import Gate, Peer
from hansa.server.plane.status import unary
from hansa.server.plane.version import SOFTWARE, agreed_minor
from hansa.server.state.journal import Journal
from hansa.server.state.members import Joining, Members

_ED25519_KEY_BYTES = 32
_LEAVERS_AT_ONCE = 1
"""A receipt is read out of the whole log, in memory."""


class EnrolmentService(rpc.EnrolmentServicer):
    """Invitations in, certificates out."""

    def __init__(
        self,
        gate: Gate,
        members: Members,
        authority: Authority,
        journal: Journal,
        leaving: LeaveDesk,
    ) -> None:
        self._gate = gate
        self._members = members
        self._authority = authority
        self._journal = journal
        self._leaving = leaving
        self._leavers = asyncio.Semaphore(_LEAVERS_AT_ONCE)

    @unary
    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.Membership:
        """See enrolment.proto."""
        peer = self._gate.peer(context, Role.INVITATION)
        agreed_minor(request.protocol, request.protocol_minor)
        if len(request.ledger_public_key) != _ED25519_KEY_BYTES:
            raise InvalidInputError("the ledger's public key must be 32 bytes of Ed25519")
        return await asyncio.to_thread(self._join, peer, request)

    @unary
    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.Membership:
        """See enrolment.proto."""
        merchant = await asyncio.to_thread(self._gate.arriving, context)
        certificate, expires = self._authority.certify(merchant, request.csr_der)
        await asyncio.to_thread(self._members.renew, merchant, certificate, expires)
        return self._membership(merchant, certificate)

    @unary
    async def Enquire(self, request: pb.EnquireRequest, context: Any) -> pb.ServerFacts:
        """See enrolment.proto."""
        await asyncio.to_thread(self._gate.merchant, context)
        agreed_minor(request.protocol, request.protocol_minor)
        return pb.ServerFacts(
            protocol_minor=WIRE.minor,
            server_time_unix_ms=time.time_ns() // 1_000_000,
            software=SOFTWARE,
        )

    @unary
    async def Leave(self, request: pb.LeaveRequest, context: Any) -> pb.LeaveReply:
        """See enrolment.proto."""
        peer = self._gate.peer(context, Role.MERCHANT)
        caller = (peer.identity.name, peer.certificate_der)
        async with self._leavers:
            receipt = await asyncio.to_thread(
                self._leaving.leave, *caller, request.remedy, request.notice
            )
        return pb.LeaveReply(receipt=receipt)

    def _join(self, peer: Peer, request: pb.JoinRequest) -> pb.Membership:
        """A lost reply may be asked for again: the same request gets the same certificate."""
        name = peer.identity.name
        digest = sha256_hex(request.csr_der)
        row = self._members.check_invitation(name, peer.serial, digest)
        if row.certificate_der is not None:
            return self._membership(name, row.certificate_der)
        if row.ledger_public_key not in (None, request.ledger_public_key):
            raise UnauthorisedError(
                "this merchant was a member with another ledger; "
                "join again from its old site folder"
            )
        certificate, expires = self._authority.certify(name, request.csr_der)
        joining = Joining(
            request_sha256=digest,
            certificate_der=certificate,
            certificate_expires=expires,
            ledger_public_key=request.ledger_public_key,
        )
        self._members.join(name, joining)
        self._journal.note("joined", merchant=name)
        return self._membership(name, certificate)

    def _membership(self, name: str, certificate_der: bytes) -> pb.Membership:
        return pb.Membership(
            merchant=name,
            certificate_der=certificate_der,
            plan_public_key=self._authority.plan_public_key,
            tuf_root=self._authority.tuf_root,
            takes_contracts=True,
        )
