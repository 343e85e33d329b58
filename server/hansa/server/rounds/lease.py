"""A server's hold on the run that it carries out: renewed in the background, lost when it is not.

Of several servers at one database exactly one works on a run. The database's word decides
(``Runs.owned_by`` refuses the others); the lease lets the one in work notice in time, also after it
was itself held up: it counts seconds from before each renewal was asked for.
"""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from sqlalchemy.exc import SQLAlchemyError

from hansa.server.state.runs import Runs

_log = logging.getLogger(__name__)

LEASE_S = 15.0
"""After so many seconds without a renewal another server takes a run over."""

_RENEWALS_PER_LEASE = 3


class Lease:
    """One run's claim, kept for as long as the block lasts and given up at its end."""

    def __init__(
        self,
        runs: Runs,
        run_id: str,
        *,
        owner: str,
        lease_s: float,
        claimed_at: float,
        on_loss: Callable[[], None],
    ) -> None:
        """Takes over a claim.

        Args:
            runs: where the claim is written.
            run_id: the claimed run.
            owner: who claimed it.
            lease_s: how long a claim or renewal lasts.
            claimed_at: the moment before the claim, of ``time.monotonic``.
            on_loss: is called once, from another thread, when another server has the run.
        """
        self._runs = runs
        self._run_id = run_id
        self._owner = owner
        self._lease_s = lease_s
        self._until = claimed_at + lease_s
        self._on_loss = on_loss
        self._over = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._keep, name=f"lease {run_id}", daemon=True)

    @property
    def is_held(self) -> bool:
        """Whether no other server can have taken the run over yet."""
        return not self._lost and time.monotonic() < self._until

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        try:
            self._runs.release(self._run_id, self._owner)
        except SQLAlchemyError as fault:
            _log.warning("run %s was not given up; its lease will end: %s", self._run_id, fault)

    def _keep(self) -> None:
        while not self._lost and not self._over.wait(self._lease_s / _RENEWALS_PER_LEASE):
            self._renew()

    def _renew(self) -> None:
        asked = time.monotonic()
        try:
            kept = self._runs.renew(self._run_id, self._owner, self._lease_s)
        except SQLAlchemyError as fault:
            _log.warning("the lease of run %s was not renewed: %s", self._run_id, fault)
            return
        if kept:
            self._until = asked + self._lease_s
            return
        self._lost = True
        _log.warning("another server has taken run %s over", self._run_id)
        self._on_loss()
