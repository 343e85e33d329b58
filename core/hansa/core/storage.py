"""Files that are either whole or absent: atomic writes and a content-addressed blob directory.

This is the only module of ``hansa.core`` that writes to the disk.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.ids import Sha256

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
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
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            hasher.update(piece)
    return Sha256(hasher.hexdigest())


class BlobStore:
    """A directory of immutable blobs, each named by its SHA-256 digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha: Sha256) -> Path:
        """Where the blob lies or would lie."""
        name = check_sha256(sha)
        return self._folder / name[:2] / name

    def put(self, data: bytes) -> Sha256:
        """Stores the bytes (once) and returns their name."""
        sha = sha256_hex(data)
        if not self.has(sha):
            write_atomically(self.path(sha), data)
        return sha

    def adopt(self, part: Path) -> Sha256:
        """Moves a complete file into the store under its own digest."""
        sha = file_sha256(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        target = self.path(sha)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        fsync_directory(target.parent)
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
            raise NotFoundError(f"blob {sha[:12]} is damaged on disk; restore it from a backup")
        return data

    def chunks(self, sha: Sha256, offset: int) -> Iterator[bytes]:
        """The blob from ``offset`` (bytes) on, in pieces of at most 1 MiB.

        Raises:
            NotFoundError: there is no such blob.
            InvalidInputError: the offset lies outside it.
        """
        if not 0 <= offset <= self.size(sha):
            raise InvalidInputError(f"offset {offset} lies outside the blob")
        with self.path(sha).open("rb") as file:
            file.seek(offset)
            while piece := file.read(CHUNK_BYTES):
                yield piece
