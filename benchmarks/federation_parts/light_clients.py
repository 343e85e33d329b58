"""Many merchants in one process, each with a real certificate, session and ledger, but no model.

``python -m benchmarks.federation_parts.light_clients --payload full SITE [SITE ...]`` answers every
task until a signal ends it. A light client hashes what it downloads and forgets it; its update is
one buffer that all of the process share, but for the first value, so that 64 of them need no 64
models of memory. The server cannot tell it from the real one. Merchants have machines of their own:
here their processes give way to the server's, at the lowest priority.
"""

import argparse
import datetime as dt
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from benchmarks.federation_parts.payload import PAYLOADS, reply
from benchmarks.federation_parts.processes import die_with_parent
from hansa.client.channel import CALL_TIMEOUT_S, TRANSFER_TIMEOUT_S, open_channel
from hansa.client.ledger_store import LedgerStore
from hansa.client.site import Site
from hansa.core.evidence import PLAN_DOMAIN
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.plan import parse_plan
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.quiet import stay_offline
from hansa.core.signing import Signed
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc

_log = logging.getLogger(__name__)

_STREAM_S = 3_600.0


@dataclass(frozen=True, kw_only=True)
class Update:
    """A content file that differs from its fellows in the first value of its arrays."""

    head: bytes
    rest: memoryview

    @property
    def ref(self) -> common.BlobRef:
        """Digest and length."""
        hasher = hashlib.sha256(self.head)
        hasher.update(self.rest)
        size = len(self.head) + len(self.rest)
        return common.BlobRef(sha256=hasher.hexdigest(), size_bytes=size)

    def pieces(self, offset: int, size: int) -> Iterator[bytes]:
        """The bytes from ``offset`` on, in pieces of ``size`` bytes; the offset is 0 or whole."""
        if offset < len(self.head):
            yield from (self.head[at : at + size] for at in range(offset, len(self.head), size))
            offset = len(self.head)
        for at in range(offset - len(self.head), len(self.rest), size):
            yield bytes(self.rest[at : at + size])


class Updates:
    """Every merchant's updates over one buffer."""

    def __init__(self, payload: str) -> None:
        data = reply(PAYLOADS[payload].model(), "m-0", 1)
        self._start = 8 + int.from_bytes(data[:8], "little")
        """Where the file's values begin: after the length of the header and the header."""
        self._cut = min(CHUNK_BYTES, len(data))
        self._head, self._rest = data[: self._cut], memoryview(data)[self._cut :]

    def of(self, merchant: str, round_number: int) -> Update:
        """A merchant's update of a round."""
        number = int(merchant.rpartition("-")[2])
        value = np.float32(1 + number / 1024 + round_number / 64).tobytes()
        head = self._head[: self._start] + value + self._head[self._start + 4 :]
        return Update(head=head, rest=self._rest)


class LightClient:
    """One merchant."""

    def __init__(self, site: Site, updates: Updates) -> None:
        self._site = site
        self._updates = updates
        credentials = site.credentials()
        self._channel = open_channel(
            site.settings().server_address,
            authority_pem=site.authority_pem(),
            key_pem=credentials.key_pem,
            certificate_pem=credentials.certificate_pem,
        )
        self._stub = rpc.FederationStub(self._channel)
        self._session = pb.Session()

    def run(self) -> None:
        """Answers tasks until the process ends."""
        self._session = self._stub.Register(
            pb.RegisterRequest(protocol="1"), timeout=CALL_TIMEOUT_S
        )
        threading.Thread(target=self._beat, daemon=True).start()
        request = pb.SubscribeRequest(session=self._session.session)
        with LedgerStore.open(self._site.ledger) as store:
            for event in self._stub.Subscribe(request, timeout=_STREAM_S):
                if event.WhichOneof("event") == "task":
                    self._answer(event.task, store)

    def _beat(self) -> None:
        request = pb.HeartbeatRequest(session=self._session.session)
        pause = threading.Event()
        while not pause.wait(self._session.heartbeat_period_ms / 2000):
            try:
                self._stub.Heartbeat(request, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                _log.warning("heartbeat: %s", error)

    def _answer(self, task: pb.Task, store: LedgerStore) -> None:
        self._download(task)
        update = self._updates.of(self._site.path.name, task.round)
        ref = update.ref
        self._book(task, store, Sha256(ref.sha256))
        self._upload(task.task_id, update, ref)
        entries = store.ledger.entries[self._session.next_ledger_position :]
        request = pb.CompleteRequest(
            task_id=task.task_id,
            session=self._session.session,
            content=ref,
            ledger_entries=b"".join(entry.to_bytes() + b"\n" for entry in entries),
        )
        done = self._stub.Complete(request, timeout=CALL_TIMEOUT_S)
        self._session.next_ledger_position = done.next_ledger_position
        if done.acknowledgement != pb.ACKNOWLEDGEMENT_ACCEPTED:
            _log.error("%s: %s", task.task_id, done)

    def _download(self, task: pb.Task) -> None:
        hasher = hashlib.sha256()
        request = pb.DownloadRequest(task_id=task.task_id, sha256=task.content.sha256)
        for chunk in self._stub.Download(request, timeout=TRANSFER_TIMEOUT_S):
            hasher.update(chunk.data)
        if hasher.hexdigest() != task.content.sha256:
            raise ValueError("the model is not what the task names")

    def _book(self, task: pb.Task, store: LedgerStore, sha256: Sha256) -> None:
        payload = Signed.parse(task.signed_plan, "the plan").verify(PLAN_DOMAIN)
        plan = parse_plan(payload, "the plan")
        now = dt.datetime.now(dt.UTC)
        store.reserve(
            TaskId(task.task_id),
            plan_digest=plan.digest,
            run=RunId(task.run_id),
            round_number=task.round,
            phase="train",
            events=[PrivacyPlan.of(plan).round_event()],
            now=now,
        )
        store.commit(TaskId(task.task_id), sha256=sha256, now=now)

    def _upload(self, task_id: str, update: Update, ref: common.BlobRef) -> None:
        status = pb.UploadStatusRequest(task_id=task_id, blob=ref)
        state = self._stub.UploadStatus(status, timeout=CALL_TIMEOUT_S)
        header = pb.UploadHeader(task_id=task_id, blob=ref, offset_bytes=state.offset_bytes)
        size = min(getattr(state, "piece_bytes", 0) or CHUNK_BYTES, CHUNK_BYTES)

        def messages() -> Iterator[pb.UploadMessage]:
            yield pb.UploadMessage(header=header)
            for piece in update.pieces(state.offset_bytes, size):
                yield pb.UploadMessage(chunk=common.Chunk(data=piece))

        self._stub.Upload(messages(), timeout=TRANSFER_TIMEOUT_S)


def _watched(client: LightClient) -> None:
    try:
        client.run()
    except Exception:  # noqa: BLE001 - the process says why and ends
        _log.exception("a light client ended")
        os._exit(1)


def _run(sites: Sequence[Site], payload: str) -> None:
    updates = Updates(payload)
    threads = [
        threading.Thread(target=_watched, args=(LightClient(site, updates),)) for site in sites
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    die_with_parent()
    os.nice(19)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stay_offline(os.environ)
    parser = argparse.ArgumentParser(description="many light clients in one process")
    parser.add_argument("--payload", choices=sorted(PAYLOADS), default="full")
    parser.add_argument("sites", type=Path, nargs="+")
    options = parser.parse_args()
    _run([Site(path) for path in options.sites], options.payload)
