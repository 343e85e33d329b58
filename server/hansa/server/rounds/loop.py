"""The loop over rounds, with a checkpoint after each.

Flower's own ``Strategy.start`` cannot resume, and replaying it would draw a strategy's noise twice;
so the loop is ours, over the strategy's public ``configure_train`` and ``aggregate_train``.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message
from flwr.serverapp.strategy import Strategy

from hansa.compression.content_codec import ContentCodec
from hansa.core.errors import InvalidInputError, QuorumNotMetError
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import RunPlan
from hansa.core.secure.protocol import TRAIN
from hansa.core.secure.roster import Trust
from hansa.core.update import Arrays
from hansa.server.rounds import cohort
from hansa.server.rounds.checkpoints import Checkpoints, RoundOutcome
from hansa.server.rounds.intake import Intake
from hansa.server.rounds.records import RecordArrays, array_record
from hansa.server.rounds.round_grid import RoundGrid
from hansa.server.rounds.secure import SecureRound
from hansa.server.rounds.secure_blocks import SecureBlocks, Sharers
from hansa.server.rounds.stages import SecureRun
from hansa.server.rounds.strategy_state import capture, restore
from hansa.server.state.runs import Refusal, RoundRecord

_LOOK_S = 0.2
_FULL = Refusal(reason=cohort.SURPLUS, sentence="the cohort was full")


class RunInterrupted(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was stopped, or the server is going down."""


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What one run is carried out with."""

    run_id: RunId
    plan: RunPlan
    strategy: Strategy
    grid: RoundGrid
    checkpoints: Checkpoints
    stopped: Callable[[], bool]
    note: Callable[[str, str], None]
    """Writes an event with its sentence into the operator's journal."""
    trust: Trust | None = None
    """The federation's authority, for secure aggregation; None where there is none."""

    def go_on(self) -> None:
        """Raises RunInterrupted: the run is to end."""
        if self.stopped():
            raise RunInterrupted

    def configure(self, number: int, model: Arrays) -> list[Message]:
        """The strategy's messages to everybody whom the grid reaches."""
        record = array_record(model)
        return list(self.strategy.configure_train(number, record, ConfigRecord(), self.grid))

    def lowered(self, model: Arrays) -> Arrays:
        """The model as merchants read it: the base of their updates, and of the aggregate."""
        return self._codec.lowered(model)

    @property
    def _codec(self) -> ContentCodec:
        return ContentCodec.of(self.plan.federation, TRAIN)

    def aggregate(self, number: int, replies: list[Message], model: Arrays) -> Arrays:
        """The strategy's aggregate; ``model`` is the round's before it was lowered.

        Raises:
            QuorumNotMetError: the strategy made none.
        """
        arrays, _ = self.strategy.aggregate_train(number, replies)
        if arrays is None:
            raise QuorumNotMetError(f"the strategy made no aggregate of round {number}")
        return self._codec.restored(RecordArrays(arrays), model)


