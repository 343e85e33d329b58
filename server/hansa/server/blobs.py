"""Blobs that several servers share: wherever fsspec can write, with a verified cache on this disk.

Every blob is named by its digest, so nothing is ever overwritten with other bytes, and what comes
back is believed only when its digest is the one that was asked for. ``BlobStore`` of
``hansa.core.storage`` is the cache; whoever has one need not know whether it is more than that.
"""

import contextlib
import datetime as dt
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from hansa.core.canonical import sha256_hex
from hansa.core.errors import HansaError, InvalidInputError, NotFoundError, TransportError
from hansa.core.ids import Sha256
from hansa.core.storage import (
    CHUNK_BYTES,
    BlobStore,
    PartFile,
    Stored,
    check_sha256,
    write_atomically,
)
from hansa.server.settings import ServerSettings, StateFolder

Clock = Callable[[], float]
_Read = TypeVar("_Read", bytes, Path)

_WHOLE_OR_ABSENT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})
"""Protocols whose objects appear whole; elsewhere a blob is written beside its name and renamed."""

_FRESH_S = 6 * 3600.0
"""A blob that was stored longer ago is stored again when somebody needs it again: whoever tidies
up goes by its age (see ``hansa.server.housekeeping``)."""

_SPARED_S = 600.0
"""What was used so recently stays in the cache, even beyond its limit."""

_LONGEST_ROUND_S = 86_400.0
"""Until a round closes, its updates are read in place: they stay, even beyond the limit."""

_SCANS_PER_LIMIT = 16


class Remote:
    """Blobs by digest in a folder or bucket, through fsspec."""

    def __init__(self, url: str) -> None:
        """Opens the place; nothing is read or written yet.

        Args:
            url: such as ``s3://bucket/prefix`` or ``file:///srv/blobs``. Credentials and endpoints
                come from the environment, as the protocol's own tools have them.

        Raises:
            InvalidInputError: the protocol is unknown or its driver is not installed.
            TransportError: the place cannot be reached, or refuses.
        """
        self.shown = _without_secret(url)
        try:
            with self._translated():
                self._files, self._root = url_to_fs(
                    url, use_listings_cache=False, skip_instance_cache=True
                )
        except (ImportError, ValueError) as error:
            raise InvalidInputError(
                f"cannot use {self.shown} for blobs: {error}; for S3: pip install 'hansa[s3]'"
            ) from error
        protocol = self._files.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        self._appears_whole = bool(names & _WHOLE_OR_ABSENT)

    def find(self, sha: Sha256) -> Stored | None:
        """The blob's size and age, if it is stored.

        Raises:
            TransportError: the place cannot be reached, or refuses.
        """
        with self._translated(), contextlib.suppress(FileNotFoundError):
            name = self._name(sha)
            size = int(self._files.info(name)["size"])
            return Stored(sha=sha, size_bytes=size, stored=_seconds(self._files.modified(name)))
        return None

    def push(self, path: Path, sha: Sha256) -> None:
        """Stores a file under its digest; afterwards it is there whole.

        Raises:
            TransportError: the place cannot be reached, or refuses.
        """
        name = self._name(sha)
        with self._translated():
            if self._appears_whole:
                self._files.put_file(str(path), name)
                return
            part = f"{name}.{uuid.uuid4().hex}.part"
            self._files.makedirs(part.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(path), part)
            self._files.mv(part, name)

    def fetch(self, sha: Sha256, path: Path) -> None:
        """Writes the blob's bytes, as they are there, to a file.

        Raises:
            NotFoundError: there is no such blob.
            TransportError: the place cannot be reached, or refuses.
        """
        try:
            with self._translated():
                self._files.get_file(self._name(sha), str(path))
        except FileNotFoundError as error:
            raise NotFoundError(f"blob {sha[:12]} is not stored in {self.shown}") from error

    def drop(self, sha: Sha256) -> None:
        """Removes a blob, if it is there."""
        with self._translated(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._name(sha))

    def stored(self) -> Iterator[Stored]:
        """Everything that is stored, in no order."""
        with self._translated(), contextlib.suppress(FileNotFoundError):
            for path, facts in self._files.find(self._root, detail=True).items():
                name = path.rpartition("/")[2]
                with contextlib.suppress(InvalidInputError):
                    yield Stored(
                        sha=check_sha256(name),
                        size_bytes=int(facts["size"]),
                        stored=_seconds(_changed(facts)),
                    )

    def probe(self, folder: Path) -> None:
        """Stores, reads and removes a blob of a few bytes.

        Raises:
            TransportError: the place cannot be reached, or refuses.
        """
        data = uuid.uuid4().hex.encode()
        sha = sha256_hex(data)
        path = folder / f".{sha}.part"
        write_atomically(path, data)
        try:
            self.push(path, sha)
            self.fetch(sha, path)
            self.drop(sha)
        finally:
            path.unlink(missing_ok=True)

    def _name(self, sha: Sha256) -> str:
        name = check_sha256(sha)
        return f"{self._root}/{name[:2]}/{name}"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, ImportError, ValueError, HansaError):
            raise
        except Exception as error:  # the seam: every driver has exceptions of its own
            words = str(error) or type(error).__name__
            raise TransportError(
                f"the blobs in {self.shown} cannot be used: {words[:200]}; check that the address "
                "and the credentials are right"
            ) from error


