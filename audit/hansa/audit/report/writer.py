"""From a pack's bytes to the two files of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from hansa.audit.report.dossier import Dossier, dossier_of, unreadable
from hansa.audit.report.page import page
from hansa.audit.report.words import Language
from hansa.audit.verifier import verify
from hansa.core.canonical import sha256_hex
from hansa.core.errors import AuditFailedError, InvalidInputError
from hansa.core.evidence import read_pack
from hansa.core.storage import write_atomically
from hansa.core.transparency.checkpoint import SignedCheckpoint

HTML: Final = "report.html"
JSON: Final = "report.json"


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """What the auditor got from another source than the pack."""

    root: bytes | None = None
    plan_key: str | None = None
    witnessed: Sequence[SignedCheckpoint] = ()


def examine(pack: bytes, anchors: Anchors, *, now: datetime) -> Dossier:
    """The content of the report on a pack; a pack that does not open is reported as such.

    Raises:
        InvalidInputError: the pinned root is no root metadata.
    """
    sha = sha256_hex(pack)
    try:
        evidence = read_pack(pack)
    except (AuditFailedError, InvalidInputError) as error:
        return unreadable(error, pack_sha256=sha, now=now)
    report = verify(
        evidence,
        pinned_root=anchors.root,
        plan_key=anchors.plan_key,
        witnessed=anchors.witnessed,
    )
    pinned = anchors.plan_key is not None
    return dossier_of(evidence, report, pack_sha256=sha, plan_key_pinned=pinned, now=now)


def write_report(dossier: Dossier, folder: Path, languages: Sequence[Language]) -> list[Path]:
    """Writes the page and its figures; returns their paths.

    Raises:
        InvalidInputError: the folder cannot be written.
    """
    html, figures = folder / HTML, folder / JSON
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(html, page(dossier, languages).encode())
        write_atomically(figures, dossier.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise InvalidInputError(f"cannot write the report to {folder}: {error}") from error
    return [html, figures]
