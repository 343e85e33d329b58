"""Signing and writing single metadata files, each whole or absent and none ever overwritten.

A numbered file takes the next number that is free on the disk, so that what an interrupted
publication left behind is skipped, never replaced: two different signed files of one number cannot
exist. TUF allows the gaps. Only ``timestamp.json`` is replaced, and always last.
"""

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from hansa.core.canonical import sha256_hex
from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.storage import write_atomically
from hansa.server.releases.files import MAX_METADATA_BYTES, RepositoryFiles
from hansa.server.releases.keys import OnlineKeys

Payload = Root | Targets | Snapshot | Timestamp

PATIENCE_S = 60.0
"""So long a writer waits for another; copying a release of a few GiB takes less."""

_LOOK_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """How long signed metadata may be used; afterwards merchants serve on but take no update."""

    offline: timedelta = timedelta(days=730)
    """Root and targets, which need the offline keys to renew."""
    content: timedelta = timedelta(days=365)
    """Snapshot and channels."""
    timestamp: timedelta = timedelta(days=1)
    """The longest that a stale mirror can hide a newer release; refresh several times within it."""


@contextmanager
def sole_writer(folder: Path, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keeps two processes from publishing at once; the operating system drops the lock on a crash.

    Of several servers with one repository each renews the timestamp, which takes an instant; a
    publication waits for that rather than fail.

    Raises:
        ConflictError: another process went on writing for ``patience_s`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience_s
    with (folder / "writer.lock").open("wb") as lock:
        while not _taken(lock):
            if time.monotonic() >= until:
                raise ConflictError(f"another process is writing {folder}; try again")
            time.sleep(_LOOK_S)
        yield


def _taken(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class MetadataWriter:
    """Signs with the online keys and writes into one repository folder."""

    def __init__(self, files: RepositoryFiles, keys: OnlineKeys, lifetimes: Lifetimes) -> None:
        self._files = files
        self._keys = keys
        self._lifetimes = lifetimes

    def channel(self, channel: str, targets: dict[str, TargetFile], now: datetime) -> MetaFile:
        """Writes the next version of a channel's delegated role.

        Raises:
            NotFoundError: this server has no key for the channel.
        """
        signer = self._keys.channels.get(channel)
        if signer is None:
            raise NotFoundError(f"this server has no key for the release channel {channel!r}")
        version = self._files.newest(channel) + 1
        expires = now + self._lifetimes.content
        role = Targets(version=version, expires=expires, targets=targets)
        return self.numbered(channel, role, (signer,))

    def snapshot(self, meta: dict[str, MetaFile], now: datetime) -> MetaFile:
        """Writes the next snapshot: which version of every role belongs together."""
        version = self._files.newest("snapshot") + 1
        expires = now + self._lifetimes.content
        snapshot = Snapshot(version=version, expires=expires, meta=meta)
        return self.numbered("snapshot", snapshot, (self._keys.snapshot,))

    def timestamp(self, version: int, snapshot: MetaFile, now: datetime) -> datetime:
        """Replaces the timestamp, which makes ``snapshot`` current; returns when it expires."""
        expires = now + self._lifetimes.timestamp
        timestamp = Timestamp(version=version, expires=expires, snapshot_meta=snapshot)
        self._write("timestamp.json", timestamp, (self._keys.timestamp,))
        return timestamp.expires

    def numbered(self, role: str, signed: Payload, signers: Sequence[CryptoSigner]) -> MetaFile:
        """Writes ``<version>.<role>.json`` and returns what the next role up says about it."""
        data = self._write(f"{signed.version}.{role}.json", signed, signers)
        return MetaFile(signed.version, len(data), {"sha256": sha256_hex(data)})

    def _write(self, name: str, signed: Payload, signers: Sequence[CryptoSigner]) -> bytes:
        metadata: Metadata[Any] = Metadata(signed)
        for signer in signers:
            metadata.sign(signer, append=True)
        data = metadata.to_bytes(JSONSerializer(compact=True))
        if len(data) > MAX_METADATA_BYTES:
            raise InvalidInputError(f"metadata {name!r} would exceed 1 MiB; publish fewer files")
        write_atomically(self._files.metadata_path(name), data)
        return data
