"""Flower's Grid over our gRPC plane."""

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict

from hansa.core.content import Content
from hansa.core.errors import UpdateRejectedError
from hansa.core.ids import MerchantId, RunId, Sha256, TaskId, task_id
from hansa.core.plan import FederationSpec
from hansa.core.storage import BlobStore
from hansa.server.rounds.codec import PlaneCodec
from hansa.server.rounds.flower import OPERATOR_NODE_ID, make_reply, read_records, to_content
from hansa.server.rounds.records import blob_of
from hansa.server.rounds.round_grid import FlowerRun, RoundGrid
from hansa.server.state.members import Members
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import NewTask, Tasks
from hansa.server.switchboard import Switchboard

REFUSED_CODE = 1
"""Flower's error code of a reply whose sender did not do the work."""

_TYPES = ("train", "evaluate")
_POLL_S = 0.5
_MAX_SETTINGS_BYTES = 64 << 10
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Plane:
    """What the Grid works with: the durable tasks and the way to wake their receivers."""

    members: Members
    tasks: Tasks
    blobs: BlobStore
    switchboard: Switchboard


@dataclass(frozen=True, kw_only=True)
class _Parcel:
    """A message in the blob store; ``settings`` holds what the blob lacks of it."""

    content: Sha256
    settings: bytes | None = None


