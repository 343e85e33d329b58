"""When each client was last heard of: kept in memory, written for all of them once a period.

A commit waits for the disk, and 64 clients beat 64 times a second. What a crash loses here is at
most one period of liveness, which the next heartbeat brings back.
"""

import threading
from collections.abc import Callable

from sqlalchemy import BindParameter, Engine, bindparam, update

from hansa.server.state.database import retried, writing
from hansa.server.state.tables import MerchantRow

Clock = Callable[[], float]


class Pulse:
    """The newest heartbeats of the merchants that this process serves."""

    def __init__(self, engine: Engine, clock: Clock, *, period_s: float) -> None:
        self._engine = engine
        self._clock = clock
        self._period_s = period_s
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._unwritten: set[str] = set()
        self._written = float("-inf")

    def beat(self, merchant: str) -> None:
        """Notes that the merchant's client lives; the first beat of a period writes all of them."""
        now = self._clock()
        with self._lock:
            self._last[merchant] = now
            self._unwritten.add(merchant)
            if now - self._written < self._period_s:
                return
            self._written = now
            due = {name: self._last[name] for name in sorted(self._unwritten)}
            self._unwritten.clear()
        self._write(due)

    def last(self, merchant: str) -> float:
        """When this process heard of the client last; 0: never."""
        with self._lock:
            return self._last.get(merchant, 0.0)

    @retried
    def _write(self, due: dict[str, float]) -> None:
        """Writes in the order of names, so that two servers never wait for each other."""
        seen: BindParameter[float] = bindparam("seen")
        statement = (
            update(MerchantRow)
            .where(MerchantRow.name == bindparam("merchant"), MerchantRow.last_seen < seen)
            .values(last_seen=seen)
        )
        rows = [{"merchant": name, "seen": moment} for name, moment in due.items()]
        with writing(self._engine) as session:
            session.connection().execute(statement, rows)
