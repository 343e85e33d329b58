"""This site's eye on the operator's log: what it has seen once must be there for ever.

With every task the server shows a signed checkpoint of its transparency log. The witness keeps the
newest one durably, and before the site works on a newer one it wants two proofs: that the new log
begins with the whole of the old one, and that the site's own ledger entries stand in it. A log that
was cut, rewritten, forked or that leaves entries out cannot give them. Then the witness writes down
both checkpoints, which the operator has signed and cannot deny, and refuses all further work.

The log follows the results a moment later. An entry that the server has acknowledged may therefore
be missing once; where it is still missing after ``MERGE_DELAY``, it is withheld.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NoReturn, Protocol

from hansa.client.site import Site
from hansa.client.witness_memory import Alarm, Seen, WitnessMemory
from hansa.core.errors import HansaError, InvalidInputError, NotFoundError, TransparencyError
from hansa.core.privacy.entries import Entry
from hansa.core.transparency.checkpoint import (
    MAX_NOTE_BYTES,
    Checkpoint,
    CheckpointBook,
    SignedCheckpoint,
)
from hansa.core.transparency.leaves import entry_leaf
from hansa.core.transparency.merkle import leaf_hash, verify_consistency, verify_inclusion

_log = logging.getLogger(__name__)

MERGE_DELAY: Final = timedelta(minutes=5)
MAX_WANTED: Final = 64
"""Own entries that are asked for at once; a long backlog takes several rounds."""

_WHAT = "the server's checkpoint"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an entry stands, with its audit path."""

    index: int
    path: Sequence[bytes]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The server's answer: how the log grew, and where the wanted entries stand."""

    proof: Sequence[bytes]
    places: Sequence[Place | None]
    """None: the log does not hold this entry."""


class LogLine(Protocol):
    """Asks the server for proofs; raises InvalidInputError or NotFoundError where it has none."""

    def growth(self, first: int, second: int, leaf_hashes: Sequence[bytes]) -> Growth:
        """From one size of the log to a later one."""
        ...

    def places(self, size: int, leaf_hashes: Sequence[bytes]) -> Sequence[Place | None]:
        """Of entries in the log of one size."""
        ...


class Witness:
    """Keeps one site's view of the operator's log, in a folder of its own."""

    def __init__(self, folder: Path, *, merchant: str, plan_key: str) -> None:
        """Takes the folder, whose ledger it watches over, and the operator's pinned key."""
        self._folder = folder
        self.memory = WitnessMemory(folder)
        self._merchant = merchant
        self._plan_key = plan_key
        self._said_absent = False

    @staticmethod
    def of(site: Site) -> "Witness":
        """The site's witness.

        Raises:
            NotFoundError: the site has not joined yet.
        """
        settings = site.settings()
        return Witness(site.log, merchant=settings.merchant, plan_key=settings.plan_public_key)

    def check(
        self,
        note: bytes,
        line: LogLine,
        *,
        entries: Sequence[Entry],
        acknowledged: int,
        now: datetime,
    ) -> None:
        """Believes a checkpoint, or refuses for good; asks the server only about a new one.

        Args:
            note: the checkpoint that came with the task; empty from a server without a log.
            line: asks for proofs, at most once.
            entries: this site's whole ledger.
            acknowledged: so many of them the server says that it holds.
            now: this machine's time.

        Raises:
            TransparencyError: the log was cut, rewritten, forked or withholds entries.
        """
        with self._turn():
            self.require_quiet()
            seen = self.memory.seen()
            if not note:
                self._accept_absence(seen)
                return
            _Look(self, line, seen, entries[:acknowledged], now).at(note)

    def require_quiet(self) -> None:
        """Refuses as long as an alarm stands.

        Raises:
            TransparencyError: there is one.
        """
        alarm = self.memory.alarm()
        if alarm is not None:
            raise TransparencyError(
                f"the operator's log cannot be trusted since {alarm.time:%Y-%m-%d %H:%M}: "
                f"{alarm.sentence}; see 'hansa-client checkpoints show'"
            )

    def _accept_absence(self, seen: Seen) -> None:
        if seen.note is not None:
            raise TransparencyError(
                "the server shows its log no longer, although it has one; ask the operator why"
            )
        if not self._said_absent:
            self._said_absent = True
            _log.warning("this server keeps no transparency log; nothing of it can be witnessed")

    def book(self) -> CheckpointBook:
        """All checkpoints that are kept, and those of the alarm, for an auditor."""
        notes = self.memory.kept()
        alarm = self.memory.alarm()
        if alarm is not None and _is_note(alarm.shown):
            notes.append(alarm.shown)
        return CheckpointBook(witness=self._merchant, plan_key=self._plan_key, notes=tuple(notes))

    def reset(self, now: datetime) -> Path | None:
        """Sets everything aside and begins anew; returns where the old is kept."""
        with self._turn():
            return self.memory.set_aside(now)

    def trusted(self, note: bytes) -> Checkpoint:
        """The checkpoint in a note that the pinned key has signed.

        Raises:
            TransparencyError: it has not.
        """
        try:
            return SignedCheckpoint.parse(note, _WHAT).verify(key_id=self._plan_key)
        except InvalidInputError as error:
            raise TransparencyError(str(error)) from error

    def leaf_of(self, entry: Entry) -> bytes:
        """The leaf hash under which one of this site's entries must stand in the log."""
        return leaf_hash(entry_leaf(self._merchant, entry.position, entry.hash))

    def raise_alarm(self, sentence: str, seen: Seen, note: bytes, now: datetime) -> NoReturn:
        """Writes down what is wrong, durably, and refuses.

        Raises:
            TransparencyError: always.
        """
        shown = note[:MAX_NOTE_BYTES].decode("utf-8", errors="replace")
        alarm = Alarm(time=now, sentence=sentence, known=seen.note, shown=shown)
        self.memory.write_alarm(alarm)
        _log.error("the operator's log cannot be trusted: %s", sentence)
        raise TransparencyError(f"the operator's log cannot be trusted: {sentence}")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The client and a command of the same site take turns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


