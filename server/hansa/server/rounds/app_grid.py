"""Flower's Grid for a ServerApp that is in charge of its run.

Every message becomes a durable task named ``run/number/category/merchant``. The number is a clock:
one more than the last number of any node that the same messages go to, counted for each category
(train, evaluate, query). It hangs on the app's own course alone, so that an app which runs again
after a crash names its messages as the first time and finds the answers that are there. Where its
course is another one, the run fails rather than mix two.
"""

import functools
import io
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, Metadata, RecordDict
from sqlalchemy.exc import SQLAlchemyError

from hansa.core.content import Content
from hansa.core.envelope import CATEGORIES, Envelope, flower_id, seal, unseal
from hansa.core.errors import ConflictError, HansaError, InvalidInputError
from hansa.core.flower_plan import FlowerPlan
from hansa.core.ids import MerchantId, RunId, Sha256, TaskId, task_id
from hansa.server.rounds.app_rounds import Answer, AppRounds, refusal_of
from hansa.server.rounds.app_script import AppScript
from hansa.server.rounds.flower import (
    MAX_REPLY_HEADER_BYTES,
    OPERATOR_NODE_ID,
    make_reply,
    to_content,
    to_records,
)
from hansa.server.rounds.grid import REFUSED_CODE, Plane
from hansa.server.rounds.round_grid import FlowerRun, OurGrid
from hansa.server.state.runs import Refusal
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import NewTask

_POLL_S = 0.5
_FAULTS = (HansaError, SQLAlchemyError, OSError)

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


class AppEnded(BaseException):
    """The run is to end; ``fault`` says why, or is None where somebody stopped it.

    It is no ``Exception``, so that an app which catches those does not go on.
    """

    def __init__(self, fault: Exception | None) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A message's content as it is stored."""

    arrays: Sha256
    settings: bytes


