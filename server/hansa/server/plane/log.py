"""The service of the transparency log: checkpoints, proofs, entries and packs, for reading only."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.identity import Role
from hansa.core.ids import RunId
from hansa.core.storage import CHUNK_BYTES
from hansa.core.transparency.merkle import HASH_BYTES, MAX_SIZE
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import log_pb2 as pb
from hansa.protos.v1 import log_pb2_grpc as rpc
from hansa.server.evidence import EvidenceDesk
from hansa.server.plane.peer import Gate, Peer
from hansa.server.plane.status import streaming, unary
from hansa.server.state.auditors import Auditors
from hansa.server.state.members import Members
from hansa.server.state.runs import UNFINISHED, Runs
from hansa.server.transparency.store import LogStore

MAX_WANTED: Final = 64
MAX_ENTRIES: Final = 1000
_MAX_REPLY_BYTES = 3 << 20
_MAX_READERS = 16
_PACKS_AT_ONCE = 1

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class LogDesk:
    """What the service works with."""

    gate: Gate
    members: Members
    auditors: Auditors
    runs: Runs
    store: LogStore
    evidence: EvidenceDesk

    def check_reader(self, peer: Peer) -> None:
        """Members, auditors and the operator may read the log.

        Raises:
            UnauthorisedError: the caller is none of them, or no longer.
        """
        match peer.identity.role:
            case Role.MERCHANT:
                self.members.check_member(peer.identity.name, peer.certificate_der)
            case Role.AUDITOR:
                self.auditors.check(peer.identity.name, peer.certificate_der)
            case Role.OPERATOR:
                pass
            case role:
                raise UnauthorisedError(f"the log is not for the role {role}")

    def check_pack_reader(self, peer: Peer) -> None:
        """Auditors and the operator may read the packs, which hold other merchants' ledgers.

        Raises:
            UnauthorisedError: the caller is neither, or no longer.
        """
        if peer.identity.role is Role.MERCHANT:
            raise UnauthorisedError("packs are for auditors and the operator")
        self.check_reader(peer)


class LogService(rpc.TransparencyLogServicer):
    """See log.proto for what each call does."""

    def __init__(self, desk: LogDesk) -> None:
        self._desk = desk
        self._readers = asyncio.Semaphore(_MAX_READERS)
        self._packers = asyncio.Semaphore(_PACKS_AT_ONCE)

    async def _read(
        self,
        context: Any,
        work: Callable[[], _Value],
        check: Callable[[Peer], None] | None = None,
    ) -> _Value:
        """Who calls, and what it asks for, in one thread; only so many at a time."""
        peer = self._desk.gate.caller(context)
        allowed = check or self._desk.check_reader

        def checked() -> _Value:
            allowed(peer)
            return work()

        async with self._readers:
            return await asyncio.to_thread(checked)

    @unary
    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> pb.CheckpointReply:
        """See log.proto."""
        note = await self._read(context, self._desk.store.note)
        return pb.CheckpointReply(note=note)

    @unary
    async def Consistency(
        self, request: pb.ConsistencyRequest, context: Any
    ) -> pb.ConsistencyReply:
        """See log.proto."""
        return await self._read(context, lambda: self._consistency(request))

    def _consistency(self, request: pb.ConsistencyRequest) -> pb.ConsistencyReply:
        wanted = _wanted(request.leaf_hashes)
        return pb.ConsistencyReply(
            proof=self._desk.store.consistency(request.first, request.second),
            inclusions=self._inclusions(wanted, request.second),
        )

    @unary
    async def Inclusion(self, request: pb.InclusionRequest, context: Any) -> pb.InclusionReply:
        """See log.proto."""
        proofs = await self._read(
            context, lambda: self._inclusions(_wanted(request.leaf_hashes), request.size)
        )
        return pb.InclusionReply(inclusions=proofs)

    def _inclusions(self, wanted: list[bytes], size: int) -> list[pb.InclusionProof]:
        if not wanted:
            return []
        proven = self._desk.store.inclusions(wanted, size)
        return [
            pb.InclusionProof(found=True, index=proven[one].index, path=proven[one].proof)
            if one in proven
            else pb.InclusionProof()
            for one in wanted
        ]

    @unary
    async def Entries(self, request: pb.EntriesRequest, context: Any) -> pb.EntriesReply:
        """See log.proto."""
        bodies = await self._read(context, lambda: self._bodies(request.first, request.count))
        return pb.EntriesReply(leaves=_fitting(bodies))

    def _bodies(self, first: int, count: int) -> list[bytes]:
        if not 1 <= count <= MAX_ENTRIES or first > MAX_SIZE:
            raise InvalidInputError(f"ask for 1 to {MAX_ENTRIES} entries of the log at a time")
        return self._desk.store.bodies(first, first + count)

    @unary
    async def Packs(self, request: pb.PacksRequest, context: Any) -> pb.PackList:
        """See log.proto."""
        rows = await self._read(context, self._desk.runs.newest_first, self._desk.check_pack_reader)
        ended = [row.run_id for row in reversed(rows) if row.state not in UNFINISHED]
        return pb.PackList(run_ids=ended)

    @streaming
    async def Pack(self, request: pb.PackRequest, context: Any) -> AsyncIterator[common.Chunk]:
        """See log.proto. A pack is made in memory: one at a time."""
        async with self._packers:
            pack = await self._read(
                context,
                lambda: self._desk.evidence.pack(RunId(request.run_id)),
                self._desk.check_pack_reader,
            )
            for start in range(0, len(pack), CHUNK_BYTES):
                yield common.Chunk(data=pack[start : start + CHUNK_BYTES])


def _wanted(hashes: Sequence[bytes]) -> list[bytes]:
    if len(hashes) > MAX_WANTED or any(len(one) != HASH_BYTES for one in hashes):
        raise InvalidInputError(
            f"ask for at most {MAX_WANTED} entries at a time, each by its SHA-256 leaf hash"
        )
    return list(hashes)


def _fitting(bodies: list[bytes]) -> list[bytes]:
    """As many as fit into a message, at least one."""
    kept, size = 0, 0
    for body in bodies:
        size += len(body)
        if kept and size > _MAX_REPLY_BYTES:
            break
        kept += 1
    return bodies[:kept]
