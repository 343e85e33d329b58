"""What auditors collect, read from files: packs, pulled logs, checkpoints and ledgers."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from hansa.core.canonical import parse_json
from hansa.core.errors import AuditFailedError, HansaError, InvalidInputError
from hansa.core.evidence import CHECKPOINT, LEAVES, Evidence, LogCopy, read_pack
from hansa.core.privacy.entries import Entry, verify_chain
from hansa.core.transparency.checkpoint import CheckpointBook, SignedCheckpoint

MAX_FILE_BYTES: Final = 512 << 20


@dataclass(frozen=True, kw_only=True)
class LogSource:
    """A copy of the log, and where it came from."""

    source: str
    copy: LogCopy


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """A checkpoint that somebody saw."""

    source: str
    signed: SignedCheckpoint


@dataclass(frozen=True, kw_only=True)
class LedgerSource:
    """A copy of one merchant's ledger."""

    source: str
    public_key: str
    entries: tuple[Entry, ...]


@dataclass(kw_only=True)
class Copies:
    """Everything in some files."""

    logs: list[LogSource] = field(default_factory=list)
    checkpoints: list[CheckpointSource] = field(default_factory=list)
    ledgers: list[LedgerSource] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Takes in a file, or a folder that ``pull`` made.

        Raises:
            InvalidInputError: it cannot be read, or is none of the known kinds.
            AuditFailedError: a pack or ledger is damaged or was edited.
        """
        if path.is_dir():
            copy = read_log_folder(path)
            self._add_log(str(path), copy)
            return
        data = read_file(path)
        if data.startswith(b"PK"):
            self._add_pack(str(path), read_pack(data))
        elif data.startswith(b"hansa/log/"):
            signed = SignedCheckpoint.parse(data, str(path))
            self.checkpoints.append(CheckpointSource(source=str(path), signed=signed))
        elif b'"format":"hansa-checkpoints' in data[:200]:
            self._add_book(str(path), data)
        else:
            self._add_ledger(str(path), data)

    def _add_log(self, source: str, copy: LogCopy) -> None:
        self.logs.append(LogSource(source=source, copy=copy))

    def _add_pack(self, source: str, evidence: Evidence) -> None:
        if evidence.log is not None:
            self._add_log(source, evidence.log)
        for merchant, entries in sorted(evidence.ledgers.items()):
            if entries:
                self._keep_ledger(f"{source}: ledger of {merchant}", entries)

    def _add_book(self, source: str, data: bytes) -> None:
        try:
            book = CheckpointBook.model_validate(parse_json(data, source))
        except ValidationError as error:
            raise InvalidInputError(f"{source} is no export of checkpoints; export anew") from error
        for note in book.notes:
            signed = SignedCheckpoint.parse(note.encode(), source)
            name = f"{book.witness} ({source})"
            self.checkpoints.append(CheckpointSource(source=name, signed=signed))

    def _add_ledger(self, source: str, data: bytes) -> None:
        lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
        try:
            entries = tuple(Entry.parse(line, f"entry {at}") for at, line in enumerate(lines))
        except HansaError as error:
            raise InvalidInputError(
                f"{source} is no pack, pulled log, checkpoint or ledger: {error}"
            ) from error
        self._keep_ledger(source, entries)

    def _keep_ledger(self, source: str, entries: tuple[Entry, ...]) -> None:
        try:
            key = verify_chain(entries).public_key
        except HansaError as error:
            raise AuditFailedError(f"{source}: {error}") from error
        self.ledgers.append(LedgerSource(source=source, public_key=key, entries=entries))


def read_copies(paths: Iterable[Path]) -> Copies:
    """Everything in these files and folders.

    Raises:
        InvalidInputError: one cannot be read, or is none of the known kinds.
        AuditFailedError: a pack or ledger is damaged or was edited.
    """
    copies = Copies()
    for path in paths:
        copies.add(path)
    return copies


def read_log_folder(folder: Path) -> LogCopy:
    """A log that ``pull`` has fetched.

    Raises:
        InvalidInputError: there is none.
    """
    data = read_file(folder / LEAVES)
    leaves = tuple(data[: data.rfind(b"\n") + 1].split(b"\n")[:-1])
    return LogCopy(checkpoint=read_file(folder / CHECKPOINT), leaves=leaves)


def read_file(path: Path) -> bytes:
    """The bytes of a file that is not too large.

    Raises:
        InvalidInputError: it cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInputError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error
