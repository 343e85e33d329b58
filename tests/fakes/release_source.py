"""The other end of the updater's seam, on disk, with one switch for each way to misbehave."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from hansa.core.errors import TransportError
from hansa.core.ids import Sha256
from hansa.server.releases.files import RepositoryFiles

PIECE_BYTES = 1 << 16
ENDLESS_PIECES = 100
"""Enough to seem endless, too few to fill a disk if the updater should ever believe it."""


@dataclass
class FakeReleaseSource:
    """Serves a repository folder as it lies there; see each field for what it can do wrong."""

    files: RepositoryFiles
    offline: bool = False
    """Nothing can be reached."""
    break_after: list[int] = field(default_factory=list)
    """One entry for each coming stream: it breaks after so many bytes."""
    endless: bool = False
    """Targets go on far beyond their promised end."""
    metadata_override: dict[str, bytes] = field(default_factory=dict)
    """File name to what is served in its place."""
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    """What was streamed: path, offset, number of bytes."""

    def metadata(self, name: str) -> bytes:
        if self.offline:
            raise TransportError("the fake server is offline")
        if name in self.metadata_override:
            return self.metadata_override[name]
        return self.files.metadata(name)

    def target(self, path: str, sha256: Sha256, offset_bytes: int) -> Iterator[bytes]:
        if self.offline:
            raise TransportError("the fake server is offline")
        limit = self.break_after.pop(0) if self.break_after else None
        self.sent.append((path, offset_bytes, 0))
        for piece in self._pieces(sha256, offset_bytes):
            count = self.sent[-1][2]
            if limit is not None and count + len(piece) > limit:
                self.sent[-1] = (path, offset_bytes, limit)
                yield piece[: limit - count]
                raise TransportError("the fake line broke")
            self.sent[-1] = (path, offset_bytes, count + len(piece))
            yield piece

    def _pieces(self, sha256: Sha256, offset: int) -> Iterator[bytes]:
        for chunk in self.files.targets.chunks(sha256, offset):
            for start in range(0, len(chunk), PIECE_BYTES):
                yield chunk[start : start + PIECE_BYTES]
        for _ in range(ENDLESS_PIECES if self.endless else 0):
            yield b"\0" * PIECE_BYTES

    def bytes_sent(self, path: str) -> int:
        """Bytes streamed for a target, over all of its streams."""
        return sum(count for sent, _, count in self.sent if sent == path)
