"""What the server keeps of what happened: its own events and merchants' signed ledger entries."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from hansa.core.errors import LedgerError
from hansa.server.state.database import insert_into, retried, writing
from hansa.server.state.tables import EventRow, LedgerRow

Clock = Callable[[], float]


class Journal:
    """The operator's events, oldest first."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def note(self, kind: str, **body: Any) -> None:
        """Appends an event; the body holds nothing private."""
        with writing(self._engine) as session:
            session.add(EventRow(time=self._clock(), kind=kind, body=body))

    def bodies(self, kind: str, **holding: Any) -> list[dict[str, Any]]:
        """The bodies of one kind's events that hold these values, oldest first."""
        query = select(EventRow.body).where(EventRow.kind == kind).order_by(EventRow.event_id)
        with Session(self._engine) as session:
            return [body for body in session.scalars(query) if holding.items() <= body.items()]

    def events(self) -> Sequence[EventRow]:
        """All events."""
        with Session(self._engine) as session:
            return session.scalars(select(EventRow).order_by(EventRow.event_id)).all()


class LedgerCopies:
    """The server's copies of the merchants' ledgers; it can read them, not write them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def next_position(self, merchant: str) -> int:
        """The first position that is not held here."""
        with Session(self._engine) as session:
            query = select(func.max(LedgerRow.position)).where(LedgerRow.merchant == merchant)
            last = session.scalar(query)
        return 0 if last is None else last + 1

    def last(self, merchant: str) -> tuple[int, str] | None:
        """The newest entry's position and line."""
        query = select(LedgerRow.position, LedgerRow.line).where(LedgerRow.merchant == merchant)
        newest = query.order_by(LedgerRow.position.desc()).limit(1)
        with Session(self._engine) as session:
            row = session.execute(newest).one_or_none()
        return None if row is None else (row.position, row.line)

    def lines(self, merchant: str, first: int = 0, count: int | None = None) -> list[str]:
        """The merchant's entries in order, each as the canonical JSON line that it signed.

        Args:
            merchant: whose.
            first: the position to begin with.
            count: at most so many; None: all that follow.
        """
        query = (
            select(LedgerRow.line)
            .where(LedgerRow.merchant == merchant, LedgerRow.position >= first)
            .order_by(LedgerRow.position)
            .limit(count)
        )
        with Session(self._engine) as session:
            return list(session.scalars(query))

    @retried
    def append(self, merchant: str, first_position: int, lines: Sequence[str]) -> None:
        """Adds verified entries.

        Raises:
            LedgerError: another server took in another entry at one of these positions meanwhile.
        """
        rows = [
            {"merchant": merchant, "position": first_position + index, "line": line}
            for index, line in enumerate(lines)
        ]
        insert = insert_into(self._engine, LedgerRow)
        with writing(self._engine) as session:
            session.connection().execute(insert.on_conflict_do_nothing(), rows)
            held = session.scalars(
                select(LedgerRow.line)
                .where(LedgerRow.merchant == merchant, LedgerRow.position >= first_position)
                .order_by(LedgerRow.position)
                .limit(len(rows))
            )
            if list(held) != list(lines):
                raise LedgerError(
                    f"two different continuations of the ledger of {merchant} came at once; "
                    "stop one of its clients"
                )
