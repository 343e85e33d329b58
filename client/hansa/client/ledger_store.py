"""The ledger's file: JSON lines with one writer, durable before anything counts.

The folder holds ``ledger.jsonl`` (one canonical entry a line) and ``ledger.key`` (the private key,
mode 0600). A crash can leave an incomplete last line, whose task cannot have begun, because nothing
counts before the line is on the disk: the next writer drops it. Any other fault is an error, never
repaired.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hansa.core.contract import Contract
from hansa.core.errors import BudgetExhaustedError, ConflictError, LedgerError, NotFoundError
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.privacy.entries import Entry, Head
from hansa.core.privacy.events import UNIT, PrivacyEvent, Unit
from hansa.core.privacy.ledger import Ledger, open_ledger
from hansa.core.privacy.mechanism import Entropy
from hansa.core.privacy.own_book import read_own_book
from hansa.core.signing import SEED_BYTES, key_id_of, signing_key
from hansa.core.storage import write_atomically

LEDGER_NAME: Final = "ledger.jsonl"
KEY_NAME: Final = "ledger.key"

_log = logging.getLogger(__name__)


class LedgerFile:
    """An open, locked ledger file; appends whole lines and waits until they are on the disk."""

    def __init__(self, file: BinaryIO) -> None:
        """Takes over a file that is locked and ends with a whole line."""
        self._file = file

    def keep(self, entry: Entry, /) -> None:
        """Writes one line and waits for the disk; after a failure nothing more is written.

        Raises:
            LedgerError: the disk refused; open the store again, which repairs a torn line.
        """
        if self._file.closed:
            raise LedgerError("the ledger is closed; open it again")
        try:
            self._file.write(entry.to_bytes() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self.close()
            raise LedgerError(f"the ledger cannot be written ({error}); nothing began") from error

    def close(self) -> None:
        """Releases the file and its lock."""
        try:
            self._file.close()
        except OSError as error:
            _log.warning("the ledger file closed with an error: %s", error)


class LedgerStore:
    """The writer of one shop's ledger; there is only one at a time.

    Use it as a context manager. Its verbs are those of ``hansa.core.privacy.ledger.Ledger``, safe
    to call from several threads, and durable when they return.
    """

    def __init__(self, ledger: Ledger, file: LedgerFile) -> None:
        """Joins a verified book and its locked file; use ``open`` or ``create``."""
        self._ledger = ledger
        self._file = file
        self._turn = threading.Lock()

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        cap_epsilon: float,
        delta: float,
        entropy: Entropy,
        now: datetime,
        unit: Unit = UNIT,
    ) -> Self:
        """Begins a book under a fresh key, and opens it for writing.

        Raises:
            ConflictError: the folder holds a ledger already; its budget cannot be reset.
            InvalidInputError: the cap or delta is out of bounds.
            LedgerError: another process is creating it.
        """
        key = signing_key(entropy.random_bytes(SEED_BYTES))
        ledger = open_ledger(
            cap_epsilon=cap_epsilon, delta=delta, key=key, entropy=entropy, now=now, unit=unit
        )
        with _sole_creator(folder):
            path = folder / LEDGER_NAME
            if path.exists():
                raise ConflictError(f"{path} exists already; what it has spent cannot be reset")
            write_atomically(folder / KEY_NAME, _key_pem(key), mode=0o600)
            write_atomically(path, ledger.entries[0].to_bytes() + b"\n")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, *, expected_head: Head | None = None) -> Self:
        """Opens the book for writing, verified, and repaired after a crash in mid-line.

        Args:
            folder: where ``create`` put it.
            expected_head: the newest entry that somebody else has seen.

        Raises:
            NotFoundError: the folder holds no ledger.
            LedgerError: another process writes it, the key file is readable by others, or the book
                is broken.
        """
        key = _read_key(folder / KEY_NAME)
        file = LedgerFile(handle := _locked(folder / LEDGER_NAME))
        try:
            entries = read_own_book(_repaired(handle), public_key=key_id_of(key))
            ledger = Ledger(entries, key=key, sink=file, expected_head=expected_head, verified=True)
        except BaseException:
            file.close()
            raise
        return cls(ledger, file)

    @property
    def ledger(self) -> Ledger:
        """The book; read from it freely, write through the store."""
        return self._ledger

    def reserve(
        self,
        task: TaskId,
        *,
        plan_digest: Sha256,
        run: RunId,
        round_number: int,
        phase: str,
        events: Sequence[PrivacyEvent],
        now: datetime,
    ) -> Entry:
        """Spends the worst case of a task before it begins; a refusal for the cap is booked too.

        Raises:
            ConflictError: the id was reserved before; send the kept bytes again instead.
            BudgetExhaustedError: a cap would be exceeded; nothing was spent.
            InvalidInputError: a name or number is out of bounds, the events have another unit than
                the book, or there are none.
            LedgerError: the disk refused, or the clock was moved back.
        """
        with self._turn:
            try:
                return self._ledger.reserve(
                    task,
                    plan_digest=plan_digest,
                    run=run,
                    round_number=round_number,
                    phase=phase,
                    events=events,
                    now=now,
                )
            except BudgetExhaustedError:
                self._ledger.refuse(
                    task, plan_digest=plan_digest, run=run, phase=phase, events=events, now=now
                )
                raise

    def commit(self, task: TaskId, *, sha256: Sha256, now: datetime) -> Entry:
        """Binds a reservation to the bytes that are about to leave; repeating it changes nothing.

        Raises:
            NotFoundError: nothing was reserved under this id.
            ConflictError: other bytes were committed under this id, or it was released.
            LedgerError: the disk refused.
        """
        with self._turn:
            return self._ledger.commit(task, sha256=sha256, now=now)

    def release(self, task: TaskId, *, now: datetime) -> Entry:
        """Takes back the reservation of a task that was given up before it touched any data.

        Raises:
            NotFoundError: nothing was reserved under this id.
            ConflictError: the task was committed.
            LedgerError: the disk refused.
        """
        with self._turn:
            return self._ledger.release(task, now=now)

    def declare(
        self,
        task: TaskId,
        *,
        app: str,
        plan_digest: Sha256,
        run: RunId,
        round_number: int,
        phase: str,
        sha256: Sha256,
        now: datetime,
    ) -> Entry:
        """Books what a foreign app lets out, before it leaves; repeating it changes nothing.

        Raises:
            ConflictError: other bytes were declared under this id, or it was reserved.
            InvalidInputError: a name or number is out of bounds.
            LedgerError: the disk refused.
        """
        with self._turn:
            return self._ledger.declare(
                task,
                app=app,
                plan_digest=plan_digest,
                run=run,
                round_number=round_number,
                phase=phase,
                sha256=sha256,
                now=now,
            )

    def raise_cap(self, cap_epsilon: float, *, now: datetime) -> Entry:
        """Allows more in total.

        Raises:
            InvalidInputError: the new cap is not above the old one.
            LedgerError: the disk refused, or the clock was moved back.
        """
        with self._turn:
            return self._ledger.raise_cap(cap_epsilon, now=now)

    def accept(self, contract: Contract, *, offer: int = 0, now: datetime) -> Entry:
        """Puts terms into force to which the merchant consented.

        Raises:
            InvalidInputError: the terms do not allow the book's own unit.
            LedgerError: the disk refused, or the clock was moved back.
        """
        with self._turn:
            return self._ledger.accept(contract, offer=offer, now=now)

    def close(self) -> None:
        """Lets another process write."""
        self._file.close()

    def __enter__(self) -> Self:
        """The open store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()


