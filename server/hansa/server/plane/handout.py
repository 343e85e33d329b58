"""Tasks as they are handed out, to clients of this version of the wire and of the one before."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from hansa.core.content import Content
from hansa.core.errors import NotFoundError
from hansa.core.ids import Sha256
from hansa.core.secure.protocol import KEYS, SHARES, SURVIVORS, TRAIN, UNMASK
from hansa.core.storage import INLINE_BYTES, BlobStore
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.state.batches import Batches
from hansa.server.state.members import Members
from hansa.server.state.runs import Runs
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import Tasks

SETTINGS_SINCE_MINOR = 1
"""Clients from this minor version on take a task's settings apart from its content."""

_PHASES = {
    TRAIN: pb.PHASE_TRAIN,
    "evaluate": pb.PHASE_EVALUATE,
    KEYS: pb.PHASE_KEYS,
    SHARES: pb.PHASE_SHARES,
    SURVIVORS: pb.PHASE_SURVIVORS,
    UNMASK: pb.PHASE_UNMASK,
    "query": pb.PHASE_QUERY,
}


class Handout:
    """Makes the messages of a subscription, and knows which blobs they let a merchant fetch."""

    def __init__(
        self,
        tasks: Tasks,
        runs: Runs,
        blobs: BlobStore,
        members: Members,
        checkpoint: Callable[[], bytes] = bytes,
    ) -> None:
        """Takes the server's books; ``checkpoint`` gives the newest one of its log, if any."""
        self._tasks = tasks
        self._checkpoint = checkpoint
        self._members = members
        self._runs = runs
        self._blobs = blobs
        self._lock = threading.Lock()
        self._whole: dict[tuple[str, bytes], Sha256] = {}
        self._handed: Batches[tuple[str, int]] = Batches(tasks.note_handed_out)

    def news(
        self, merchant: str, request: pb.SubscribeRequest, sent: set[str]
    ) -> list[pb.ServerEvent]:
        """What changed for a merchant since the last look.

        Args:
            merchant: whose tasks.
            request: of the subscription.
            sent: ids of the open tasks that this subscription has seen; brought up to date.
        """
        rows = self._tasks.open_for(merchant, sent)
        at_work = {row.task_id for row in rows if row.state == "open"}
        gone = [_cancel(row) for row in rows if row.task_id not in at_work]
        fresh = [row for row in rows if row.task_id in at_work - sent]
        events = [pb.ServerEvent(task=self._task(row, request.protocol_minor)) for row in fresh]
        sent.clear()
        sent.update(at_work)
        return gone + events

    def note(self, events: Sequence[pb.ServerEvent], session: int) -> None:
        """Counts the tasks among what was handed out, and to whom."""
        for event in events:
            if event.HasField("task"):
                self._handed.add((event.task.task_id, session))

    def _task(self, row: TaskRow, minor: int) -> pb.Task:
        run = self._runs.terms(row.run_id)
        apart = minor >= SETTINGS_SINCE_MINOR
        content = self._ref(Sha256(row.content_sha256) if apart else self._whole_of(row))
        return pb.Task(
            task_id=row.task_id,
            run_id=row.run_id,
            round=row.round_number,
            phase=_PHASES[row.phase],
            content=content,
            content_data=self._small(content) if apart else b"",
            settings=(row.settings or b"") if apart else b"",
            context=None if run.context_sha256 is None else self._ref(Sha256(run.context_sha256)),
            signed_plan=run.signed_plan,
            time_left_ms=max(0, int((row.deadline - time.time()) * 1000)),
            node_id=self._members.node_id(row.merchant),
            checkpoint=self._checkpoint(),
        )

    def _small(self, ref: common.BlobRef) -> bytes:
        """The blob's bytes where they travel with the task; a damaged one is left to a download."""
        if ref.size_bytes <= INLINE_BYTES:
            with suppress(NotFoundError):
                return self._blobs.read(Sha256(ref.sha256))
        return b""

    def _ref(self, sha: Sha256) -> common.BlobRef:
        return common.BlobRef(sha256=sha, size_bytes=self._blobs.size(sha))

    def may_fetch(self, row: TaskRow, sha: Sha256) -> bool:
        """Whether a task names this blob."""
        if sha in (row.content_sha256, self._runs.terms(row.run_id).context_sha256):
            return True
        with self._lock:
            return self._whole.get((row.content_sha256, row.settings or b"")) == sha

    def _whole_of(self, row: TaskRow) -> Sha256:
        """Content and settings as one blob, made when a client of 1.0 first needs it."""
        if not row.settings:
            return Sha256(row.content_sha256)
        key = (row.content_sha256, row.settings)
        with self._lock:
            if key not in self._whole or not self._blobs.has(self._whole[key]):
                content = Content.open(self._blobs.checked(Sha256(row.content_sha256)))
                parts: Sequence[Content] = (content, Content.from_bytes(row.settings))
                self._whole[key] = self._blobs.write(Content.merged(parts).pieces())
            return self._whole[key]


def _cancel(row: TaskRow) -> pb.ServerEvent:
    return pb.ServerEvent(cancel=pb.Cancel(task_id=row.task_id))
