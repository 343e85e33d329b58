"""What the server keeps of what happened: its own events and merchants' signed ledger entries."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from hansa.server.state.tables import EventRow, LedgerRow

Clock = Callable[[], float]


class Journal:
    """The operator's events, oldest first."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def note(self, kind: str, **body: Any) -> None:
        """Appends an event; the body holds nothing private."""
        with Session(self._engine) as session, session.begin():
            session.add(EventRow(time=self._clock(), kind=kind, body=body))

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

    def lines(self, merchant: str) -> list[str]:
        """The merchant's entries in order, each as the canonical JSON line that it signed."""
        with Session(self._engine) as session:
            query = (
                select(LedgerRow).where(LedgerRow.merchant == merchant).order_by(LedgerRow.position)
            )
            return [row.line for row in session.scalars(query)]

    def append(self, merchant: str, first_position: int, lines: Sequence[str]) -> None:
        """Adds verified entries."""
        with Session(self._engine) as session, session.begin():
            session.add_all(
                LedgerRow(merchant=merchant, position=first_position + index, line=line)
                for index, line in enumerate(lines)
            )