class RoundLoop:
    """One run's way from its first model to its last aggregate, in synchronous rounds."""

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts
        self._spec = parts.plan.federation
        self._left_out: dict[MerchantId, int] = {}
        self._last: RoundRecord | None = None
        self._blocks: SecureBlocks | None = None

    def run(self, initial: Arrays) -> Arrays:
        """Runs all rounds that have no checkpoint yet; returns the tail average of the aggregates.

        Raises:
            QuorumNotMetError: a round had fewer valid updates than the plan's quorum.
            RunInterrupted: the run was stopped or the server is going down.
        """
        checkpoints = self._parts.checkpoints
        records = checkpoints.records()
        model = checkpoints.aggregate(records[-1]) if records else checkpoints.kept(initial)
        if records:
            restore(self._parts.strategy, checkpoints.strategy(records[-1]))
        for number in range(len(records) + 1, self._spec.rounds + 1):
            self._look_back(records)
            model, record = self._round(number, model)
            records.append(record)
        return checkpoints.tail_average(self._spec.tail_fraction)

    def _look_back(self, records: list[RoundRecord]) -> None:
        """Who has no budget left, and who is in quarantine, follows from the records alone."""
        self._parts.grid.exclude(cohort.exhausted(records))
        left_out = cohort.quarantines(records, self._spec.quarantine)
        for name, last in left_out.items():
            if self._left_out.get(name) != last and last > len(records):
                self._parts.note("quarantine", f"{name} is left out until round {last}")
        self._left_out = left_out
        self._last = records[-1] if records else None

    def _round(self, number: int, model: Arrays) -> tuple[Arrays, RoundRecord]:
        started = time.monotonic()
        self._parts.go_on()
        self._parts.grid.reach(self._ask(number))
        names = self._parts.grid.names()  # somebody may have joined while the round waited
        sent = self._parts.lowered(model)
        messages = self._parts.configure(number, sent)
        asked = [names[message.metadata.dst_node_id] for message in messages]
        intake = self._collect(number, messages, sent)
        intake.close(asked, _FULL)
        self._check_quorum(number, intake)
        aggregate = self._parts.aggregate(number, intake.in_order(), model)
        rows = [
            row
            for phase in self._phases(number)
            for row in self._parts.grid.rows(number, phase, asked)
        ]
        outcome = RoundOutcome(
            number=number,
            started=started,
            rows={MerchantId(row.merchant): row for row in rows},
            accepted=sorted(intake.valid),
            refused=intake.refused | self._quarantined(number),
            aggregate=aggregate,
            strategy=capture(self._parts.strategy),
        )
        record = self._parts.checkpoints.write(outcome)
        return self._parts.checkpoints.kept(aggregate, record.aggregate_sha256), record

    def _ask(self, number: int) -> list[int]:
        """Whom the round asks: whom it had asked before the server broke off, or a fresh draw."""
        grid = self._parts.grid
        grid.begin(number, self._phases(number)[0])
        if before := grid.asked_before():
            return before
        eligible = self._wait_for_quorum(number)
        node_ids = {name: node_id for node_id, name in grid.names().items()}
        count = cohort.wanted(self._spec, len(eligible))
        drawn = cohort.draw(eligible, count, run=self._parts.run_id, round_number=number)
        return [node_ids[name] for name in drawn]

    def _wait_for_quorum(self, number: int) -> list[MerchantId]:
        """Begins the round as soon as enough merchants are there; only this wait ends."""
        sharers = self._sharers(number)
        until = time.monotonic() + self._spec.deadline_s
        while len(eligible := self._eligible(number, sharers)) < self._enough(sharers):
            self._parts.go_on()
            if time.monotonic() > until:
                if len(eligible) >= (sharers.threshold if sharers else self._spec.quorum):
                    break  # fewer than the cohort, but enough
                raise _too_few(len(eligible), sharers, self._spec.quorum)
            time.sleep(_LOOK_S)
        return eligible

    def _enough(self, sharers: Sharers | None) -> int:
        """How many merchants are not waited for any longer.

        In a later round of a block that is nobody who was not in the round before: no other
        merchant can take the place of one that went for good.
        """
        if sharers is None:
            return self._spec.cohort or self._spec.quorum
        came = len(self._last.accepted) if self._last is not None else 0
        return max(sharers.threshold, min(self._spec.cohort or 0, came))

    def _eligible(self, number: int, sharers: Sharers | None) -> list[MerchantId]:
        grid = self._parts.grid
        grid.begin(number, "train")
        names = grid.names()
        present = [names[node_id] for node_id in grid.get_node_ids()]
        return [
            name
            for name in present
            if self._left_out.get(name, 0) < number and (sharers is None or name in sharers.names)
        ]

    def _quarantined(self, number: int) -> dict[MerchantId, Refusal]:
        return {
            name: Refusal(reason="quarantine", sentence=f"too many faults; until round {last}")
            for name, last in self._left_out.items()
            if last >= number
        }

    def _collect(self, number: int, messages: list[Message], model: Arrays) -> Intake:
        """Takes replies as they come, until all have come, time is up or the cohort is full."""
        if self._spec.secure_aggregation is not None:
            return SecureRound(blocks=self._secure(), number=number).collect(messages, model)
        grid = self._parts.grid
        intake = Intake(grid.names(), max_norm=self._spec.max_update_norm)
        with contextlib.closing(grid.replies(messages, timeout_s=self._spec.deadline_s)) as replies:
            for reply in replies:
                intake.take(reply, model)
                if self._spec.cohort is not None and len(intake.valid) >= self._spec.cohort:
                    # A server that broke off here had closed the others' tasks before.
                    intake.excuse(_FULL)
                    break
        self._parts.go_on()
        return intake

    def _phases(self, number: int) -> tuple[str, ...]:
        """The phases that make a round's cohort; a later row of a merchant counts."""
        if self._spec.secure_aggregation is None:
            return (TRAIN,)
        return self._secure().phases(number)

    def _sharers(self, number: int) -> Sharers | None:
        if self._spec.secure_aggregation is None:
            return None
        return self._secure().sharers(number)

    def _secure(self) -> SecureBlocks:
        parts = self._parts
        if self._blocks is not None:
            return self._blocks
        if parts.trust is None:
            raise InvalidInputError(
                "secure aggregation needs merchants with certificates: leave it out of the plan "
                "to simulate, or run the plan on the plane"
            )
        around = SecureRun(
            grid=parts.grid,
            plan=parts.plan,
            run_id=parts.run_id,
            trust=parts.trust,
            go_on=parts.go_on,
        )
        self._blocks = SecureBlocks(around)
        return self._blocks

    def _check_quorum(self, number: int, intake: Intake) -> None:
        if len(intake.valid) >= self._spec.quorum:
            return
        reasons = "; ".join(
            f"{name}: {why.reason}: {why.sentence}" for name, why in intake.refused.items()
        )
        raise QuorumNotMetError(
            f"round {number} has {len(intake.valid)} valid updates, the plan's quorum is "
            f"{self._spec.quorum} ({reasons})"
        )


def _too_few(there: int, sharers: Sharers | None, quorum: int) -> QuorumNotMetError:
    are = "are online, have budget left and are not in quarantine"
    if sharers is None:
        return QuorumNotMetError(
            f"only {there} merchants {are}, the plan's quorum is {quorum}; start more clients or "
            "lower the quorum"
        )
    return QuorumNotMetError(
        f"only {there} of the {len(sharers.names)} merchants that gave shares for this block of "
        f"rounds {are}, the threshold is {sharers.threshold}; start their clients, or prepare "
        "fewer rounds at once"
    )
