"""Blobs on their way in: kept by merchant and task, resumed at the byte where they broke off.

Parts are files of this server; that a blob is whole stands in the database, for all servers.
"""

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hansa.core.canonical import sha256_hex
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import MerchantId, Sha256
from hansa.core.storage import CHUNK_BYTES, INLINE_BYTES, BlobStore, PartFile, check_sha256
from hansa.server.state.tasks import Tasks
from hansa.server.state.uploads import Deliveries

MAX_UPLOAD_BYTES = 256 << 20
MAX_UNFINISHED_BYTES = 2 * MAX_UPLOAD_BYTES
"""Of all parts of a merchant together; one whose blobs all come to an end never meets it."""

_SYNC_BYTES = 16 << 20
_PART = ".part"
_TASK_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Which blob answers which task of which merchant."""

    merchant: MerchantId
    task_id: str
    sha256: Sha256
    size_bytes: int
    wanted: bool = True
    """Whether the task is open: one that is closed needs no blob any more, and none is taken."""

    @staticmethod
    def checked(
        merchant: MerchantId, task_id: str, sha256: str, size_bytes: int, *, wanted: bool = True
    ) -> "Slot":
        """The slot for values from the wire.

        Raises:
            InvalidInputError: the digest is malformed, or the size is nothing or too much.
        """
        if not 0 < size_bytes <= MAX_UPLOAD_BYTES:
            raise InvalidInputError(f"an upload is between 1 and {MAX_UPLOAD_BYTES} bytes long")
        return Slot(
            merchant=merchant,
            task_id=task_id,
            sha256=check_sha256(sha256),
            size_bytes=size_bytes,
            wanted=wanted,
        )

    @property
    def task_name(self) -> str:
        """The beginning of a file's name; the task id comes from outside and is hashed."""
        return _task_name(self.task_id)


