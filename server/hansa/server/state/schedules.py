"""Plans that are run again and again, by the clock or when the model has become worse."""

import datetime as dt
from collections.abc import Callable, Sequence

from cronsim import CronSim, CronSimError
from sqlalchemy import Engine, Update, select, update
from sqlalchemy.orm import Session

from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.plan import RunPlan
from hansa.server.state.database import retried, writing
from hansa.server.state.tables import ScheduleRow

Clock = Callable[[], float]


def next_time(cron: str, after: float) -> float:
    """The next moment of a cron expression, in seconds since 1970-01-01 UTC.

    Args:
        cron: five fields: minute, hour, day of the month, month, day of the week; in UTC.
        after: seconds since 1970-01-01 UTC.

    Raises:
        InvalidInputError: the expression is none, or never comes true.
    """
    if len(cron.split()) != 5:  # cronsim also takes seconds
        raise InvalidInputError(
            f"{cron!r} is not a cron expression: it has five fields, for example '0 3 * * 1' for "
            "Mondays at 3:00 UTC"
        )
    start = dt.datetime.fromtimestamp(after, dt.UTC)
    try:
        return next(CronSim(cron, start)).timestamp()
    except CronSimError as error:
        raise InvalidInputError(f"{cron!r} is not a cron expression: {error}") from error
    except StopIteration:
        raise InvalidInputError(f"{cron!r} never comes true; choose a day that exists") from None


class TakenError(ConflictError):
    """Another server has done what was due; nothing is left to do."""


class Turn:
    """Something due of a schedule, for one caller only: of two servers, one takes it."""

    def __init__(self, statement: Update) -> None:
        """Takes the statement that changes the row only where nobody has changed it since."""
        self._statement = statement

    def take(self, session: Session, **noted: str) -> None:
        """Takes it within a transaction, and writes columns of the schedule with it.

        Raises:
            TakenError: another has taken it; the transaction must not be committed.
        """
        taken = self._statement.values(**noted).returning(ScheduleRow.name)
        if session.scalar(taken) is None:
            raise TakenError("another server has done what was due of this schedule")


class Schedules:
    """The operator's standing orders."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @retried
    def add(self, name: str, plan: RunPlan, cron: str, *, drift: float | None) -> ScheduleRow:
        """Writes a schedule down.

        Raises:
            ConflictError: there is one of that name.
            InvalidInputError: the cron expression is malformed.
        """
        row = ScheduleRow(
            name=name,
            plan=plan.model_dump(mode="json"),
            cron=cron,
            drift=drift,
            next_due=next_time(cron, self._clock()),
        )
        with writing(self._engine) as session:
            session.expire_on_commit = False
            if session.get(ScheduleRow, name) is not None:
                raise ConflictError(f"schedule {name!r} exists already; remove it first")
            session.add(row)
        return row

    @retried
    def remove(self, name: str) -> None:
        """Forgets a schedule; runs that it began go on.

        Raises:
            NotFoundError: there is none of that name.
        """
        with writing(self._engine) as session:
            row = session.get(ScheduleRow, name)
            if row is None:
                raise NotFoundError(f"there is no schedule {name!r}; see 'hansa-server schedule'")
            session.delete(row)

    def everything(self) -> Sequence[ScheduleRow]:
        """All schedules by name."""
        with Session(self._engine) as session:
            return session.scalars(select(ScheduleRow).order_by(ScheduleRow.name)).all()

    def due(self) -> Sequence[ScheduleRow]:
        """The schedules whose time has come; times that passed while no server ran count once."""
        with Session(self._engine) as session:
            query = select(ScheduleRow).where(ScheduleRow.next_due <= self._clock())
            return session.scalars(query.order_by(ScheduleRow.next_due)).all()

    def watching(self) -> Sequence[ScheduleRow]:
        """The schedules that wait for the outcome of a watch."""
        with Session(self._engine) as session:
            return session.scalars(select(ScheduleRow).where(ScheduleRow.watch_run != "")).all()

    def time_of(self, row: ScheduleRow) -> Turn:
        """The time that has come for a schedule; whoever takes it puts the next one in its place.

        Raises:
            InvalidInputError: the schedule's cron expression never comes true again.
        """
        later = next_time(row.cron, self._clock())
        return Turn(_row(row).where(ScheduleRow.next_due == row.next_due).values(next_due=later))

    def answer_of(self, row: ScheduleRow) -> Turn:
        """The outcome of a schedule's watch; whoever takes it ends the waiting for it."""
        return Turn(_row(row).where(ScheduleRow.watch_run == row.watch_run).values(watch_run=""))

    @retried
    def take(self, turn: Turn) -> bool:
        """Takes what no run comes of; false where another has taken it."""
        try:
            with writing(self._engine) as session:
                turn.take(session)
        except TakenError:
            return False
        return True


def _row(row: ScheduleRow) -> Update:
    return update(ScheduleRow).where(ScheduleRow.name == row.name)