class RemoteBlobs(BlobStore):
    """A blob store whose folder is this server's cache of a place that all servers share."""

    def __init__(self, folder: Path, remote: Remote, *, limit_bytes: int, clock: Clock) -> None:
        """Opens the cache.

        Args:
            folder: the cache; several processes of one machine may share it.
            remote: where every blob is kept.
            limit_bytes: about so much stays in the cache; what is in use may exceed it.
            clock: seconds since 1970.
        """
        super().__init__(folder)
        self._remote = remote
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._fetching: dict[Sha256, threading.Lock] = {}
        self._cached_bytes = 0
        self._unscanned_bytes = limit_bytes + 1  # nothing is known of the folder yet

    def put(self, data: bytes) -> Sha256:
        """Stores the bytes here and there, and returns their name.

        Raises:
            TransportError: the shared place cannot be reached; the bytes are only here.
        """
        sha = sha256_hex(data)
        if not super().has(sha):
            write_atomically(self.path(sha), data)
            self._known.add(sha)
        self._share(self.path(sha), sha)
        self._make_room(sha, len(data))
        return sha

    def adopt(self, part: Path, sha: Sha256 | None = None) -> Sha256:
        """Moves a whole file into the store; it stays where it is if that fails.

        Raises:
            TransportError: the shared place cannot be reached.
        """
        if sha is None:
            with contextlib.closing(PartFile(part)) as whole:
                sha = whole.sync()
        size = part.stat().st_size
        self._share(part, sha)
        super().adopt(part, sha)
        self._make_room(sha, size)
        return sha

    def has(self, sha: Sha256) -> bool:
        """Whether the blob is here or there."""
        return super().has(sha) or self._remote.find(sha) is not None

    def size(self, sha: Sha256) -> int:
        """The blob's length in bytes.

        Raises:
            NotFoundError: there is no such blob.
        """
        if super().has(sha):
            return super().size(sha)
        found = self._remote.find(sha)
        if found is None:
            raise NotFoundError(f"blob {sha[:12]} is not stored in {self._remote.shown}")
        return found.size_bytes

    def read(self, sha: Sha256) -> bytes:
        """The whole blob; where the cache has decayed, it is fetched again.

        Raises:
            NotFoundError: there is no such blob, or its bytes do not have its digest.
        """
        return self._healed(sha, super().read)

    def checked(self, sha: Sha256) -> Path:
        """Where the blob lies, for reading in place; it stays there for a day at the least.

        Raises:
            NotFoundError: there is no such blob, or its bytes do not have its digest.
        """
        path = self._healed(sha, super().checked)
        self._spare(sha, _LONGEST_ROUND_S)
        return path

    def chunks(self, sha: Sha256, offset: int, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """The blob from ``offset`` (bytes) on, in pieces of at most ``size``.

        Raises:
            NotFoundError: there is no such blob.
            InvalidInputError: the offset lies outside it.
        """
        self._ensure(sha)
        yield from super().chunks(sha, offset, size)

    def drop(self, sha: Sha256) -> None:
        """Removes a blob here and there; other servers' caches forget it in time."""
        self._remote.drop(sha)
        super().drop(sha)

    def stored(self) -> Iterator[Stored]:
        """Everything that the servers share."""
        return self._remote.stored()

    def find(self, sha: Sha256) -> Stored | None:
        """The size and age of what the servers share."""
        return self._remote.find(sha)

    def _healed(self, sha: Sha256, read: Callable[[Sha256], _Read]) -> _Read:
        self._ensure(sha)
        try:
            return read(sha)
        except NotFoundError:
            super().drop(sha)
            self._ensure(sha)
            return read(sha)

    def _ensure(self, sha: Sha256) -> None:
        """Brings the blob here if it is not, once for however many ask; notes that it is used."""
        with self._lock:
            turn = self._fetching.setdefault(sha, threading.Lock())
        try:
            with turn:
                if not self._spare(sha, 0.0):
                    self._fetch(sha)
        finally:
            with self._lock:
                self._fetching.pop(sha, None)

    def _spare(self, sha: Sha256, seconds: float) -> bool:
        """Notes in its file that a blob is needed for so long; false when it is not here."""
        until = self._clock() + seconds
        with contextlib.suppress(FileNotFoundError):
            if self.path(sha).stat().st_mtime < until:
                os.utime(self.path(sha), (until, until))
            return True
        return False

    def _fetch(self, sha: Sha256) -> None:
        path = self.folder / f".{uuid.uuid4().hex}.part"
        try:
            self._remote.fetch(sha, path)
            with contextlib.closing(PartFile(path)) as part:
                if part.sync() != sha:
                    raise NotFoundError(
                        f"blob {sha} in {self._remote.shown} does not have its digest: it was "
                        "altered or damaged there; restore it from a backup"
                    )
                size = part.size
            super().adopt(path, sha)
        finally:
            path.unlink(missing_ok=True)
        self._make_room(sha, size)

    def _share(self, path: Path, sha: Sha256) -> None:
        found = self._remote.find(sha)
        if found is None or self._clock() - found.stored > _FRESH_S:
            self._remote.push(path, sha)

    def _make_room(self, added: Sha256, added_bytes: int) -> None:
        """Evicts what was used longest ago; only a scan of the folder knows what others did."""
        self._spare(added, 0.0)
        with self._lock:
            self._cached_bytes += added_bytes
            self._unscanned_bytes += added_bytes
            full = self._cached_bytes > self._limit_bytes
            if not full and self._unscanned_bytes * _SCANS_PER_LIMIT < self._limit_bytes:
                return
            self._unscanned_bytes = 0
        cached = sorted(super().stored(), key=lambda blob: blob.stored)
        left = sum(blob.size_bytes for blob in cached)
        for blob in cached:
            if left > self._limit_bytes and self._may_go(blob):
                super().drop(blob.sha)
                left -= blob.size_bytes
        with self._lock:
            self._cached_bytes = left

    def _may_go(self, blob: Stored) -> bool:
        """Whether nobody uses it just now, and the shared place has it whole."""
        if self._clock() - blob.stored < _SPARED_S:
            return False
        found = self._remote.find(blob.sha)
        return found is not None and found.size_bytes == blob.size_bytes


def open_blobs(state: StateFolder, settings: ServerSettings) -> BlobStore:
    """Where the server whose state lies here keeps its blobs.

    Raises:
        InvalidInputError: the protocol of ``blobs_url`` is unknown or its driver is not installed.
    """
    if settings.blobs_url is None:
        return BlobStore(state.blobs)
    remote = Remote(settings.blobs_url)
    return RemoteBlobs(state.blobs, remote, limit_bytes=settings.blobs_cache_bytes, clock=time.time)


def _without_secret(url: str) -> str:
    """The URL as it may be printed."""
    secret = urlsplit(url).password
    return url if not secret else url.replace(f":{secret}@", ":***@", 1)


def _changed(facts: dict[str, Any]) -> Any:
    """When an entry of a listing was written; the drivers have no common name for it."""
    for name in ("LastModified", "last_modified", "mtime", "modified", "created"):
        if facts.get(name) is not None:
            return facts[name]
    return dt.datetime.now(dt.UTC)  # unknown: as young as can be, so that nobody removes it


def _seconds(moment: Any) -> float:
    """Seconds since 1970 of what a driver calls a time."""
    if isinstance(moment, dt.datetime):
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
        return aware.timestamp()
    return float(moment)
