"""Runs a Flower ``ServerApp`` of the user's own on the plane, unchanged, in a thread of its own."""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import Result
from sqlalchemy.exc import InterfaceError, OperationalError

from hansa.core.envelope import flower_id
from hansa.core.errors import HansaError, InvalidInputError
from hansa.core.flower_plan import FlowerPlan
from hansa.core.ids import RunId, Sha256
from hansa.core.object_ref import check_allowed, load_object
from hansa.server.rounds.app_grid import AppEnded, AppGrid
from hansa.server.rounds.app_result import results_kept
from hansa.server.rounds.app_rounds import AppRounds
from hansa.server.rounds.app_script import AppScript, scatter, sow
from hansa.server.rounds.checkpoints import store_arrays
from hansa.server.rounds.grid import Plane
from hansa.server.rounds.intake import numpy_arrays
from hansa.server.rounds.loop import RunInterrupted
from hansa.server.state.journal import Journal
from hansa.server.state.runs import Runs

_log = logging.getLogger(__name__)

_LOOK_S = 0.2
_GRACE_S = 2.0

REMEDY = "the operator may add it with 'hansa-server allow-app MODULE:OBJECT'"


class AppFailedError(HansaError):
    """The ServerApp ended with an error of its own."""


def check_app_allowed(plan: FlowerPlan, allowed: Collection[str]) -> None:
    """Both halves of an app must be on the operator's list.

    Raises:
        UnauthorisedError: one is not.
    """
    for ref in (plan.server_app, plan.client_app):
        check_allowed(ref, allowed, REMEDY)


@dataclass(frozen=True, kw_only=True)
class AppRun:
    """One run of a Flower plan; after a crash the ServerApp begins anew and finds its answers."""

    run_id: RunId
    plan: FlowerPlan
    plane: Plane
    runs: Runs
    journal: Journal
    stopped: Callable[[], bool]
    allowed: Collection[str]

    def run(self) -> Sha256 | None:
        """Carries the run to its end; returns the blob of the app's last arrays, if any.

        Raises:
            RunInterrupted: the run was stopped or the server is going down.
            UnauthorisedError: the operator's list does not name the app.
            InvalidInputError: the app cannot be loaded, or misuses the plane.
            QuorumNotMetError: a round had fewer valid answers than the plan's quorum.
            ConflictError: after a restart the app took another course.
            AppFailedError: the app ended with an error.
        """
        check_app_allowed(self.plan, self.allowed)
        app = self._load()
        script = AppScript(self.run_id, self.journal)
        rounds = AppRounds(self.run_id, self.runs, self.plan.quorum)
        grid = AppGrid(self.run_id, self.plan, self.plane, script, rounds, self.stopped)
        work = _Work(app, grid, self._context(), script.seed())
        work.carry_out(self.run_id, self.stopped)
        arrays = work.arrays()
        sha = None if not arrays else store_arrays(self.plane.blobs, numpy_arrays(arrays))
        rounds.end(sha)
        return sha

    def _load(self) -> ServerApp:
        found = load_object(self.plan.server_app)
        if not isinstance(found, ServerApp):
            raise InvalidInputError(
                f"{self.plan.server_app!r} is {type(found).__name__}, no Flower ServerApp; "
                "name the right object in the plan"
            )
        return found

    def _context(self) -> Context:
        return Context(
            run_id=flower_id(self.run_id),
            node_id=0,
            node_config={},
            state=RecordDict(),
            run_config=dict(self.plan.config),
        )


class _Work:
    """The app in its thread, which is left behind where it does not end when told to."""

    def __init__(self, app: ServerApp, grid: AppGrid, context: Context, seed: bytes) -> None:
        self._app = app
        self._grid = grid
        self._context = context
        self._seed = seed
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._results: list[Result] = []

    def carry_out(self, run_id: RunId, stopped: Callable[[], bool]) -> None:
        """Runs the app to its end, or cuts it off from the plane; never beside an earlier one.

        Raises:
            RunInterrupted: the run was stopped or the server is going down.
            AppFailedError: the app ended with an error.
            Exception: the fault that the Grid met, as it is: an outage is not the app's.
        """
        name = f"server-app {run_id}"
        _wait_for_earlier(name, stopped)
        thread = threading.Thread(target=self._main, name=name, daemon=True)
        thread.start()
        try:
            while not self._over.wait(_LOOK_S) and not _is_to_end(stopped):
                pass
        finally:
            self._grid.cut()
        if not self._over.wait(_GRACE_S):
            _log.warning("the ServerApp does not end; it is cut off from the plane")
            raise RunInterrupted
        self._judge()

    def _judge(self) -> None:
        fault = self._grid.fault
        if fault is not None:
            raise fault
        if isinstance(self._error, AppEnded):
            raise RunInterrupted
        if self._error is not None:
            kind = type(self._error).__name__
            raise AppFailedError(f"the ServerApp ended with {kind}: {self._error}") from self._error

    def arrays(self) -> ArrayRecord | None:
        """Of its last ``Result``; where its ``main`` has a loop of its own, what it sent last."""
        return self._results[-1].arrays if self._results else self._grid.last_arrays

    def _main(self) -> None:
        try:
            with results_kept(self._results.append):
                sow(self._seed)
                self._app(self._grid, self._context)
        except BaseException as error:  # noqa: BLE001 - whatever ends a foreign app ends the run
            self._error = error
            if not isinstance(error, AppEnded):
                _log.exception("the ServerApp failed")
        finally:
            scatter()
            self._over.set()


def _is_to_end(stopped: Callable[[], bool]) -> bool:
    """Whether the run is to end; an outage of the database says nothing about that.

    One that lasts costs the lease, and that is known without the database.
    """
    try:
        return stopped()
    except (OperationalError, InterfaceError) as error:
        _log.debug("cannot see whether the run is to end, looking again: %s", error)
        return False


def _wait_for_earlier(name: str, stopped: Callable[[], bool]) -> None:
    """Waits for the run's ServerApp that this process cut off earlier, if it computes on."""
    earlier = [thread for thread in threading.enumerate() if thread.name == name]
    if earlier:
        _log.warning("the run's ServerApp of before computes on; it goes on after that")
    for thread in earlier:
        while thread.is_alive():
            if stopped():
                raise RunInterrupted
            thread.join(_LOOK_S)
