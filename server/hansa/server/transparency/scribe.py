"""Writes into the log what the server's tables state, and signs its checkpoints.

Nobody waits for the scribe: merchants' results are taken in as if it were not there, and it follows
in a thread of its own, a moment later and in one transaction for all that has come. What it had not
written when a server was killed, it finds in the tables when the next one starts. Of several
servers at one database one writes at a time; the others find nothing left to do.
"""

import datetime as dt
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, delete
from sqlalchemy.orm import Session

from hansa.core.canonical import sha256_hex
from hansa.core.errors import HansaError
from hansa.core.evidence import Release
from hansa.core.release import ReleaseManifest
from hansa.core.transparency.checkpoint import Checkpoint
from hansa.core.transparency.leaves import CodeLeaf, ReleaseLeaf, instant
from hansa.core.transparency.merkle import leaf_hash
from hansa.server.state.database import insert_into, retried, writing
from hansa.server.state.fact_notes import note_fact
from hansa.server.state.tables import LogCursorRow, LogNoteRow, RoundRow
from hansa.server.switchboard import Switchboard
from hansa.server.transparency import facts
from hansa.server.transparency.store import Appender, LogStore, logged

_log = logging.getLogger(__name__)

_PERIOD_S = 2.0
"""So often at least the scribe looks, where nothing wakes it."""
_GATHER_S = 0.1
"""It lets so much time pass between two looks, so that one transaction holds many results."""
_LONGEST_STOP_S = 10.0

Now = Callable[[], dt.datetime]


