"""Rounds for which nobody waits: every few updates, fresh or stale, make an aggregate.

A merchant gets the newest model as soon as it has answered, at most once for each model. A task is
named by the round whose model it carries, so everything that this loop knows stands in the tasks
and the rounds' records, and a restarted server goes on with the same buffer.

References:
    Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, arXiv:2106.06639.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from hansa.core.errors import QuorumNotMetError
from hansa.core.ids import MerchantId, TaskId, task_id
from hansa.core.plan import BufferSpec
from hansa.core.update import Arrays
from hansa.server.rounds import cohort
from hansa.server.rounds.checkpoints import RoundOutcome
from hansa.server.rounds.flower import make_reply
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.intake import ARRAYS, METRICS, Intake, numpy_arrays
from hansa.server.rounds.loop import RunParts
from hansa.server.rounds.strategy_state import capture, restore
from hansa.server.state.runs import Refusal, RoundRecord
from hansa.server.state.tables import TaskRow

_POLL_S = 0.5


def staleness_weight(staleness: int, spec: BufferSpec) -> float:
    """What an update weighs that began ``staleness`` aggregates ago; a fresh one weighs 1."""
    return float((1 + staleness) ** -spec.staleness_exponent)


def discounted(update: Arrays, began_with: Arrays, model: Arrays, weight: float) -> Arrays:
    """A stale update as a step from the present model: ``model + weight * (update - began_with)``.

    Its mean with others, under any strategy, is then FedBuff's weighted sum of differences.
    """
    steps = {name: weight * (update[name] - began_with[name]) for name in model}
    # NumPy makes a scalar of the sum of scalars; a record holds arrays.
    return {name: np.asarray(model[name] + steps[name], model[name].dtype) for name in model}


@dataclass(kw_only=True)
class _Buffer:
    """What the next aggregate is made of, so far: at most one answer of each merchant."""

    number: int
    intake: Intake
    model: Arrays
    """As merchants read it."""
    content: RecordDict | None = None
    """What the strategy sends with it, once it was asked."""
    rows: dict[MerchantId, TaskRow] = field(default_factory=dict)
    started: float
    last_sign: float
    """When somebody was last asked, or a valid update came."""


class BufferedLoop:
    """One run's way from its first model to its last aggregate, without waiting for anybody."""

    def __init__(self, parts: RunParts, grid: GrpcGrid, plane: Plane, spec: BufferSpec) -> None:
        self._parts = parts
        self._grid = grid
        self._plane = plane
        self._spec = spec
        self._federation = parts.plan.federation
        self._initial: Arrays = {}
        self._records: list[RoundRecord] = []
        self._taken: set[TaskId] = set()
        self._open: dict[TaskId, float] = {}

    def run(self, initial: Arrays) -> Arrays:
        """Makes all aggregates that have no checkpoint yet; returns their tail average.

        Raises:
            QuorumNotMetError: an aggregate had fewer valid updates than the plan's quorum when
                nobody else could answer, or nobody did within the plan's deadline.
            RunInterrupted: the run was stopped or the server is going down.
        """
        self._initial = initial
        self._records = self._parts.checkpoints.records()
        # Who had paid while the server was down gets the time to come back and deliver.
        until = time.time() + self._federation.deadline_s
        self._plane.tasks.postpone(self._parts.run_id, "train", until)
        for record in self._records:
            self._note_taken(record)
        if self._records:
            last = self._parts.checkpoints.strategy(self._records[-1])
            restore(self._parts.strategy, last)
        for number in range(len(self._records) + 1, self._federation.rounds + 1):
            record = self._aggregate(number)
            self._records.append(record)
            self._note_taken(record)
        return self._parts.checkpoints.tail_average(self._federation.tail_fraction)

    def _note_taken(self, record: RoundRecord) -> None:
        self._taken |= {
            self._task(name, record.began.get(name, record.number)) for name in record.cohort
        }

    def _task(self, name: MerchantId, round_number: int) -> TaskId:
        return task_id(self._parts.run_id, round_number, "train", name)

    def _model(self, round_number: int) -> Arrays:
        """The model with which that round's tasks begin, as merchants read it."""
        return self._parts.lowered(self._whole_model(round_number))

    def _whole_model(self, round_number: int) -> Arrays:
        if round_number == 1:
            return self._initial
        return self._parts.checkpoints.aggregate(self._records[round_number - 2])

    def _aggregate(self, number: int) -> RoundRecord:
        """Fills a buffer, keeping everybody at work, and makes the next aggregate of it."""
        now = time.monotonic()
        intake = Intake(self._grid.names(), max_norm=self._federation.max_update_norm)
        model = self._model(number)
        buffer = _Buffer(number=number, intake=intake, model=model, started=now, last_sign=now)
        while len(intake.valid) < self._spec.updates:
            self._parts.go_on()
            seen = self._plane.switchboard.announced
            rows = self._rows(number)
            self._hand_out(buffer, rows)
            if self._take(buffer, rows):
                continue
            if why := self._hopeless(buffer, rows):
                self._check_quorum(buffer, why)
                break
            self._plane.switchboard.wait(_POLL_S, seen)
        return self._close(buffer)

    def _rows(self, number: int) -> list[TaskRow]:
        """Every task that is open, or whose answer the next aggregate may take or must refuse."""
        tasks = self._plane.tasks
        overdue = [name for name, deadline in self._open.items() if deadline < time.time()]
        self._grid.close(overdue)
        rows = {TaskId(row.task_id): row for row in tasks.states(list(self._open))}
        since = number - self._spec.max_staleness
        for row in tasks.of_run(self._parts.run_id, "train", since_round=since):
            rows[TaskId(row.task_id)] = row
        self._open = {name: row.deadline for name, row in rows.items() if row.state == "open"}
        return [row for name, row in rows.items() if name not in self._taken]

    def _hand_out(self, buffer: _Buffer, rows: list[TaskRow]) -> None:
        """Gives the newest model to everybody who is idle and has not had it.

        Whose last answer still waits is not idle: else answers would pile up and grow stale.
        """
        self._grid.exclude(cohort.exhausted(self._records))
        self._grid.begin(buffer.number, "train")
        names = self._grid.names()
        busy = self._left_out(buffer.number) | {
            MerchantId(row.merchant)
            for row in rows
            if row.round_number == buffer.number or MerchantId(row.merchant) not in buffer.rows
        }
        idle = [one for one in self._grid.get_node_ids() if names[one] not in busy]
        if not idle:
            return
        content = self._configured(buffer, idle)
        messages = [Message(content, dst_node_id=node, message_type="train") for node in idle]
        self._grid.post(messages, timeout=self._federation.deadline_s)
        buffer.last_sign = time.monotonic()

    def _left_out(self, number: int) -> set[MerchantId]:
        """Who has no budget left, and who is in quarantine."""
        last = cohort.quarantines(self._records, self._federation.quarantine)
        quarantined = {name for name, until in last.items() if until >= number}
        return quarantined | cohort.exhausted(self._records)

    def _configured(self, buffer: _Buffer, reached: list[int]) -> RecordDict:
        """Asks the strategy once per aggregate: some note there what the step begins with."""
        if buffer.content is None:
            self._grid.reach(reached)
            buffer.content = self._parts.configure(buffer.number, buffer.model)[0].content
        return buffer.content

    def _take(self, buffer: _Buffer, rows: list[TaskRow]) -> bool:
        """Takes answers until the buffer is full; true when one of them was valid."""
        before = len(buffer.intake.valid)
        for row in rows:
            name = MerchantId(row.merchant)
            if row.state == "open" or name in buffer.rows:
                continue  # a merchant's second answer waits for the next aggregate
            if len(buffer.intake.valid) == self._spec.updates:
                break
            buffer.rows[name] = row
            self._judge(buffer, name, row)
        if len(buffer.intake.valid) == before:
            return False
        buffer.last_sign = time.monotonic()
        return True

    def _judge(self, buffer: _Buffer, name: MerchantId, row: TaskRow) -> None:
        staleness = buffer.number - row.round_number
        if staleness > self._spec.max_staleness:
            why = f"it began {staleness} aggregates ago, the plan allows {self._spec.max_staleness}"
            buffer.intake.refused[name] = Refusal(reason="stale", sentence=why)
            return
        began_with = buffer.model if staleness == 0 else self._model(row.round_number)
        # By name: somebody may have joined since the buffer was begun.
        buffer.intake.take_from(name, self._grid.reply(row), began_with)
        if staleness > 0 and name in buffer.intake.valid:
            reply = buffer.intake.valid[name]
            update = numpy_arrays(reply.content.array_records[ARRAYS])
            weight = staleness_weight(staleness, self._spec)
            buffer.intake.valid[name] = _replaced(
                reply, discounted(update, began_with, buffer.model, weight)
            )

    def _hopeless(self, buffer: _Buffer, rows: list[TaskRow]) -> str:
        """Why nothing more is to be expected for this aggregate; empty while something is."""
        asked = {MerchantId(row.merchant) for row in rows if row.round_number == buffer.number}
        members = {
            MerchantId(row.name) for row in self._plane.members.everyone() if row.state == "member"
        }
        may_answer = {MerchantId(row.merchant) for row in rows if row.state == "open"}
        may_answer |= members - asked - self._left_out(buffer.number)
        if not may_answer - buffer.rows.keys():
            return "nobody else can answer"
        if time.monotonic() - buffer.last_sign > self._federation.deadline_s:
            return f"no valid update came for {self._federation.deadline_s:g} s"
        return ""

    def _check_quorum(self, buffer: _Buffer, why: str) -> None:
        if len(buffer.intake.valid) >= self._federation.quorum:
            return
        reasons = "; ".join(
            f"{name}: {why.reason}: {why.sentence}" for name, why in buffer.intake.refused.items()
        )
        raise QuorumNotMetError(
            f"{why}, aggregate {buffer.number} has {len(buffer.intake.valid)} valid updates, the "
            f"plan's quorum is {self._federation.quorum} ({reasons or 'nobody answered'}); start "
            "more clients or lower the quorum"
        )

    def _close(self, buffer: _Buffer) -> RoundRecord:
        names = self._grid.names()
        self._configured(buffer, [node for node, name in names.items() if name in buffer.rows])
        whole = self._whole_model(buffer.number)
        aggregate = self._parts.aggregate(buffer.number, buffer.intake.in_order(), whole)
        outcome = RoundOutcome(
            number=buffer.number,
            started=buffer.started,
            rows=buffer.rows,
            accepted=sorted(buffer.intake.valid),
            refused=buffer.intake.refused,
            aggregate=aggregate,
            strategy=capture(self._parts.strategy),
        )
        return self._parts.checkpoints.write(outcome)


def _replaced(reply: Message, arrays: Arrays) -> Message:
    record = ArrayRecord({name: Array(array) for name, array in arrays.items()})
    metrics = reply.content.metric_records[METRICS]
    return make_reply(RecordDict({ARRAYS: record, METRICS: metrics}), reply.metadata)