class _Look:
    """One look at a checkpoint."""

    def __init__(
        self,
        witness: Witness,
        line: LogLine,
        seen: Seen,
        own: Sequence[Entry],
        now: datetime,
    ) -> None:
        self._witness = witness
        self._line = line
        self._seen = seen
        self._wanted = own[seen.own : seen.own + MAX_WANTED]
        self._now = now
        self._note = b""

    def at(self, note: bytes) -> None:
        """Believes the checkpoint or raises the alarm."""
        self._note = note
        known = self._known()
        try:
            shown = self._witness.trusted(note)
            self._compare(known, shown)
        except (TransparencyError, InvalidInputError, NotFoundError) as error:
            self._witness.raise_alarm(str(error), self._seen, note, self._now)

    def _known(self) -> Checkpoint | None:
        if self._seen.note is None:
            return None
        return self._witness.trusted(self._seen.note.encode())

    def _compare(self, known: Checkpoint | None, shown: Checkpoint) -> None:
        if known is None:
            self._begin(shown)
            return
        if shown.origin != known.origin:
            raise TransparencyError(f"the server shows another log, {shown.origin}")
        if shown.size == known.size:
            self._require_same(known, shown)
            self._wait()
        elif shown.size < known.size:
            self._look_back(shown, known)
        else:
            self._grow(known, shown)

    def _begin(self, shown: Checkpoint) -> None:
        """The first checkpoint is believed; whatever comes later must go on from it."""
        hashes = [self._witness.leaf_of(entry) for entry in self._wanted]
        places = self._line.places(shown.size, hashes) if hashes and shown.size else []
        self._take_in(shown, places)

    @staticmethod
    def _require_same(known: Checkpoint, shown: Checkpoint) -> None:
        if shown.root != known.root:
            raise TransparencyError(
                f"there are two logs of {shown.size} entries: this site saw another one before"
            )

    def _look_back(self, shown: Checkpoint, known: Checkpoint) -> None:
        """Of two servers one may be a moment behind; but the log must not have become shorter."""
        what = f"the log has {shown.size} entries, and had {known.size} before"
        try:
            growth = self._line.growth(max(1, shown.size), known.size, [])
        except (InvalidInputError, NotFoundError) as error:
            raise TransparencyError(f"{what}: entry {shown.size} was cut off") from error
        verify_consistency(
            shown.size,
            known.size,
            first_root=shown.root,
            second_root=known.root,
            proof=growth.proof if shown.size else [],
        )

    def _grow(self, known: Checkpoint, shown: Checkpoint) -> None:
        hashes = [self._witness.leaf_of(entry) for entry in self._wanted]
        try:
            growth = self._line.growth(max(1, known.size), shown.size, hashes)
        except (InvalidInputError, NotFoundError) as error:
            raise TransparencyError(
                f"the server cannot prove that its log of {shown.size} entries goes on from the "
                f"{known.size} that this site saw: {error}"
            ) from error
        verify_consistency(
            known.size,
            shown.size,
            first_root=known.root,
            second_root=shown.root,
            proof=growth.proof if known.size else [],
        )
        self._take_in(shown, growth.places)

    def _take_in(self, shown: Checkpoint, places: Sequence[Place | None]) -> None:
        """Remembers the checkpoint, and which of this site's entries stand in it."""
        found = 0
        for entry, place in zip(self._wanted, places, strict=False):
            if place is None:
                break
            verify_inclusion(
                self._witness.leaf_of(entry),
                index=place.index,
                size=shown.size,
                proof=place.path,
                root=shown.root,
            )
            found += 1
        missing = found < len(self._wanted)
        since = self._missing_since(found) if missing else None
        seen = Seen(note=self._note.decode(), own=self._seen.own + found, waiting_since=since)
        self._witness.memory.keep(seen, fresh=True)

    def _wait(self) -> None:
        """Nothing new: no question. But a log that stands still for long withholds entries."""
        if self._wanted and self._missing_since(0) != self._seen.waiting_since:
            seen = self._seen.model_copy(update={"waiting_since": self._now})
            self._witness.memory.keep(seen, fresh=False)

    def _missing_since(self, found: int) -> datetime:
        """Since when the first entry that is not there is missed."""
        since = self._seen.waiting_since
        if since is None or found:
            return self._now
        if self._now - since > MERGE_DELAY:
            position = self._wanted[0].position
            raise TransparencyError(
                f"entry {position} of this site's ledger is withheld: the server took it in, and "
                "its log does not hold it"
            )
        return since


def _is_note(text: str) -> bool:
    try:
        SignedCheckpoint.parse(text.encode(), _WHAT)
    except HansaError:
        return False
    return True
