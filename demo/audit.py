"""The auditor's part: verify the evidence, and show that one flipped byte is noticed."""

import json
import zipfile
from pathlib import Path
from typing import Any

from processes import Processes, StepError

FLIPPED = "ledgers/harbour.jsonl"


def verify(processes: Processes, pack: Path) -> dict[str, Any]:
    """What ``hansa-audit verify`` says of a pack, whether it passes or not.

    Raises:
        StepError: the command broke.
    """
    done = processes.run("hansa-audit", "verify", str(pack), "--json", check=False)
    try:
        return dict(json.loads(done.stdout))
    except json.JSONDecodeError as error:
        raise StepError(f"hansa-audit verify failed: {done.stderr.strip()}") from error


def write_report(processes: Processes, pack: Path, folder: Path) -> None:
    """The regulator pack, in both languages."""
    options = ("--out", str(folder), "--language", "both")
    processes.run("hansa-audit", "report", str(pack), *options)


def tampered_copy(pack: Path) -> Path:
    """A copy of the pack in which one byte of one merchant's ledger is another.

    The checksums of the zip are made right again: what notices is the signed evidence.
    """
    copy = pack.with_suffix(".tampered")
    with zipfile.ZipFile(pack) as whole, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as forged:
        for member in whole.infolist():
            data = bytearray(whole.read(member))
            if member.filename == FLIPPED:
                data[len(data) // 2] ^= 1
            forged.writestr(member, bytes(data))
    return copy
