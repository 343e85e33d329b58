"""Runs the queued plans, one after the other, in a thread of its own."""

import datetime as dt
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hansa.core.content import Content
from hansa.core.errors import HansaError
from hansa.core.ids import MerchantId, ReleaseVersion, RunId
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.entries import Entry
from hansa.core.update import Arrays
from hansa.server.rounds.evaluation import evaluate
from hansa.server.rounds.flower import adopt_identity
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.loop import RoundLoop, RunInterrupted
from hansa.server.rounds.strategies import make_strategy
from hansa.server.state.journal import Journal
from hansa.server.state.runs import RoundRecord, Runs
from hansa.server.state.tables import RunRow

_log = logging.getLogger(__name__)

_POLL_S = 1.0
_LONGEST_STOP_S = 10.0

Ledgers = Callable[[MerchantId], tuple[Entry, ...]]
"""Gives the server's copy of a merchant's ledger."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A release that merchants are offered now."""

    version: ReleaseVersion
    figures: dict[str, Any]
    """What the gate measured."""


class Releasing(Protocol):
    """What a run begins with and what becomes of its model; no torch, no ONNX on this side."""

    def initial(self, plan: RunPlan) -> Arrays:
        """The arrays with which a run begins."""
        ...

    def context(self, plan: RunPlan) -> Content:
        """The public records that every task of a run needs."""
        ...

    def release(
        self,
        run: RunRow,
        plan: RunPlan,
        model: Arrays,
        rounds: list[RoundRecord],
        ledgers: dict[str, tuple[Entry, ...]],
        now: dt.datetime,
    ) -> Published:
        """Publishes the model, or raises the reason why not."""
        ...


class RunWorker:
    """Carries the oldest unfinished run to its end; a restart goes on from its checkpoint."""

    def __init__(
        self, *, plane: Plane, runs: Runs, journal: Journal, releaser: Releasing, ledgers: Ledgers
    ) -> None:
        self._plane = plane
        self._runs = runs
        self._journal = journal
        self._releaser = releaser
        self._ledgers = ledgers
        self._going_down = threading.Event()
        self._thread = threading.Thread(target=self._work, name="runs", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        adopt_identity()
        self._thread.start()

    def stop(self) -> None:
        """Ends after at most a few seconds; the run in hand stays unfinished.

        A release that is being built is left behind: it begins anew with the next start.
        """
        self._going_down.set()
        self._plane.switchboard.announce()
        self._thread.join(_LONGEST_STOP_S)

    def _work(self) -> None:
        while not self._going_down.is_set():
            row = self._runs.next_unfinished()
            if row is None:
                self._plane.switchboard.wait(_POLL_S)
            else:
                self._carry_out(row)

    def _carry_out(self, row: RunRow) -> None:
        try:
            self._run(row)
        except RunInterrupted:
            if self._runs.stop_requested(row.run_id):
                self._end(row.run_id, "stopped", "stopped by the operator")
        except HansaError as error:
            self._end(row.run_id, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - one run's fault must not end the worker
            _log.exception("run %s failed", row.run_id)
            self._end(
                row.run_id,
                "failed",
                f"an unexpected error ({type(error).__name__}); see the server's log",
            )

    def _end(self, run_id: str, state: str, sentence: str) -> None:
        """No merchant goes on to pay for a run that has ended."""
        self._runs.enter(run_id, state, sentence)
        for merchant in self._plane.tasks.expire_run(run_id):
            self._plane.switchboard.wake(merchant)
        self._journal.note(f"run {state}", run=run_id, sentence=sentence)
        _log.info("run %s %s: %s", run_id, state, sentence)

    def _stopped(self, run_id: str) -> bool:
        return self._going_down.is_set() or self._runs.stop_requested(run_id)

    def _run(self, row: RunRow) -> None:
        plan = parse_plan(row.plan, f"the plan of run {row.run_id}")
        grid = GrpcGrid(RunId(row.run_id), self._plane, stopped=lambda: self._stopped(row.run_id))
        self._runs.enter(row.run_id, "running")
        self._post_context(row, plan)
        model = self._train(row, plan, grid)
        self._runs.enter(row.run_id, "releasing")
        self._evaluate(row.run_id, plan, grid, model)
        self._release(row, plan, model)

    def _post_context(self, row: RunRow, plan: RunPlan) -> None:
        if row.context_sha256 is None:
            context = self._plane.blobs.put(self._releaser.context(plan).to_bytes())
            self._runs.note_context(row.run_id, context)

    def _train(self, row: RunRow, plan: RunPlan, grid: GrpcGrid) -> Arrays:
        loop = RoundLoop(
            run_id=RunId(row.run_id),
            plan=plan,
            strategy=make_strategy(plan.federation),
            grid=grid,
            plane=self._plane,
            runs=self._runs,
            stopped=lambda: self._stopped(row.run_id),
        )
        return loop.run(self._releaser.initial(plan))

    def _evaluate(self, run_id: str, plan: RunPlan, grid: GrpcGrid, model: Arrays) -> None:
        if plan.privacy.evaluation_noise_multiplier is None:
            return
        self._runs.note_evaluation(run_id, evaluate(grid, plan, model).model_dump())
        if self._stopped(run_id):
            raise RunInterrupted

    def _release(self, row: RunRow, plan: RunPlan, model: Arrays) -> None:
        if plan.compression is None:
            self._end(row.run_id, "completed", "trained; the plan releases nothing")
            return
        rounds = self._runs.rounds(row.run_id)
        asked = self._plane.tasks.merchants_of(RunId(row.run_id))
        ledgers = {str(name): self._ledgers(name) for name in asked}
        release = self._releaser.release(row, plan, model, rounds, ledgers, dt.datetime.now(dt.UTC))
        self._runs.note_evaluation(row.run_id, {"release": release.figures})
        self._runs.note_release(row.run_id, release.version)
        self._end(row.run_id, "completed", f"release {release.version} is published")