def _guarded(
    call: Callable[Concatenate["AppGrid", _Arguments], _Value],
) -> Callable[Concatenate["AppGrid", _Arguments], _Value]:
    """What goes wrong on this side of the Grid ends the app, whatever it catches."""

    @functools.wraps(call)
    def guarded(grid: "AppGrid", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Value:
        try:
            return call(grid, *args, **kwargs)
        except _FAULTS as error:
            grid.fault = error
            raise AppEnded(error) from error

    return guarded


class AppGrid(OurGrid):
    """What a ServerApp's ``main`` is given. It may be called from several threads."""

    def __init__(
        self,
        run_id: RunId,
        plan: FlowerPlan,
        plane: Plane,
        script: AppScript,
        rounds: AppRounds,
        stopped: Callable[[], bool],
    ) -> None:
        self._run_id = run_id
        self._plan = plan
        self._plane = plane
        self._script = script
        self._rounds = rounds
        self._stopped = stopped
        self._lock = threading.RLock()
        self._is_cut = threading.Event()
        self.fault: Exception | None = None
        """Why the app must end: the run's own failure, or an outage of what lies under it."""
        self._present: dict[int, None] = {}
        self._last: dict[tuple[str, int], int] = defaultdict(int)
        self._envelopes: dict[str, Envelope] = {}
        self._due: dict[str, float] = {}
        self._pulled: set[str] = set()
        before = [
            row for one in CATEGORIES for row in plane.tasks.of_run(run_id, one, since_round=0)
        ]
        self._frontier = {(row.phase, row.merchant): row.round_number for row in before}
        self._unsent = {(row.phase, row.task_id) for row in before}
        self.last_arrays: ArrayRecord | None = None
        """The last arrays that the app sent to anybody."""

    def cut(self) -> None:
        """Ends the app at its next look at the Grid, and whatever threads it left behind."""
        self._is_cut.set()

    @property
    def run(self) -> Any:
        """An object with Flower's ``run_id``."""
        return FlowerRun(run_id=flower_id(self._run_id))

    @_guarded
    def get_node_ids(self) -> list[int]:
        """Who is online, or was since the app last sent something.

        Flower's strategies count the nodes twice and wait without an end for one that went offline
        in between; here it stays on the list until the next messages.
        """
        self._go_on()
        with self._lock:
            nodes = self._script.nodes()
            if nodes is None:
                self._present.update(dict.fromkeys(self._plane.members.online()))
                nodes = list(self._present)
                self._script.told(nodes)
            return nodes

    @_guarded
    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Sends messages; returns the ids by which their replies can be pulled."""
        return [str(name) for name in self._post(list(messages), self._plan.deadline_s)]

    @_guarded
    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have come since they were last asked for, each of them once."""
        self._go_on()
        wanted = [TaskId(name) for name in message_ids if name not in self._pulled]
        overdue = [name for name in wanted if time.monotonic() > self._due.get(name, 0.0)]
        if overdue:
            self._close(overdue)
        rows = [row for row in self._plane.tasks.states(wanted) if row.state != "open"]
        return self._taken_in(rows)

    @_guarded
    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Sends messages and waits for their replies.

        Args:
            messages: to any nodes; two to the same node are answered one after the other.
            timeout: seconds; never more than the plan's ``deadline_s`` counts.

        Returns:
            A reply for each message: content, or an error with the reason.
        """
        sent = list(messages)
        limit = min(timeout or self._plan.deadline_s, self._plan.deadline_s)
        ids = self._post(sent, limit)
        self._wait(ids, time.monotonic() + limit)
        self._close(ids)
        rows = self._plane.tasks.states(ids)
        replies = self._taken_in(rows)
        if len(rows) > 1:  # single messages may be parts of a round
            with self._lock:
                for number in {row.round_number for row in rows if row.phase == "train"}:
                    self._rounds.check(number)
        return replies

    def _go_on(self) -> None:
        """Raises AppEnded: the run was stopped, or has failed already."""
        if self._is_cut.is_set() or self.fault is not None or self._stopped():
            raise AppEnded(self.fault)

    def _post(self, messages: list[Message], timeout: float) -> list[TaskId]:
        self._go_on()
        with self._lock:
            tasks = self._tasks(messages, timeout)
            self._check_same(tasks)
            trains = [task for task in tasks if task.phase == "train"]
            for number in sorted({task.round_number for task in trains}):
                asked = [task.merchant for task in trains if task.round_number == number]
                self._rounds.begin(number, asked)
            self._script.sent()
            self._present = {}
            self._plane.tasks.post(tasks)
        for task in tasks:
            self._due[task.task_id] = time.monotonic() + timeout
            self._plane.switchboard.wake(task.merchant)
        return [task.task_id for task in tasks]

    def _tasks(self, messages: list[Message], timeout: float) -> list[NewTask]:
        names = self._plane.members.names()
        written: dict[tuple[int, str, str], _Written] = {}
        tasks = []
        for message, number in zip(messages, self._numbers(messages), strict=True):
            meta = message.metadata
            if meta.dst_node_id not in names:
                raise InvalidInputError(
                    f"the ServerApp writes to node {meta.dst_node_id}, which is no merchant; "
                    "take node ids from grid.get_node_ids()"
                )
            envelope = Envelope(message_type=meta.message_type, group_id=meta.group_id)
            key = (id(message.content), envelope.message_type, envelope.group_id)
            if key not in written:
                written[key] = self._write(message.content, envelope)
            task = self._task(names[meta.dst_node_id], number, envelope, written[key], timeout)
            self._envelopes[task.task_id] = envelope
            tasks.append(task)
        return tasks

    def _numbers(self, messages: list[Message]) -> list[int]:
        """The number of each message; a second one to the same node comes after the first."""
        numbers = [0] * len(messages)
        left = list(range(len(messages)))
        while left:
            wave: dict[tuple[str, int], int] = {}
            for index in left:
                meta = messages[index].metadata
                category = Envelope(message_type=meta.message_type).category
                wave.setdefault((category, meta.dst_node_id), index)
            for category in {category for category, _ in wave}:
                nodes = [key for key in wave if key[0] == category]
                number = 1 + max(self._last[key] for key in nodes)
                for key in nodes:
                    self._last[key] = numbers[wave[key]] = number
            left = [index for index in left if index not in wave.values()]
        return numbers

    def _write(self, records: RecordDict, envelope: Envelope) -> _Written:
        for record in records.array_records.values():
            self.last_arrays = record
        try:
            sealed = seal(to_content(_readable(records)), envelope)
            arrays = self._plane.blobs.write(Content(arrays=sealed.arrays).pieces())
            settings = Content(metrics=sealed.metrics, configs=sealed.configs).to_bytes()
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"the ServerApp's message holds what cannot be sent: {error}"
            ) from error
        return _Written(arrays=arrays, settings=settings)

    def _task(
        self,
        merchant: MerchantId,
        number: int,
        envelope: Envelope,
        written: _Written,
        timeout: float,
    ) -> NewTask:
        return NewTask(
            task_id=task_id(self._run_id, number, envelope.category, merchant),
            run_id=self._run_id,
            round_number=number,
            phase=envelope.category,
            merchant=merchant,
            content_sha256=written.arrays,
            content_bytes=self._plane.blobs.size(written.arrays),
            settings=written.settings,
            deadline=time.time() + timeout,
        )

    def _check_same(self, tasks: list[NewTask]) -> None:
        """What an earlier server sent under these names was the same, or there was nothing yet."""
        before = {
            row.task_id: row for row in self._plane.tasks.states([task.task_id for task in tasks])
        }
        for task in tasks:
            row = before.get(task.task_id)
            new_here = row is None and self._is_past(task, alone=len(tasks) == 1)
            changed = row is not None and not _is_same(row, task)
            if new_here or changed:
                what = "asked other merchants" if new_here else "sent something else"
                raise ConflictError(
                    f"the ServerApp ran again after the server restarted, and {what} in "
                    f"{task.phase} round {task.round_number} ({task.merchant}): two courses may "
                    "not be mixed; make it deterministic (seeds, no clock), and start a new run"
                )

        self._unsent -= {(task.phase, task.task_id) for task in tasks}

    def _is_past(self, task: NewTask, *, alone: bool) -> bool:
        """Whether an earlier server had got further than to this message, which it did not send.

        Messages that go out one by one have an order for each merchant alone. Several at once are
        a round, which is stored whole or not at all, and comes after all that is stored.
        """
        if alone:
            return task.round_number < self._frontier.get((task.phase, task.merchant), 0)
        return any(phase == task.phase for phase, _ in self._unsent)

    def _wait(self, ids: list[TaskId], until: float) -> None:
        while time.monotonic() < until:
            self._go_on()
            seen = self._plane.switchboard.announced
            if all(row.state != "open" for row in self._plane.tasks.states(ids)):
                return
            self._plane.switchboard.wait(min(_POLL_S, max(0.0, until - time.monotonic())), seen)

    def _close(self, ids: list[TaskId]) -> None:
        self._plane.tasks.expire(ids)
        for row in self._plane.tasks.states(ids):
            if row.state == "expired":
                self._plane.switchboard.wake(row.merchant)

    def _taken_in(self, rows: list[TaskRow]) -> list[Message]:
        """The replies of closed tasks, once they are in the books."""
        replies = [self._reply(row) for row in rows]
        with self._lock:
            self._pulled.update(row.task_id for row in rows)
            self._rounds.note(
                Answer(row=row, refusal=_refusal_in(reply))
                for row, reply in zip(rows, replies, strict=True)
                if row.phase == "train"
            )
        return replies

    def _reply(self, row: TaskRow) -> Message:
        metadata = self._metadata(row)
        if row.state != "done" or not row.result_sha256:
            return make_reply(Error(REFUSED_CODE, f"{row.reason}: {row.sentence}"), metadata)
        try:
            path = self._plane.blobs.checked(Sha256(row.result_sha256))
            content = Content.open(path, max_header_bytes=MAX_REPLY_HEADER_BYTES)
            return make_reply(to_records(unseal(content)[1]), metadata)
        except (InvalidInputError, LookupError, TypeError, ValueError) as error:
            return make_reply(Error(REFUSED_CODE, f"rejected: {error}"), metadata)

    def _metadata(self, row: TaskRow) -> Metadata:
        node_ids = {name: node_id for node_id, name in self._plane.members.names().items()}
        envelope = self._envelopes[row.task_id]
        return Metadata(
            run_id=flower_id(self._run_id),
            message_id=f"{row.task_id}/reply",
            src_node_id=node_ids[MerchantId(row.merchant)],
            dst_node_id=OPERATOR_NODE_ID,
            reply_to_message_id=row.task_id,
            group_id=envelope.group_id,
            created_at=time.time(),
            ttl=3600.0,
            message_type=envelope.message_type,
        )


def _readable(records: RecordDict) -> RecordDict:
    """Flower's older interfaces leave an array's type and shape to the ``.npy`` file within."""
    for record in records.array_records.values():
        for name, array in record.items():
            if not array.dtype:
                record[name] = Array(np.load(io.BytesIO(array.data), allow_pickle=False))
    return records


def _refusal_in(reply: Message) -> Refusal | None:
    return refusal_of(reply.error.reason or "failed") if reply.has_error() else None


def _is_same(row: TaskRow, task: NewTask) -> bool:
    return (row.content_sha256, row.settings) == (task.content_sha256, task.settings)
