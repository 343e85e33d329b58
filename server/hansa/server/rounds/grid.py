"""Flower's Grid over our gRPC plane."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from hansa.core.errors import UpdateRejectedError
from hansa.core.ids import MerchantId, RunId, Sha256, TaskId, task_id
from hansa.core.storage import BlobStore
from hansa.server.rounds.flower import OPERATOR_NODE_ID, make_reply, read_records, to_content
from hansa.server.state.members import Members
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import NewTask, Tasks
from hansa.server.switchboard import Switchboard

REFUSED_CODE = 1
"""Flower's error code of a reply whose sender did not do the work."""

_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Plane:
    """What the Grid works with: the durable tasks and the way to wake their receivers."""

    members: Members
    tasks: Tasks
    blobs: BlobStore
    switchboard: Switchboard


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The part of Flower's ``Run`` that anything reads."""

    run_id: int


class GrpcGrid(Grid):
    """Hands a strategy's messages to merchants as durable tasks and collects their replies.

    Every message becomes one task whose id is ``run/round/phase/merchant``, so that pushing the
    same round again after a crash finds the tasks, and the replies, of the first time.
    """

    def __init__(
        self, run_id: RunId, plane: Plane, *, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._run_id = run_id
        self._plane = plane
        self._stopped = stopped
        self._round = 0
        self._phase = "train"
        self._excluded: set[MerchantId] = set()
        self._present: list[int] = []

    def begin(self, round_number: int, phase: str) -> None:
        """Names what the next messages belong to, and settles whom they can reach.

        Flower's strategies count the nodes twice and wait without an end, deaf to a stop, when a
        merchant went offline in between; so both counts must be the same.
        """
        self._round, self._phase = round_number, phase
        online = self._plane.members.online()
        self._present = [node for node, name in online.items() if name not in self._excluded]

    def exclude(self, merchants: Iterable[MerchantId]) -> None:
        """Asks these merchants no more in this run (their budget is spent)."""
        self._excluded.update(merchants)

    def set_run(self, run: Any) -> None:
        """The run is fixed at construction; Flower's own run object is not used."""

    @property
    def run(self) -> Any:
        """An object with Flower's ``run_id``; strategies never read it."""
        return _Run(run_id=1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as Flower's older interface makes them."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

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
        return [str(task) for task in self._post(messages, timeout=86_400.0)]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have come to the named tasks."""
        rows = self._plane.tasks.states([TaskId(name) for name in message_ids])
        return [self._reply(row) for row in rows if row.state != "open"]

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
        limit = timeout if timeout is not None else 86_400.0
        ids = self._post(messages, timeout=limit)
        self._wait(ids, time.monotonic() + limit)
        if not self._stopped():
            # A server that goes down finds its open tasks again; closing them would end the round.
            self._close(ids)
        return [self._reply(row) for row in self._plane.tasks.states(ids)]

    def names(self) -> dict[int, MerchantId]:
        """Node ids and names of all merchants."""
        return self._plane.members.names()

    def rows(self, round_number: int, phase: str, merchants: Iterable[MerchantId]) -> list[TaskRow]:
        """The tasks of a round as they stand."""
        ids = [task_id(self._run_id, round_number, phase, merchant) for merchant in merchants]
        return self._plane.tasks.states(ids)

    def _post(self, messages: Iterable[Message], *, timeout: float) -> list[TaskId]:
        names = self._plane.members.names()
        stored: dict[int, Sha256] = {}
        tasks = []
        for message in messages:
            content = message.content
            if id(content) not in stored:
                stored[id(content)] = self._plane.blobs.put(to_content(content).to_bytes())
            tasks.append(
                self._task(names[message.metadata.dst_node_id], stored[id(content)], timeout)
            )
        self._plane.tasks.post(tasks)
        for task in tasks:
            self._plane.switchboard.wake(task.merchant)
        return [task.task_id for task in tasks]

    def _task(self, merchant: MerchantId, content: Sha256, timeout: float) -> NewTask:
        return NewTask(
            task_id=task_id(self._run_id, self._round, self._phase, merchant),
            run_id=self._run_id,
            round_number=self._round,
            phase=self._phase,
            merchant=merchant,
            content_sha256=content,
            content_bytes=self._plane.blobs.size(content),
            deadline=time.time() + timeout,
        )

    def _wait(self, ids: list[TaskId], until: float) -> None:
        while time.monotonic() < until and not self._stopped():
            if all(row.state != "open" for row in self._plane.tasks.states(ids)):
                return
            self._plane.switchboard.wait(min(_POLL_S, max(0.0, until - time.monotonic())))

    def _close(self, ids: list[TaskId]) -> None:
        self._plane.tasks.expire(ids)
        for row in self._plane.tasks.states(ids):
            if row.state == "expired":
                self._plane.switchboard.wake(row.merchant)

    def _reply(self, row: TaskRow) -> Message:
        metadata = self._metadata(row)
        if row.state != "done" or not row.result_sha256:
            return _refusal(metadata, f"{row.reason}: {row.sentence}")
        try:
            records = read_records(self._plane.blobs.read(Sha256(row.result_sha256)))
        except UpdateRejectedError as error:
            return _refusal(metadata, f"rejected: {error}")
        return make_reply(records, metadata)

    def _metadata(self, row: TaskRow) -> Metadata:
        node_ids = {name: node_id for node_id, name in self._plane.members.names().items()}
        return Metadata(
            run_id=1,
            message_id="",
            src_node_id=node_ids[MerchantId(row.merchant)],
            dst_node_id=OPERATOR_NODE_ID,
            reply_to_message_id=row.task_id,
            group_id=str(row.round_number),
            created_at=time.time(),
            ttl=3600.0,
            message_type=row.phase,
        )


def _refusal(metadata: Metadata, reason: str) -> Message:
    return make_reply(Error(REFUSED_CODE, reason), metadata)