class ReleaseSource(Protocol):
    """Where the signed bytes of a release come from."""

    def evidence(self, version: int) -> Release:
        """The manifest and the TUF metadata of a release."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Cursor:
    """How far a ledger or a run was followed."""

    name: str
    next: int
    done: bool = False


class Scribe:
    """The one writer of the log."""

    def __init__(
        self,
        engine: Engine,
        *,
        key: Ed25519PrivateKey,
        origin: str,
        releases: ReleaseSource,
        switchboard: Switchboard,
        now: Now,
        code: CodeLeaf | None = None,
    ) -> None:
        """Takes its parts.

        Args:
            engine: the database.
            key: signs the checkpoints.
            origin: how checkpoints name the log.
            releases: gives the manifests of releases.
            switchboard: wakes the scribe when something came in.
            now: the clock.
            code: which code this server runs; logged when it starts, once for each.
        """
        self._code = code
        self._engine = engine
        self._key = key
        self._origin = origin
        self._releases = releases
        self._switchboard = switchboard
        self._now = now
        self._store = LogStore(engine)
        self._newest = b""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="log", daemon=True)

    @property
    def newest(self) -> bytes:
        """The newest signed checkpoint that this process knows; empty before the first."""
        return self._newest

    def start(self) -> None:
        """Logs what is there, then follows; a fault of this does not keep the server down."""
        try:
            self._state_code()
            self.catch_up()
        except Exception:  # noqa: BLE001 - the seam: the thread tries again
            _log.exception("the log was not written; trying again")
        self._thread.start()

    def _state_code(self) -> None:
        if self._code is not None:
            with writing(self._engine) as session:
                note_fact(session, self._code)

    def stop(self) -> None:
        """Ends after at most a few seconds; the next start goes on."""
        self._over.set()
        self._switchboard.announce()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_STOP_S)

    def catch_up(self) -> bytes:
        """Logs everything that is stated now; returns the signed checkpoint after it."""
        self._store.begin()
        while self._write_some():
            pass
        self._newest = self._store.note()
        return self._newest

    def _follow(self) -> None:
        while not self._over.wait(_GATHER_S):
            seen = self._switchboard.announced
            try:
                self.catch_up()
            except Exception:  # noqa: BLE001 - the seam of the thread: it must outlive an outage
                _log.exception("the log was not written; trying again")
                self._over.wait(_PERIOD_S)
            self._switchboard.wait(_PERIOD_S, seen)

    @retried
    def _write_some(self) -> bool:
        """One transaction; false when there was nothing to write."""
        with writing(self._engine) as session:
            return _Page(session, self._engine, self._releases).write(
                self._sign, self._origin, self._now()
            )

    def _sign(self, size: int, root: bytes) -> bytes:
        checkpoint = Checkpoint(origin=self._origin, size=size, root=root, time=self._now())
        return checkpoint.signed(self._key)


class _Page:
    """What one transaction adds to the log."""

    def __init__(self, session: Session, engine: Engine, releases: ReleaseSource) -> None:
        self._session = session
        self._engine = engine
        self._releases = releases
        self._end = Appender(session)
        self._cursors: list[_Cursor] = []

    def write(self, sign: Callable[[int, bytes], bytes], origin: str, now: dt.datetime) -> bool:
        """Appends what is missing, signs it and moves the cursors."""
        if self._end.size == 0:
            for body in facts.beginning(self._session, origin, now):
                self._end.append(body)
        self._append_notes()
        self._append_rest()
        if self._end.is_changed:
            self._end.write(sign(self._end.size, self._end.root))
        self._move_cursors()
        return self._end.is_changed

    def _append_notes(self) -> None:
        """Each fact once, although somebody may have stated it twice."""
        waiting = list(facts.noted(self._session))
        if not waiting:
            return
        known = logged(self._session, [leaf_hash(body) for _, body in waiting])
        for _, body in waiting:
            if leaf_hash(body) not in known:
                known.add(leaf_hash(body))
                self._end.append(body)
        numbers = [number for number, _ in waiting]
        self._session.execute(delete(LogNoteRow).where(LogNoteRow.note_id.in_(numbers)))

    def _append_rest(self) -> None:
        """Plans before the entries that they caused, and these before the rounds made of them.

        Rounds are read first and plans last: where others write meanwhile, nothing is read whose
        cause was not.
        """
        begun = [run for run in facts.open_runs(self._session) if run.next_round is not None]
        rounds = [(run, facts.new_rounds(self._session, run)) for run in begun]
        entries = facts.new_entries(self._session)
        for run in facts.open_runs(self._session):
            if run.next_round is None:
                self._end.append(facts.plan_leaf(run))
                self._cursors.append(_Cursor(name=f"run/{run.run_id}", next=0))
        for merchant, position, body in entries:
            self._end.append(body)
            self._cursors.append(_Cursor(name=f"entry/{merchant}", next=position + 1))
        if len(entries) == facts.ENTRIES_AT_ONCE:
            return  # more of them come before the rounds
        for run, rows in rounds:
            self._append_run(run, rows)

    def _append_run(self, run: facts.OpenRun, rows: list[RoundRow]) -> None:
        for row in rows:
            for body in facts.round_leaves(row):
                self._end.append(body)
        number = rows[-1].number + 1 if rows else run.next_round or 0
        if run.has_ended:
            self._append_end(run)
        if rows or run.has_ended:
            cursor = _Cursor(name=f"run/{run.run_id}", next=number, done=run.has_ended)
            self._cursors.append(cursor)

    def _append_end(self, run: facts.OpenRun) -> None:
        for body in facts.lost_rounds(self._session, run):
            self._end.append(body)
        if run.release_version:
            self._append_release(run)
        self._end.append(facts.end_leaf(run))

    def _append_release(self, run: facts.OpenRun) -> None:
        try:
            body = release_leaf(self._releases.evidence(run.release_version).manifest).to_bytes()
        except (HansaError, LookupError) as error:
            _log.error("release %s is not logged: %s", run.release_version, error)
            return
        if not logged(self._session, [leaf_hash(body)]):
            self._end.append(body)

    def _move_cursors(self) -> None:
        """Of several moves of one cursor the last one counts."""
        if not self._cursors:
            return
        rows = {one.name: dict(one.__dict__) for one in self._cursors}
        statement = insert_into(self._engine, LogCursorRow)
        moved = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"next": statement.excluded.next, "done": statement.excluded.done},
        )
        self._session.connection().execute(moved, list(rows.values()))


def release_leaf(signed: bytes) -> ReleaseLeaf:
    """What the log states of a release, from the bytes of its manifest.

    Raises:
        UntrustedReleaseError: they are no manifest.
    """
    manifest = ReleaseManifest.parse(signed)
    return ReleaseLeaf(
        channel=manifest.channel,
        version=manifest.version,
        run=manifest.run,
        manifest_sha256=sha256_hex(signed),
        created=instant(manifest.created),
        parent=manifest.parent,
        restores=manifest.restores,
    )
