"""Fetches the log and the packs of runs with an auditor's certificate, and believes none of it.

What is pulled must go on from what was pulled before: a log that was cut or rewritten between two
visits is refused, and the earlier copy stays. This module alone needs gRPC.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hansa.audit.access import Access, Grant
from hansa.audit.copies import read_log_folder
from hansa.audit.log_view import LogView
from hansa.core.errors import AuditFailedError, InvalidInputError
from hansa.core.evidence import CHECKPOINT, LEAVES, MAX_PACK_BYTES, LogCopy, read_pack
from hansa.core.storage import write_atomically
from hansa.core.transparency.checkpoint import SignedCheckpoint
from hansa.core.transparency.merkle import MAX_SIZE, Tree, leaf_hash

PAGE: Final = 1000
_MAX_LOG_BYTES: Final = 512 << 20


class LogSource(Protocol):
    """The server, as an auditor may see it."""

    def checkpoint(self) -> bytes:
        """The newest signed checkpoint."""
        ...

    def entries(self, first: int, count: int) -> list[bytes]:
        """Leaves in order, at least one where there are any."""
        ...

    def packs(self) -> list[str]:
        """The runs that have ended."""
        ...

    def pack(self, run: str) -> Iterator[bytes]:
        """One run's pack, in pieces."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What came of a visit."""

    checkpoint: str
    new_entries: int
    packs: tuple[str, ...]
    """Runs whose packs were fetched now."""


def pull(access: Access, source: LogSource, *, runs: tuple[str, ...] | None = None) -> Pulled:
    """Brings the folder up to date.

    Args:
        access: the auditor's folder.
        source: the server.
        runs: fetch only these packs; None: those of all ended runs that are not here yet.

    Raises:
        TransparencyError: a checkpoint is not signed by the operator's key.
        AuditFailedError: the log does not go on from what was pulled before; nothing is replaced.
        InvalidInputError: a pack or the log is larger than is taken.
    """
    grant = access.grant()
    log, new = _pull_log(access.folder, source, grant)
    fetched = []
    for run in _wanted(access.folder, source, runs):
        path = _pack_path(access.folder, run)
        data = _gathered(source.pack(run))
        read_pack(data)
        write_atomically(path, data)
        fetched.append(run)
    words = str(SignedCheckpoint.parse(log.checkpoint, "it").checkpoint)
    return Pulled(checkpoint=words, new_entries=new, packs=tuple(fetched))


def _pull_log(folder: Path, source: LogSource, grant: Grant) -> tuple[LogCopy, int]:
    note = source.checkpoint()
    shown = SignedCheckpoint.parse(note, "the server's checkpoint").verify(key_id=grant.plan_key)
    held = read_log_folder(folder) if (folder / CHECKPOINT).exists() else None
    bodies = [] if held is None else list(held.leaves)
    if shown.size > MAX_SIZE or shown.size < len(bodies):
        raise AuditFailedError(
            f"log entry {shown.size}: the log ends before it, but had {len(bodies)} entries at the "
            "last visit: it was cut"
        )
    new = _fetch(source, bodies, shown.size)
    if Tree(leaf_hash(body) for body in bodies).root() != shown.root:
        raise AuditFailedError(_where_it_differs(held, grant))
    copy = LogCopy(checkpoint=note, leaves=tuple(bodies))
    LogView.of(copy, key_id=grant.plan_key).check_root()
    write_atomically(folder / LEAVES, b"".join(body + b"\n" for body in bodies))
    write_atomically(folder / CHECKPOINT, note)
    return copy, new


def _where_it_differs(held: LogCopy | None, grant: Grant) -> str:
    if held is None:
        return "the entries that the server hands out do not have the root that it signed"
    LogView.of(held, key_id=grant.plan_key).check_root()
    return (
        f"log entry {len(held.leaves)}: the log does not go on from the {len(held.leaves)} entries "
        "of the last visit: an entry before it was changed, or the new ones are not those that "
        "were signed"
    )


def _fetch(source: LogSource, bodies: list[bytes], size: int) -> int:
    begin, total = len(bodies), sum(map(len, bodies))
    while len(bodies) < size:
        page = source.entries(len(bodies), min(PAGE, size - len(bodies)))
        if not page or any(b"\n" in body for body in page):
            raise AuditFailedError(f"log entry {len(bodies)}: the server does not hand it out")
        bodies.extend(page[: size - len(bodies)])
        total += sum(map(len, page))
        if total > _MAX_LOG_BYTES:
            raise InvalidInputError(f"the log is larger than {_MAX_LOG_BYTES} bytes")
    return len(bodies) - begin


def _wanted(folder: Path, source: LogSource, runs: tuple[str, ...] | None) -> list[str]:
    if runs is not None:
        return list(runs)
    return [run for run in source.packs() if not _pack_path(folder, run).exists()]


def _pack_path(folder: Path, run: str) -> Path:
    plain = run.replace("-", "").replace("_", "").replace(".", "")
    if not plain.isalnum() or not plain.isascii() or len(run) > 100:
        raise InvalidInputError(f"{run!r} is not a run's name")
    return folder / "packs" / f"{run}.pack"


def _gathered(pieces: Iterator[bytes]) -> bytes:
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > MAX_PACK_BYTES:
            raise InvalidInputError(f"the pack is larger than {MAX_PACK_BYTES} bytes")
    return bytes(data)


@contextmanager
def connected(access: Access) -> Iterator[LogSource]:
    """The operator's server over mTLS, with the auditor's certificate.

    Raises:
        InvalidInputError: gRPC is not installed.
        HansaError: the server cannot be reached, or refuses.
    """
    try:
        from hansa.audit.log_line import open_line
    except ImportError as error:
        raise InvalidInputError(
            "'pull' needs gRPC; install it with: pip install 'hansa[plane]'"
        ) from error
    with open_line(access) as line:
        yield line