class GrpcGrid(RoundGrid):
    """Hands a strategy's messages to merchants as durable tasks and collects their replies.

    Every message becomes one task whose id is ``run/round/phase/merchant``, so that pushing the
    same round again after a crash finds the tasks, and the replies, of the first time.
    """

    def __init__(
        self,
        run_id: RunId,
        plane: Plane,
        *,
        stopped: Callable[[], bool] = lambda: False,
        federation: FederationSpec | None = None,
    ) -> None:
        """Waits until ``stopped``; ``federation`` says how arrays travel, if not as they are."""
        self._run_id = run_id
        self._plane = plane
        self._stopped = stopped
        self._codec = None if federation is None else PlaneCodec(federation, plane.blobs)
        self._round = 0
        self._phase = "train"
        self._excluded: set[MerchantId] = set()
        self._present: list[int] = []
        self._node_ids: dict[MerchantId, int] = {}

    def begin(self, round_number: int, phase: str) -> None:
        """Names what the next messages belong to, and settles whom they can reach.

        Flower's strategies count the nodes twice and wait without an end, deaf to a stop, when a
        merchant went offline in between; so both counts must be the same.
        """
        self._round, self._phase = round_number, phase
        online = self._plane.members.online()
        self._present = [node for node, name in online.items() if name not in self._excluded]

    def reach(self, node_ids: Iterable[int]) -> None:
        """Lets the next messages reach exactly these merchants, online or not."""
        self._present = list(node_ids)

    def exclude(self, merchants: Iterable[MerchantId]) -> None:
        """Asks these merchants no more in this run (their budget is spent)."""
        self._excluded.update(merchants)

    @property
    def run(self) -> Any:
        """An object with Flower's ``run_id``; strategies never read it."""
        return FlowerRun(run_id=1)

    def get_node_ids(self) -> list[int]:
        """Node ids of the merchants that were online, and not excluded, when the phase began."""
        return list(self._present)

    def asked_before(self) -> list[int]:
        """Node ids of the merchants that were asked in this round by a server that broke off."""
        asked = self._plane.tasks.asked(self._run_id, self._round, self._phase)
        names = self._plane.members.names()
        return [node_id for node_id, name in names.items() if name in asked]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Writes the messages down as tasks without deadlines of their own; returns the ids."""
        return [str(task) for task in self.post(messages, timeout=_DAY_S)]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have come to the named tasks."""
        rows = self._plane.tasks.states([TaskId(name) for name in message_ids])
        return [self.reply(row) for row in rows if row.state != "open"]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Posts tasks and waits for their replies.

        Args:
            messages: one for each merchant asked.
            timeout: seconds until the tasks that are still open expire; None waits a day.

        Returns:
            A reply for each message: content, or an error with code ``REFUSED_CODE`` and a reason.
            When the run is stopped meanwhile, it returns at once and leaves the tasks as they are.
        """
        return list(self.replies(messages, timeout_s=timeout if timeout is not None else _DAY_S))

    def replies(
        self, messages: Iterable[Message], *, timeout_s: float
    ) -> Generator[Message, None, None]:
        """Posts tasks and yields their replies as they come; close it to wait for no more.

        What is still open after ``timeout_s``, or when it is closed early, expires; only a run that
        is being stopped leaves its tasks as they are.
        """
        waiting = self.post(messages, timeout=timeout_s)
        until = time.monotonic() + timeout_s
        try:
            while waiting and not self._stopped():
                seen = self._plane.switchboard.announced
                rows = [row for row in self._plane.tasks.states(waiting) if row.state != "open"]
                waiting = [name for name in waiting if name not in {row.task_id for row in rows}]
                yield from map(self.reply, rows)
                if waiting and time.monotonic() > until:
                    self.close(waiting)
                elif waiting:
                    self._plane.switchboard.wait(_POLL_S, seen)
        finally:
            if not self._stopped():
                # A server that goes down finds its open tasks again; closing them would end the
                # round.
                self.close(waiting)

    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all merchants."""
        return self._plane.members.names()

    def rows(self, round_number: int, phase: str, merchants: Iterable[MerchantId]) -> list[TaskRow]:
        """The tasks of a round as they stand."""
        ids = [task_id(self._run_id, round_number, phase, merchant) for merchant in merchants]
        return self._plane.tasks.states(ids)

    def post(self, messages: Iterable[Message], *, timeout: float) -> list[TaskId]:
        """Writes the messages down as tasks with so many seconds to answer, and wakes receivers."""
        names = self._plane.members.names()
        parcels: dict[int, _Parcel] = {}
        tasks = []
        for message in messages:
            content = message.content
            if id(content) not in parcels:
                parcels[id(content)] = self._pack(content)
            merchant = names[message.metadata.dst_node_id]
            tasks.append(self._task(merchant, parcels[id(content)], timeout))
        self._plane.tasks.post(tasks)
        for task in tasks:
            self._plane.switchboard.wake(task.merchant)
        return [task.task_id for task in tasks]

    def _pack(self, records: RecordDict) -> _Parcel:
        """The message as it is stored; a model that is in the store already is not stored again."""
        content = to_content(records)
        if self._codec is not None and self._codec.codes_down(self._phase):
            coded = self._codec.pack(self._phase, content)
            return _Parcel(content=self._plane.blobs.write(coded.pieces()))
        if (stored := blob_of(records)) is not None:
            rest = Content(metrics=content.metrics, configs=content.configs).to_bytes()
            if len(rest) <= _MAX_SETTINGS_BYTES:
                return _Parcel(content=stored, settings=rest)
        return _Parcel(content=self._plane.blobs.write(content.pieces()))

    def _task(self, merchant: MerchantId, parcel: _Parcel, timeout: float) -> NewTask:
        return NewTask(
            task_id=task_id(self._run_id, self._round, self._phase, merchant),
            run_id=self._run_id,
            round_number=self._round,
            phase=self._phase,
            merchant=merchant,
            content_sha256=parcel.content,
            content_bytes=self._plane.blobs.size(parcel.content),
            settings=parcel.settings,
            deadline=time.time() + timeout,
        )

    def close(self, ids: list[TaskId]) -> None:
        """Lets the tasks that are still open expire, and tells those who are at work on them."""
        self._plane.tasks.expire(ids)
        for row in self._plane.tasks.states(ids):
            if row.state == "expired":
                self._plane.switchboard.wake(row.merchant)

    def reply(self, row: TaskRow) -> Message:
        """What came back for a task: its content, or an error with the reason."""
        metadata = self._metadata(row)
        if row.state != "done" or not row.result_sha256:
            return _refusal(metadata, f"{row.reason}: {row.sentence}")
        try:
            sha = Sha256(row.result_sha256)
            records = self._read(row, self._plane.blobs.checked(sha), sha)
        except UpdateRejectedError as error:
            return _refusal(metadata, f"rejected: {error}")
        return make_reply(records, metadata)

    def _read(self, row: TaskRow, path: Path, sha: Sha256) -> RecordDict:
        return read_records(path, sha) if self._codec is None else self._codec.read(row, path, sha)

    def _node_id(self, merchant: MerchantId) -> int:
        """A merchant's node id, which never changes."""
        if merchant not in self._node_ids:
            self._node_ids = {name: node_id for node_id, name in self.names().items()}
        return self._node_ids[merchant]

    def _metadata(self, row: TaskRow) -> Metadata:
        return Metadata(
            run_id=1,
            message_id="",
            src_node_id=self._node_id(MerchantId(row.merchant)),
            dst_node_id=OPERATOR_NODE_ID,
            reply_to_message_id=row.task_id,
            group_id=str(row.round_number),
            created_at=time.time(),
            ttl=3600.0,
            # Flower knows no further stages of a round than these two.
            message_type=row.phase if row.phase in _TYPES else f"query.{row.phase}",
        )


def _refusal(metadata: Metadata, reason: str) -> Message:
    return make_reply(Error(REFUSED_CODE, reason), metadata)
