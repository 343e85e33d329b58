"""Files that are either whole or absent: atomic writes and a content-addressed blob directory.

This is the only module of ``hansa.core`` that writes to the disk.
"""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.ids import Sha256

INLINE_BYTES = 64 << 10
"""What is no larger travels within the message that names it, and needs no call of its own."""

CHUNK_BYTES = 1 << 20
"""1 MiB: the fastest gRPC chunk measured, and below gRPC's default message limit."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fsync_directory(folder: Path) -> None:
    """Makes a rename inside ``folder`` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces ``path`` by ``data``: after a crash it holds all the old bytes or all the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two threads, or processes, may write the same path at the same moment.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a disk that is full is not filled any further
        raise
    fsync_directory(path.parent)


def check_sha256(text: str) -> Sha256:
    """The text as a digest.

    Raises:
        InvalidInputError: it is not 64 lower-case hexadecimal digits.
    """
    if not _SHA256.fullmatch(text):
        raise InvalidInputError("a blob is named by 64 lower-case hexadecimal digits")
    return Sha256(text)


def file_sha256(path: Path) -> Sha256:
    """The digest of a file, read in pieces."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(CHUNK_BYTES):
            hasher.update(piece)
    return Sha256(hasher.hexdigest())


class PartFile:
    """A blob on its way in: hashed while its bytes arrive, so that its end need not be read again.

    Bytes that a broken transfer left are kept, and hashed once when the file is opened again.
    """

    def __init__(self, path: Path, *, sync_bytes: int | None = None) -> None:
        """Opens the file and hashes what it holds.

        Args:
            path: the file; it is made if there is none.
            sync_bytes: after so many bytes they are brought to the disk while others still come
                in, so that the end need not wait for all of them at once.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._sync_bytes = sync_bytes
        self._hasher = hashlib.sha256()
        self._file = path.open("a+b", buffering=0)
        self.size = 0
        """Bytes that are stored."""
        self._read_what_is_there()
        self._synced = self.size

    def _read_what_is_there(self) -> None:
        self._file.seek(0)
        while piece := self._file.read(CHUNK_BYTES):
            self._hasher.update(piece)
            self.size += len(piece)

    def append(self, piece: bytes | memoryview) -> None:
        """Stores the next bytes.

        Raises:
            OSError: the disk is full or broken; close the file, and open it anew to go on.
        """
        rest = memoryview(piece)
        while rest:
            written = self._file.write(rest)
            self._hasher.update(rest[:written])
            self.size += written
            rest = rest[written:]
        if self._sync_bytes is not None and self.size - self._synced >= self._sync_bytes:
            os.fdatasync(self._file.fileno())
            self._synced = self.size

    def sync(self) -> Sha256:
        """Makes what is stored survive a power loss, and returns its digest."""
        os.fsync(self._file.fileno())
        return self.sha256

    @property
    def sha256(self) -> Sha256:
        """The digest of what is stored."""
        return Sha256(self._hasher.hexdigest())

    def close(self) -> None:
        """Ends the writing; the bytes stay where they are."""
        self._file.close()


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a listing says of a blob."""

    sha: Sha256
    size_bytes: int
    stored: float
    """When it was written, or last needed; seconds since 1970."""


class BlobStore:
    """A directory of immutable blobs, each named by its SHA-256 digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[Sha256] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha: Sha256) -> Path:
        """Where the blob lies or would lie."""
        name = check_sha256(sha)
        return self.folder / name[:2] / name

    def part(self, sha: Sha256) -> Path:
        """Where a blob whose name is known may be written while it comes in."""
        return self.folder / f"{check_sha256(sha)}.part"

    def put(self, data: bytes) -> Sha256:
        """Stores the bytes (once) and returns their name."""
        sha = sha256_hex(data)
        try:
            os.utime(self.path(sha))  # it is here, and needed again: whoever tidies up goes by age
        except FileNotFoundError:
            write_atomically(self.path(sha), data)
        self._known.add(sha)
        return sha

    def write(self, pieces: Iterable[bytes | memoryview]) -> Sha256:
        """Stores what the pieces make up together, without ever holding all of it in memory."""
        part = PartFile(self.folder / f".{uuid.uuid4().hex}.part")
        try:
            for piece in pieces:
                part.append(piece)
            sha = part.sync()
            self.adopt(part.path, sha)
        finally:
            part.close()
            part.path.unlink(missing_ok=True)
        return sha

    def adopt(self, part: Path, sha: Sha256 | None = None) -> Sha256:
        """Moves a whole file into the store under its own digest.

        Args:
            part: the file, in the same file system as the store.
            sha: its digest, if the caller has hashed and synced it; else both are done here.
        """
        if sha is None:
            with contextlib.closing(PartFile(part)) as whole:
                sha = whole.sync()
        target = self.path(sha)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        fsync_directory(target.parent)
        self._known.add(sha)
        return sha

    def has(self, sha: Sha256) -> bool:
        """Whether the blob is here."""
        return self.path(sha).is_file()

    def size(self, sha: Sha256) -> int:
        """The blob's length in bytes.

        Raises:
            NotFoundError: there is no such blob.
        """
        if not self.has(sha):
            raise NotFoundError(f"blob {sha[:12]} is not stored here")
        return self.path(sha).stat().st_size

    def read(self, sha: Sha256) -> bytes:
        """The whole blob.

        Raises:
            NotFoundError: there is no such blob, or its bytes no longer have its digest.
        """
        self.size(sha)
        data = self.path(sha).read_bytes()
        if sha256_hex(data) != sha:
            raise _damaged(sha)
        return data

    def checked(self, sha: Sha256) -> Path:
        """Where the blob lies, for reading in place.

        Its digest is compared once in the life of this process, and not at all where this process
        itself hashed the bytes as they came in.

        Raises:
            NotFoundError: there is no such blob, or its bytes no longer have its digest.
        """
        self.size(sha)
        if sha not in self._known:
            if file_sha256(self.path(sha)) != sha:
                raise _damaged(sha)
            self._known.add(sha)
        return self.path(sha)

    def drop(self, sha: Sha256) -> None:
        """Forgets a blob that nobody needs any more."""
        self._known.discard(sha)
        self.path(sha).unlink(missing_ok=True)

    def stored(self) -> Iterator[Stored]:
        """Everything that is stored, in no order."""
        for path in self.folder.glob("??/*"):
            # Others write here meanwhile: part files pass by, and files vanish.
            if _SHA256.fullmatch(path.name) and (blob := self._found(path)) is not None:
                yield blob

    def find(self, sha: Sha256) -> Stored | None:
        """The blob's size and age, if it is stored."""
        return self._found(self.path(sha))

    @staticmethod
    def _found(path: Path) -> Stored | None:
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            return Stored(sha=Sha256(path.name), size_bytes=facts.st_size, stored=facts.st_mtime)
        return None

    def chunks(self, sha: Sha256, offset: int, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The blob from ``offset`` (bytes) on, in pieces of at most ``size`` bytes.

        Raises:
            NotFoundError: there is no such blob.
            InvalidInputError: the offset lies outside it.
        """
        if not 0 <= offset <= self.size(sha):
            raise InvalidInputError(f"offset {offset} lies outside the blob")
        with self.path(sha).open("rb", buffering=0) as file:
            file.seek(offset)
            while piece := file.read(size):
                yield piece


def _damaged(sha: Sha256) -> NotFoundError:
    return NotFoundError(f"blob {sha[:12]} is damaged on disk; restore it from a backup")