class Incoming:
    """One stream of a blob's bytes; its calls may come from several threads, one after another."""

    def __init__(self, slot: Slot, path: Path, blobs: BlobStore, deliveries: Deliveries) -> None:
        self.slot = slot
        self._path = path
        self._blobs = blobs
        self._deliveries = deliveries
        self._lock = threading.Lock()
        self._part: PartFile | None = None
        self._over = False
        self._size = 0

    def open(self, offset: int) -> None:
        """Hashes what is stored, once, and takes the rest from there.

        Raises:
            ConflictError: the stream does not begin where the stored bytes end, or a newer one
                took over.
        """
        with self._lock:
            self._refuse_if_over()
            stored = self._path.stat().st_size if self._path.exists() else 0
            if offset != stored:
                raise ConflictError(f"the upload must go on at byte {stored}")
            self._part = PartFile(self._path, sync_bytes=_SYNC_BYTES)
            self._size = self._part.size

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Stores the next bytes.

        Raises:
            ConflictError: a newer stream for the same task took over, or nothing more is needed.
            InvalidInputError: a piece is over 1 MiB, or goes beyond the promised size.
            OSError: the disk is full.
        """
        with self._lock:
            self._refuse_if_over()
            self._append(pieces)

    def _append(self, pieces: Sequence[bytes | memoryview]) -> None:
        if self._part is None and pieces:
            raise ConflictError("nothing more of this blob is needed; ask for its state")
        for piece in pieces:
            self._store(piece)

    def ends_with(self, pieces: Sequence[bytes | memoryview]) -> bool:
        """Whether the blob is whole with these; a thread that stores others must not be at work."""
        return self._size + sum(map(len, pieces)) == self.slot.size_bytes

    def _store(self, piece: bytes | memoryview) -> None:
        if len(piece) > CHUNK_BYTES or self._size + len(piece) > self.slot.size_bytes:
            raise InvalidInputError("a piece is larger than 1 MiB or goes beyond the promised size")
        if self._part is not None:
            self._part.append(piece)
            self._size = self._part.size

    def finish(self, pieces: Sequence[bytes | memoryview] = ()) -> bool:
        """Takes the blob into the store when all its bytes are here; false when some are missing.

        Args:
            pieces: the last ones, stored before.

        Raises:
            ConflictError: a newer stream for the same task took over.
            InvalidInputError: as for ``append``, or the bytes do not have the promised digest; they
                are dropped then.
            OSError: the disk is full.
        """
        with self._lock:
            self._refuse_if_over()
            self._append(pieces)
            if self._part is None:
                return True
            if self._part.size < self.slot.size_bytes:
                return False
            self._adopt(self._part)
            return True

    def _adopt(self, part: PartFile) -> None:
        if part.sha256 != self.slot.sha256:
            self._path.unlink()
            raise InvalidInputError(
                "the uploaded bytes do not have the promised digest; send them again"
            )
        self._blobs.adopt(self._path, part.sync())
        self._deliveries.note(self.slot.merchant, self.slot.task_id, self.slot.sha256)

    def close(self) -> None:
        """Ends the stream, whatever came of it; what is stored stays."""
        with self._lock:
            self._over = True
            if self._part is not None:
                self._part.close()

    @property
    def size(self) -> int:
        """Bytes that are stored."""
        return self._size

    def set_delivered(self) -> None:
        """Nothing needs to come any more."""
        self._size = self.slot.size_bytes

    def _refuse_if_over(self) -> None:
        if self._over:
            raise ConflictError("a newer upload of this blob took over")


class Uploads:
    """The parts that have arrived: of a task there is one, and one stream that adds to it."""

    def __init__(
        self, folder: Path, blobs: BlobStore, deliveries: Deliveries, tasks: Tasks
    ) -> None:
        self._folder = folder
        self._blobs = blobs
        self._deliveries = deliveries
        self._tasks = tasks
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], Incoming] = {}

    def offset(self, slot: Slot) -> int:
        """So many bytes are stored, or all where no more are needed."""
        if not slot.wanted or self.is_complete(slot):
            return slot.size_bytes
        part = self._part(slot)
        return part.stat().st_size if part.exists() else 0

    def is_complete(self, slot: Slot) -> bool:
        """Whether this merchant has delivered the blob for this task."""
        noted = self._deliveries.is_noted(slot.merchant, slot.task_id, slot.sha256)
        return noted and self._blobs.has(slot.sha256)

    def received(self, merchant: MerchantId, task_id: str) -> bool:
        """Whether any byte of an answer to this task ever came in over a stream."""
        parts = (self._folder / merchant).glob(f"{_task_name(task_id)}-*{_PART}")
        return self._deliveries.has_any(merchant, task_id) or any(_size(part) for part in parts)

    def take(self, slot: Slot, data: bytes) -> None:
        """Stores a small blob that came with its message; its task is to be closed with it at once.

        Raises:
            InvalidInputError: it is too large for that, or not the promised bytes.
        """
        if len(data) > INLINE_BYTES:
            raise InvalidInputError(f"more than {INLINE_BYTES} bytes must be uploaded")
        if len(data) != slot.size_bytes or sha256_hex(data) != slot.sha256:
            raise InvalidInputError("the content does not have the promised digest; send it again")
        self._blobs.put(data)

    def begin(self, slot: Slot, offset: int) -> Incoming:
        """Opens a stream; a newer stream for the same task ends an older one. Close it in any case.

        Raises:
            ConflictError: the stream does not begin where the stored bytes end.
            InvalidInputError: the merchant's unfinished uploads are too many bytes already.
        """
        incoming = Incoming(slot, self._part(slot), self._blobs, self._deliveries)
        self._take_over(incoming)
        try:
            if not slot.wanted or self.is_complete(slot):
                incoming.set_delivered()
            else:
                self._make_room(slot)
                incoming.open(offset)
        except BaseException:
            self.end(incoming)
            raise
        return incoming

    def _take_over(self, incoming: Incoming) -> None:
        key = _key(incoming.slot)
        with self._lock:
            older, self._open[key] = self._open.get(key), incoming
        if older is not None:
            older.close()

    def end(self, incoming: Incoming) -> None:
        """Closes a stream and forgets it."""
        incoming.close()
        key = _key(incoming.slot)
        with self._lock:
            if self._open.get(key) is incoming:
                del self._open[key]

    def _make_room(self, slot: Slot) -> None:
        if not self._part(slot).exists():
            self._tidy(slot.merchant, but=slot)
        others = sum(self._claimed(part) for part in self._parts(slot.merchant, but=slot))
        if others + slot.size_bytes > MAX_UNFINISHED_BYTES:
            raise InvalidInputError(
                f"this merchant's unfinished uploads may hold {MAX_UNFINISHED_BYTES} bytes; "
                "finish those that were begun"
            )

    def _claimed(self, part: Path) -> int:
        """The bytes of a part, or those that an open stream will make of it."""
        with self._lock:
            incoming = self._open.get((part.parent.name, part.name[:_TASK_DIGITS]))
        if incoming is not None:
            return incoming.slot.size_bytes
        return _size(part)

    def sweep(self) -> None:
        """Removes the parts of all tasks that were closed, whoever closed them."""
        for folder in self._folder.glob("*"):
            self._tidy(MerchantId(folder.name))

    def _tidy(self, merchant: MerchantId, but: Slot | None = None) -> None:
        """Removes parts of closed tasks, and those of ``but``'s task that hold other bytes."""
        parts = self._parts(merchant, but=but)
        if not parts:
            return
        keep = {_task_name(row.task_id) for row in self._tasks.open_for(merchant)}
        for part in parts:
            task = part.name[:_TASK_DIGITS]
            if task not in keep or (but is not None and task == but.task_name):
                part.unlink(missing_ok=True)

    def forget(self, merchant: MerchantId, task_id: str) -> None:
        """Removes what is left of a closed task's uploads."""
        for part in (self._folder / merchant).glob(f"{_task_name(task_id)}-*{_PART}"):
            part.unlink(missing_ok=True)

    def _parts(self, merchant: str, but: Slot | None) -> list[Path]:
        own = None if but is None else self._part(but)
        return [part for part in (self._folder / merchant).glob(f"*-*{_PART}") if part != own]

    def _part(self, slot: Slot) -> Path:
        return self._folder / slot.merchant / f"{slot.task_name}-{slot.sha256}{_PART}"


def _key(slot: Slot) -> tuple[str, str]:
    return (slot.merchant, slot.task_name)


def _task_name(task_id: str) -> str:
    return sha256_hex(task_id.encode())[:_TASK_DIGITS]


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
