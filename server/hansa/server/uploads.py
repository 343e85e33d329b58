"""Blobs on their way in: kept by merchant and task, resumed at the byte where they broke off."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hansa.core.canonical import sha256_hex
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import MerchantId, Sha256
from hansa.core.storage import CHUNK_BYTES, BlobStore, check_sha256, file_sha256, write_atomically

MAX_UPLOAD_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Which blob answers which task of which merchant."""

    merchant: MerchantId
    task_id: str
    sha256: Sha256
    size_bytes: int

    @staticmethod
    def checked(merchant: MerchantId, task_id: str, sha256: str, size_bytes: int) -> "Slot":
        """The slot for values from the wire.

        Raises:
            InvalidInputError: the digest is malformed, or the size is nothing or too much.
        """
        if not 0 < size_bytes <= MAX_UPLOAD_BYTES:
            raise InvalidInputError(f"an upload is between 1 and {MAX_UPLOAD_BYTES} bytes long")
        return Slot(
            merchant=merchant, task_id=task_id, sha256=check_sha256(sha256), size_bytes=size_bytes
        )

    @property
    def name(self) -> str:
        """A file name; the task id comes from outside and is hashed."""
        return f"{sha256_hex(self.task_id.encode())[:32]}-{self.sha256}"


class Uploads:
    """The parts that have arrived, and a mark for each blob that is whole."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder = folder
        self._blobs = blobs
        self._lock = threading.Lock()
        self._newest: dict[str, int] = {}

    def offset(self, slot: Slot) -> int:
        """So many bytes are stored."""
        if self.is_complete(slot):
            return slot.size_bytes
        part = self._part(slot)
        return part.stat().st_size if part.exists() else 0

    def is_complete(self, slot: Slot) -> bool:
        """Whether this merchant has delivered the blob for this task."""
        return self._mark(slot).exists() and self._blobs.has(slot.sha256)

    def begin(self, slot: Slot, offset: int) -> Callable[[bytes], None]:
        """Opens a stream; a newer stream for the same slot ends an older one.

        Returns:
            A function that stores the next bytes; it raises ConflictError once a newer stream
            began, and InvalidInputError for a piece over 1 MiB or beyond the promised size.

        Raises:
            ConflictError: the stream does not begin where the stored bytes end.
        """
        key = f"{slot.merchant}/{slot.name}"
        with self._lock:
            self._newest[key] = generation = self._newest.get(key, 0) + 1
            stored = self.offset(slot)
            if offset != stored:
                raise ConflictError(f"the upload must go on at byte {stored}")
        self._part(slot).parent.mkdir(parents=True, exist_ok=True)

        def append(data: bytes) -> None:
            self._append(slot, key, generation, data)

        return append

    def _append(self, slot: Slot, key: str, generation: int, data: bytes) -> None:
        with self._lock:
            if self._newest[key] != generation:
                raise ConflictError("a newer upload of this blob took over")
            if len(data) > CHUNK_BYTES or self.offset(slot) + len(data) > slot.size_bytes:
                raise InvalidInputError(
                    "a piece is larger than 1 MiB or goes beyond the promised size"
                )
            with self._part(slot).open("ab") as file:
                file.write(data)

    def finish(self, slot: Slot) -> bool:
        """Adopts the blob when all its bytes are here; false when some are missing.

        Raises:
            InvalidInputError: the bytes do not have the promised digest; they are dropped.
        """
        if self.is_complete(slot):
            return True
        part = self._part(slot)
        if not part.exists() or part.stat().st_size < slot.size_bytes:
            return False
        if file_sha256(part) != slot.sha256:
            part.unlink()
            raise InvalidInputError(
                "the uploaded bytes do not have the promised digest; send them again"
            )
        self._blobs.adopt(part)
        write_atomically(self._mark(slot), b"")
        return True

    def _part(self, slot: Slot) -> Path:
        return self._folder / slot.merchant / f"{slot.name}.part"

    def _mark(self, slot: Slot) -> Path:
        return self._folder / slot.merchant / f"{slot.name}.done"
