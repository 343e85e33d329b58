"""A merchant whose every call a test makes by hand, over a certificate that it really joined with.

with raw_member(federation, "harbour") as harbour, tasks_of(federation, harbour) as (task,):
    harbour.upload(task.task_id, DATA)
    harbour.complete(task, harbour.book(task, DATA))
"""

import contextlib
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from hansa.client.ledger_store import LedgerStore
from hansa.client.site import Site
from hansa.core.canonical import sha256_hex
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.ids import RunId, TaskId
from hansa.core.plan import parse_plan
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.signing import Signed
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from tests.fakes.toy_federation import toy_plan
from tests.integration.federation_harness import TIMEOUT_S, Caller, Federation


def blob(data: bytes) -> common.BlobRef:
    return common.BlobRef(sha256=sha256_hex(data), size_bytes=len(data))


def lines(entries: Sequence[Entry]) -> bytes:
    return b"".join(entry.to_bytes() + b"\n" for entry in entries)


@dataclass
class RawMember:
    """One merchant with its connection, its session and its real ledger."""

    name: str
    site: Site
    caller: Caller
    session: int = 0

    @property
    def federation(self):
        return self.caller.federation

    def register(self) -> pb.Session:
        """A new session, which becomes this member's."""
        session = self.federation.Register(pb.RegisterRequest(protocol="1"), timeout=TIMEOUT_S)
        self.session = session.session
        return session

    def subscribe(self) -> grpc.Call:
        request = pb.SubscribeRequest(session=self.session)
        return self.federation.Subscribe(request, timeout=TIMEOUT_S)

    def next_task(self, run_id: str) -> pb.Task:
        """The task that this run hands to the member."""
        stream = self.subscribe()
        try:
            for event in stream:
                if event.task.run_id == run_id:
                    return event.task
        finally:
            stream.cancel()
        raise AssertionError("the stream ended without a task")

    def download(self, task_id: str, sha: str, offset: int = 0) -> bytes:
        request = pb.DownloadRequest(task_id=task_id, sha256=sha, offset_bytes=offset)
        chunks = self.federation.Download(request, timeout=TIMEOUT_S)
        return b"".join(chunk.data for chunk in chunks)

    def upload(
        self,
        task_id: str,
        data: bytes,
        *,
        claimed: common.BlobRef | None = None,
        offset: int = 0,
    ) -> pb.UploadState:
        """Sends the data in one piece, as the blob that it is or as another."""
        ref = claimed or blob(data)
        header = pb.UploadHeader(task_id=task_id, blob=ref, offset_bytes=offset)
        messages = [
            pb.UploadMessage(header=header),
            pb.UploadMessage(chunk=common.Chunk(data=data)),
        ]
        return self.federation.Upload(iter(messages), timeout=TIMEOUT_S)

    def upload_status(self, task_id: str, ref: common.BlobRef) -> pb.UploadState:
        request = pb.UploadStatusRequest(task_id=task_id, blob=ref)
        return self.federation.UploadStatus(request, timeout=TIMEOUT_S)

    def book(self, task: pb.Task, data: bytes, *, noise: float | None = None) -> bytes:
        """Reserves the task's cost, or that of other noise, and commits the data.

        Returns the whole ledger as it is sent.
        """
        plan = parse_plan(
            Signed.parse(task.signed_plan, "the plan").verify(PLAN_DOMAIN), "the plan"
        )
        event = PrivacyPlan.of(plan).round_event()
        if noise is not None:
            event = event.model_copy(update={"noise_multiplier": noise})
        now = dt.datetime.now(dt.UTC)
        with LedgerStore.open(self.site.ledger) as store:
            store.reserve(
                TaskId(task.task_id),
                plan_digest=plan.digest,
                run=RunId(task.run_id),
                round_number=task.round,
                phase="train",
                events=[event],
                now=now,
            )
            store.commit(TaskId(task.task_id), sha256=sha256_hex(data), now=now)
        return lines(self.entries())

    def entries(self) -> tuple[Entry, ...]:
        with LedgerStore.open(self.site.ledger) as store:
            return store.ledger.entries

    def complete(
        self, task_id: str, data: bytes, entries: bytes, *, session: int | None = None
    ) -> pb.CompleteReply:
        """Closes a task with an update."""
        request = pb.CompleteRequest(
            task_id=task_id,
            session=self.session if session is None else session,
            content=blob(data),
            ledger_entries=entries,
        )
        return self.federation.Complete(request, timeout=TIMEOUT_S)

    def refuse(self, task_id: str, reason: pb.RefusalReason = pb.REFUSAL_REASON_FAILED):
        """Closes a task without one."""
        request = pb.CompleteRequest(
            task_id=task_id, session=self.session, refusal=pb.Refusal(reason=reason)
        )
        return self.federation.Complete(request, timeout=TIMEOUT_S)


@contextlib.contextmanager
def raw_member(federation: Federation, name: str) -> Iterator[RawMember]:
    """A merchant that has joined and opened its first session."""
    site = federation.join(name)
    with federation.caller(site.credentials()) as caller:
        member = RawMember(name, site, caller)
        member.register()
        yield member


@contextlib.contextmanager
def tasks_of(federation: Federation, *members: RawMember) -> Iterator[list[pb.Task]]:
    """A running round in which each member has a task; it is stopped at the end of the block."""
    for member in members:
        member.register()
    run_id = federation.launch(toy_plan(rounds=1, quorum=len(members), deadline_s=60.0))
    try:
        yield [member.next_task(run_id) for member in members]
    finally:
        stop(federation, run_id)


def stop(federation: Federation, run_id: str) -> None:
    with federation.operator() as client:
        client.stop_run(run_id)
    federation.wait_for(run_id)