def read_ledger(folder: Path) -> Ledger:
    """One's own book as it stands, for reading only: no lock, no key, no repair.

    Raises:
        NotFoundError: the folder holds no ledger.
        LedgerError: the book is broken.
    """
    path = folder / LEDGER_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise _absent(path) from error
    return Ledger(read_own_book(data[: data.rfind(b"\n") + 1]), verified=True)


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keeps every writer away from a book, even from a broken one; nothing is read.

    Raises:
        LedgerError: another process writes it.
    """
    if not (folder / LEDGER_NAME).exists():
        yield
        return
    with _locked(folder / LEDGER_NAME):
        yield


def read_key(folder: Path) -> Ed25519PrivateKey:
    """The key of one's own book.

    Raises:
        NotFoundError: the folder holds none.
        LedgerError: others can read it, or it is no key.
    """
    return _read_key(folder / KEY_NAME)


def _absent(path: Path) -> NotFoundError:
    return NotFoundError(f"there is no ledger at {path.parent}; join a federation first")


@contextmanager
def _sole_creator(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise LedgerError(f"another process is creating the ledger in {folder}") from error
    finally:
        os.close(handle)


def _locked(path: Path) -> BinaryIO:
    """The file, opened for appending by this process alone."""
    try:
        file = path.open("r+b")
    except FileNotFoundError as error:
        raise _absent(path) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise LedgerError(f"another process is writing the ledger {path}; stop it first") from error
    return file


def _repaired(file: BinaryIO) -> bytes:
    """The whole lines of a locked file, once an incomplete last line is dropped from it.

    A complete last entry that merely lacks its line end is kept: forgetting it could forget a cost.
    """
    data = file.read()
    whole, torn = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
    if torn and _is_entry(torn):
        whole = data + b"\n"
        file.write(b"\n")
    elif torn:
        _log.warning("dropped an incomplete last line of %d bytes from the ledger", len(torn))
        file.truncate(len(whole))
        file.seek(len(whole))
    if torn:
        file.flush()
        os.fsync(file.fileno())
    return whole


def _is_entry(line: bytes) -> bool:
    try:
        Entry.parse(line, "the last line")
    except LedgerError:
        return False
    return True


def _key_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(path: Path) -> Ed25519PrivateKey:
    try:
        if path.stat().st_mode & 0o077:
            raise LedgerError(f"others can read the ledger's key; run: chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise _absent(path) from error
    except (OSError, ValueError) as error:
        raise LedgerError(f"the ledger's key {path} cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LedgerError(f"the ledger's key {path} is not an Ed25519 key; restore the backup")
    return key
