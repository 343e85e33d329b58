"""The loop over rounds, with a checkpoint after each.

Flower's own ``Strategy.start`` cannot resume, and replaying it would draw a strategy's noise twice;
so the loop is ours, over the strategy's public ``configure_train`` and ``aggregate_train``.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import Strategy

from hansa.core.content import Content
from hansa.core.errors import QuorumNotMetError
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.plan import RunPlan
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.intake import ARRAYS, Intake, numpy_arrays, sort_replies
from hansa.server.state.runs import Refusal, RoundRecord, Runs

_log = logging.getLogger(__name__)

_BUDGET = "budget"


class RunInterrupted(Exception):  # noqa: N818 - not an error: somebody asked for it
    """The run was stopped, or the server is going down."""


@dataclass(frozen=True, kw_only=True)
class RoundLoop:
    """One run's way from its first model to its last aggregate."""

    run_id: RunId
    plan: RunPlan
    strategy: Strategy
    grid: GrpcGrid
    plane: Plane
    runs: Runs
    stopped: Callable[[], bool]

    def run(self, initial: Arrays) -> Arrays:
        """Runs all rounds that have no checkpoint yet; returns the tail average of the aggregates.

        Raises:
            QuorumNotMetError: a round had fewer valid updates than the plan's quorum.
            RunInterrupted: the run was stopped or the server is going down.
        """
        done = self.runs.rounds(self.run_id)
        self.grid.exclude(_exhausted(done))
        model = self._aggregate(done[-1].aggregate_sha256) if done else initial
        for number in range(len(done) + 1, self.plan.federation.rounds + 1):
            model = self._round(number, model)
        return self._tail_average()

    def _round(self, number: int, model: Arrays) -> Arrays:
        started = time.monotonic()
        if self.stopped():
            raise RunInterrupted
        self._begin_with_quorum(number)
        messages = self._configure(number, model)
        names = self.plane.members.names()
        cohort = [names[message.metadata.dst_node_id] for message in messages]
        replies = self.grid.send_and_receive(messages, timeout=self.plan.federation.deadline_s)
        if self.stopped():
            raise RunInterrupted
        intake = sort_replies(replies, names, model, max_norm=self.plan.federation.max_update_norm)
        self._check_quorum(number, intake)
        aggregate = self._aggregate_valid(number, intake)
        self._checkpoint(number, cohort, intake, aggregate, time.monotonic() - started)
        self.grid.exclude(
            name for name, refusal in intake.refused.items() if refusal.reason == _BUDGET
        )
        return aggregate

    def _configure(self, number: int, model: Arrays) -> list[Message]:
        """The strategy's messages, and whom a round that broke off had asked the first time."""
        record = ArrayRecord({name: Array(array) for name, array in model.items()})
        messages = list(self.strategy.configure_train(number, record, ConfigRecord(), self.grid))
        known = {message.metadata.dst_node_id for message in messages}
        return messages + [
            Message(messages[0].content, dst_node_id=node_id, message_type="train")
            for node_id in self.grid.asked_before()
            if node_id not in known
        ]

    def _begin_with_quorum(self, number: int) -> None:
        """Begins the round as soon as enough merchants are there; only this wait ends."""
        until = time.monotonic() + self.plan.federation.deadline_s
        while (present := self._present(number)) < self.plan.federation.quorum:
            if self.stopped():
                raise RunInterrupted
            if time.monotonic() > until:
                raise QuorumNotMetError(
                    f"only {present} merchants are online or have budget left, the plan's quorum "
                    f"is {self.plan.federation.quorum}; start more clients or lower the quorum"
                )
            time.sleep(0.2)

    def _present(self, number: int) -> int:
        self.grid.begin(number, "train")
        return len(self.grid.get_node_ids())

    def _check_quorum(self, number: int, intake: Intake) -> None:
        if len(intake.valid) >= self.plan.federation.quorum:
            return
        reasons = "; ".join(
            f"{name}: {why.reason}: {why.sentence}" for name, why in intake.refused.items()
        )
        raise QuorumNotMetError(
            f"round {number} has {len(intake.valid)} valid updates, the plan's quorum is "
            f"{self.plan.federation.quorum} ({reasons})"
        )

    def _aggregate_valid(self, number: int, intake: Intake) -> Arrays:
        arrays, _ = self.strategy.aggregate_train(number, list(intake.valid.values()))
        if arrays is None:
            raise QuorumNotMetError(f"the strategy made no aggregate of round {number}")
        return numpy_arrays(arrays)

    def _checkpoint(
        self,
        number: int,
        cohort: list[MerchantId],
        intake: Intake,
        aggregate: Arrays,
        seconds: float,
    ) -> None:
        rows = self.grid.rows(number, "train", cohort)
        accepted = {MerchantId(row.merchant): row for row in rows if row.merchant in intake.valid}
        record = RoundRecord(
            number=number,
            cohort=cohort,
            accepted={name: Sha256(row.result_sha256 or "") for name, row in accepted.items()},
            refused={name: _short(refusal) for name, refusal in intake.refused.items()},
            aggregate_sha256=store_arrays(self.plane.blobs, aggregate),
            seconds=seconds,
            down_bytes=rows[0].content_bytes,
            up_bytes=sum(row.result_bytes for row in accepted.values()) // len(accepted),
        )
        self.runs.checkpoint(self.run_id, record)
        _log.info(
            "run %s round %s: %s of %s updates", self.run_id, number, len(accepted), len(cohort)
        )

    def _tail_average(self) -> Arrays:
        """The mean of the last aggregates; they are noised already, so it costs no privacy."""
        records = self.runs.rounds(self.run_id)
        count = max(1, round(len(records) * self.plan.federation.tail_fraction))
        tail = [self._aggregate(record.aggregate_sha256) for record in records[-count:]]
        means = {
            name: np.mean([arrays[name] for arrays in tail], axis=0, dtype=np.float64)
            for name in tail[0]
        }
        # NumPy makes a scalar of the mean of scalars; a record holds arrays.
        return {name: np.asarray(mean, tail[0][name].dtype) for name, mean in means.items()}

    def _aggregate(self, sha: Sha256) -> Arrays:
        return load_arrays(self.plane.blobs, sha)


def store_arrays(blobs: BlobStore, arrays: Arrays) -> Sha256:
    """Keeps arrays as a blob; returns its name."""
    return blobs.put(Content(arrays={ARRAYS: arrays}).to_bytes())


def load_arrays(blobs: BlobStore, sha: Sha256) -> Arrays:
    """The arrays of such a blob."""
    return Content.from_bytes(blobs.read(sha)).arrays[ARRAYS]


def _exhausted(records: list[RoundRecord]) -> set[MerchantId]:
    return {
        name
        for record in records
        for name, refusal in record.refused.items()
        if refusal.reason == _BUDGET
    }


def _short(refusal: Refusal) -> Refusal:
    return Refusal(reason=refusal.reason[:32], sentence=refusal.sentence[:500])
