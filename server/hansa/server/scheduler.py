"""Starts runs by the clock, and when the released model has become worse."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hansa.core.errors import HansaError
from hansa.core.plan import RunPlan, parse_plan
from hansa.server.launch import Launcher
from hansa.server.state.journal import Journal
from hansa.server.state.runs import UNFINISHED, Runs
from hansa.server.state.schedules import Schedules, TakenError, Turn
from hansa.server.state.tables import ScheduleRow

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_RUN, _WATCH = "last_run", "watch_run"
_LONGEST_NAME = 57
_LONGEST_STOP_S = 10.0


def watch_plan(plan: RunPlan) -> RunPlan:
    """The plan that only asks how good the released model is now, at the plan's own noise."""
    body = plan.model_dump(mode="json")
    body["name"] = f"{plan.name[:_LONGEST_NAME]}-watch"
    body["begins_with"], body["compression"] = "last-release", None
    body["federation"] = {**body["federation"], "rounds": 0}
    return parse_plan(body, "the watch of the plan")


@dataclass(frozen=True, kw_only=True)
class StandingOrders:
    """What the scheduler works with."""

    schedules: Schedules
    runs: Runs
    journal: Journal
    launcher: Launcher


class Scheduler:
    """Looks at the schedules once a second."""

    def __init__(self, desk: StandingOrders) -> None:
        self._desk = desk
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="schedules", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after at most a few seconds."""
        self._over.set()
        self._thread.join(_LONGEST_STOP_S)

    def _work(self) -> None:
        while not self._over.wait(_LOOK_S):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - the seam: the schedules outlive a busy database
                _log.exception("the schedules could not be looked at; trying again")

    def look(self) -> None:
        """Starts what is due, and judges the watches that have ended.

        What goes wrong with one schedule leaves the others alone, and it is still due.
        """
        for row in self._desk.schedules.watching():
            with _fault_logged(row):
                self._judge(row)
        for row in self._desk.schedules.due():
            with _fault_logged(row):
                self._begin(row)

    def _begin(self, row: ScheduleRow) -> None:
        turn = self._desk.schedules.time_of(row)
        if self._is_unfinished(row.last_run) or self._is_unfinished(row.watch_run):
            self._end(row, turn, f"skipped: the run before ({row.last_run}) has not ended")
        elif row.drift is None:
            self._launch(row, turn, _RUN, "its time has come")
        else:
            self._launch(row, turn, _WATCH, "is the model still good?")

    def _launch(self, row: ScheduleRow, turn: Turn, column: str, why: str) -> bool:
        """Queues a run, notes it and takes the turn: all three happen, or none and it is false.

        A plan that cannot be started any more is noted, and tried again at the next time.
        """
        try:
            plan = parse_plan(row.plan, f"the plan of schedule {row.name}")
            self._desk.launcher.launch(
                watch_plan(plan) if column == _WATCH else plan,
                why=f"schedule {row.name}: {why}",
                along=lambda session, run_id: turn.take(session, **{column: run_id}),
            )
        except TakenError:
            _log.debug("schedule %s: another server was quicker", row.name)
        except HansaError as error:
            self._end(row, turn, f"not started: {error}")
        else:
            return True
        return False

    def _is_unfinished(self, run_id: str) -> bool:
        return bool(run_id) and self._desk.runs.get(run_id).state in UNFINISHED

    def _judge(self, row: ScheduleRow) -> None:
        """Compares the noised recall of now with that of the released model's own run."""
        watch = self._desk.runs.get(row.watch_run)
        if watch.state in UNFINISHED:
            return
        turn = self._desk.schedules.answer_of(row)
        now = (watch.evaluation or {}).get("recall_at_10")
        then = self._released_recall(watch.parent_version)
        if watch.state != "completed" or now is None or then is None:
            self._end(row, turn, f"watch {watch.run_id} says nothing: {watch.sentence}")
            return
        fall = then - now
        said = f"noised recall@10 {now:.4f}, at the release {then:.4f}: fell by {fall:.4f}"
        if row.drift is not None and fall >= row.drift:
            why = f"recall@10 fell by {fall:.4f}, the limit is {row.drift:g}"
            if self._launch(row, turn, _RUN, why):
                self._note(row, said)
        else:
            self._end(row, turn, said)

    def _released_recall(self, version: int) -> float | None:
        run = self._desk.runs.of_release(version)
        recall = None if run is None else (run.evaluation or {}).get("recall_at_10")
        return None if recall is None else float(recall)

    def _end(self, row: ScheduleRow, turn: Turn, sentence: str) -> None:
        """Takes a turn of which no run comes, and says why."""
        if self._desk.schedules.take(turn):
            self._note(row, sentence)

    def _note(self, row: ScheduleRow, sentence: str) -> None:
        self._desk.journal.note("schedule", schedule=row.name, sentence=sentence)
        _log.info("schedule %s: %s", row.name, sentence)


@contextmanager
def _fault_logged(row: ScheduleRow) -> Iterator[None]:
    try:
        yield
    except Exception:  # noqa: BLE001 - the seam: a busy database, for example
        _log.exception("schedule %s could not be seen to; trying again", row.name)
