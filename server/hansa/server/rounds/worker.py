"""Runs the queued plans, one after the other, in a thread of its own."""

import datetime as dt
import errno
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.exc import InterfaceError, OperationalError

from hansa.core.content import Content
from hansa.core.errors import ConflictError, HansaError, InvalidInputError, TransportError
from hansa.core.flower_plan import FlowerPlan, parse_any_plan
from hansa.core.ids import MerchantId, ReleaseVersion, RunId, Sha256
from hansa.core.plan import RunPlan
from hansa.core.privacy.entries import Entry
from hansa.core.secure.roster import Trust
from hansa.core.update import Arrays
from hansa.server.rounds.app_run import AppRun
from hansa.server.rounds.buffered import BufferedLoop
from hansa.server.rounds.checkpoints import Checkpoints
from hansa.server.rounds.evaluation import evaluate
from hansa.server.rounds.flower import adopt_identity
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.lease import LEASE_S, Lease
from hansa.server.rounds.loop import RoundLoop, RunInterrupted, RunParts
from hansa.server.rounds.strategies import make_strategy
from hansa.server.state.journal import Journal
from hansa.server.state.runs import RoundRecord, Runs
from hansa.server.state.tables import RunRow

_log = logging.getLogger(__name__)

_POLL_S = 1.0
_PAUSE_S = 2.0
_OUTAGES = (OperationalError, InterfaceError, TransportError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
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

    def newest(self) -> int:
        """The number of the last release; 0 before the first."""
        ...

    def initial(self, plan: RunPlan, parent: int) -> Arrays:
        """The arrays with which a run begins: the public model's, or those of a release."""
        ...

    def context(self, plan: RunPlan, inherited: Content | None) -> Content:
        """The public records that every task of a run needs.

        Args:
            plan: the run's plan.
            inherited: those of the run from whose release this one goes on.
        """
        ...

    def release(
        self,
        run: RunRow,
        plan: RunPlan,
        model: Arrays,
        rounds: list[RoundRecord],
        ledgers: dict[str, tuple[Entry, ...]],
        now: dt.datetime,
        go_on: Callable[[], None],
    ) -> Published:
        """Publishes the model, or raises the reason why not.

        ``go_on`` is called right before it is published, and raises when the run is to end.
        """
        ...

    def made_by(self, run_id: str) -> Published | None:
        """The release that a run has published already."""
        ...


class RunWorker:
    """Carries the oldest unfinished run to its end; a restart goes on from its checkpoint.

    Of several servers at one database each takes a run of its own, and one that dies or falls
    silent loses its run to another after ``lease_s`` seconds.
    """

    def __init__(
        self,
        *,
        plane: Plane,
        runs: Runs,
        journal: Journal,
        releaser: Releasing,
        ledgers: Ledgers,
        trust: Trust,
        owner: str = "sole",
        lease_s: float = LEASE_S,
        allowed_apps: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._plane = plane
        self._runs = runs.owned_by(owner)
        self._owner = owner
        self._lease_s = lease_s
        self._lease: Lease | None = None
        self._journal = journal
        self._releaser = releaser
        self._ledgers = ledgers
        self._trust = trust
        self._allowed_apps = allowed_apps
        self._going_down = threading.Event()
        self._thread = threading.Thread(target=self._work, name="runs", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        adopt_identity()
        self._wake(self._runs.close_ended())
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
            try:
                self._work_on_next()
            except ConflictError as error:
                _log.warning("left a run alone: %s", error)
            except (*_OUTAGES, OSError) as error:
                # Not the run's fault: it goes on from its checkpoint when the disk has room, or the
                # database or the blob store answers, again.
                _log.warning("cannot go on, trying again: %s", error)
                self._going_down.wait(_PAUSE_S)
            except Exception:  # noqa: BLE001 - a server without this thread would be of no use
                _log.exception("cannot go on, trying again")
                self._going_down.wait(_PAUSE_S)

    def _work_on_next(self) -> None:
        seen, claimed_at = self._plane.switchboard.announced, time.monotonic()
        row = self._runs.claim(self._owner, self._lease_s)
        if row is None:
            self._plane.switchboard.wait(_POLL_S, seen)
            return
        with Lease(
            self._runs,
            row.run_id,
            owner=self._owner,
            lease_s=self._lease_s,
            claimed_at=claimed_at,
            on_loss=self._plane.switchboard.announce,
        ) as self._lease:
            self._carry_out(row)

    def _carry_out(self, row: RunRow) -> None:
        try:
            self._run(row)
        except RunInterrupted:
            if self._runs.stop_requested(row.run_id):
                self._end(row.run_id, "stopped", "stopped by the operator")
        except Exception as error:  # one run's fault must not end the worker
            if _is_outage(error):
                raise
            self._end(row.run_id, *self._verdict(row.run_id, error))

    def _verdict(self, run_id: str, error: Exception) -> tuple[str, str]:
        """A stop closes the run's tasks: what fails for want of answers then was stopped."""
        if not isinstance(error, HansaError):
            _log.exception("run %s failed", run_id, exc_info=error)
        if self._runs.stop_requested(run_id):
            return "stopped", "stopped by the operator"
        if isinstance(error, HansaError):
            return "failed", str(error)
        return "failed", f"an unexpected error ({type(error).__name__}); see the server's log"

    def _end(self, run_id: str, state: str, sentence: str) -> None:
        """No merchant goes on to pay for a run that has ended."""
        self._wake(self._runs.enter(run_id, state, sentence))
        self._journal.note(f"run {state}", run=run_id, sentence=sentence)
        _log.info("run %s %s: %s", run_id, state, sentence)

    def _wake(self, merchants: Iterable[str]) -> None:
        for merchant in merchants:
            self._plane.switchboard.wake(merchant)

    def _stopped(self, run_id: str, lease: Lease | None = None) -> bool:
        lease = lease or self._lease
        lost = lease is not None and not lease.is_held
        return lost or self._going_down.is_set() or self._runs.stop_requested(run_id)

    def _go_on(self, run_id: str) -> None:
        if self._stopped(run_id):
            raise RunInterrupted

    def _run(self, row: RunRow) -> None:
        # A crash may have come after the publication: no stop undoes a release.
        published = self._releaser.made_by(row.run_id) if row.state == "releasing" else None
        if published is not None:
            self._close_released(row.run_id, published)
            return
        self._go_on(row.run_id)
        plan = parse_any_plan(row.plan, f"the plan of run {row.run_id}")
        if isinstance(plan, FlowerPlan):
            self._run_app(row, plan)
            return
        grid = GrpcGrid(
            RunId(row.run_id),
            self._plane,
            stopped=lambda: self._stopped(row.run_id),
            federation=plan.federation,
        )
        self._runs.enter(row.run_id, "running")
        parent = self._parent(row, plan)
        self._post_context(row, plan, parent)
        row = self._runs.get(row.run_id)  # with its parent and context
        model = self._train(row, plan, grid, parent)
        self._runs.enter(row.run_id, "releasing")
        self._evaluate(row.run_id, plan, grid, model)
        self._release(row, plan, model)

    def _run_app(self, row: RunRow, plan: FlowerPlan) -> None:
        """A foreign ServerApp is in charge; nothing of it is released as a model of ours."""
        self._runs.enter(row.run_id, "running")
        lease = self._lease  # not the next run's, should the app's threads outlive this one
        app = AppRun(
            run_id=RunId(row.run_id),
            plan=plan,
            plane=self._plane,
            runs=self._runs,
            journal=self._journal,
            stopped=lambda: self._stopped(row.run_id, lease),
            allowed=self._allowed_apps(),
        )
        arrays = app.run()
        kept = "it left no arrays" if arrays is None else "see 'hansa-server run arrays'"
        self._end(row.run_id, "completed", f"the ServerApp has ended; {kept}")

    def _parent(self, row: RunRow, plan: RunPlan) -> int:
        """The release from which the run goes on; noted once, so that a restart finds the same."""
        if plan.begins_with == "base-model" or row.parent_version:
            return row.parent_version
        newest = self._releaser.newest()
        if not newest:
            raise InvalidInputError(
                "there is no release to go on from; run a plan that begins with 'base-model' first"
            )
        self._runs.note_parent(row.run_id, newest)
        return newest

    def _post_context(self, row: RunRow, plan: RunPlan, parent: int) -> None:
        if row.context_sha256 is None:
            context = self._releaser.context(plan, self._inherited(parent))
            self._runs.note_context(row.run_id, self._plane.blobs.put(context.to_bytes()))

    def _inherited(self, parent: int) -> Content | None:
        """The public records of the run that made the release."""
        run = self._runs.of_release(parent) if parent else None
        if run is None or run.context_sha256 is None:
            return None
        return Content.from_bytes(self._plane.blobs.read(Sha256(run.context_sha256)))

    def _train(self, row: RunRow, plan: RunPlan, grid: GrpcGrid, parent: int) -> Arrays:
        run_id = RunId(row.run_id)
        parts = RunParts(
            run_id=run_id,
            plan=plan,
            strategy=make_strategy(plan.federation, self._allowed_apps()),
            grid=grid,
            checkpoints=Checkpoints(run_id, self._runs, self._plane.blobs),
            stopped=lambda: self._stopped(row.run_id),
            note=lambda kind, sentence: self._journal.note(kind, run=run_id, sentence=sentence),
            trust=self._trust,
        )
        initial = self._releaser.initial(plan, parent)
        if plan.federation.rounds == 0:
            return initial
        buffer = plan.federation.asynchronous
        if buffer is not None:
            return BufferedLoop(parts, grid, self._plane, buffer).run(initial)
        return RoundLoop(parts).run(initial)

    def _evaluate(self, run_id: str, plan: RunPlan, grid: GrpcGrid, model: Arrays) -> None:
        if plan.privacy.evaluation_noise_multiplier is None:
            return
        if "recall_at_10" in (self._runs.get(run_id).evaluation or {}):
            return  # asked before a restart: merchants answer once
        quality = evaluate(grid, plan, model, lambda: self._go_on(run_id))
        self._runs.note_evaluation(run_id, quality.model_dump())

    def _release(self, row: RunRow, plan: RunPlan, model: Arrays) -> None:
        if plan.compression is None:
            done = (
                "trained" if plan.federation.rounds else f"asked about release {row.parent_version}"
            )
            self._end(row.run_id, "completed", f"{done}; the plan releases nothing")
            return
        rounds = self._runs.rounds(row.run_id)
        asked = self._plane.tasks.merchants_of(RunId(row.run_id))
        ledgers = {str(name): self._ledgers(name) for name in asked}
        now = dt.datetime.now(dt.UTC)
        published = self._releaser.release(
            row, plan, model, rounds, ledgers, now, lambda: self._go_on(row.run_id)
        )
        self._close_released(row.run_id, published)

    def _close_released(self, run_id: str, published: Published) -> None:
        self._runs.note_evaluation(run_id, {"release": published.figures})
        self._runs.note_release(run_id, published.version)
        self._end(run_id, "completed", f"release {published.version} is published")


def _is_outage(error: Exception) -> bool:
    """Whether the disk, the database or the blob store is at fault, and may recover."""
    full = isinstance(error, OSError) and error.errno in _FULL
    return full or isinstance(error, _OUTAGES)
