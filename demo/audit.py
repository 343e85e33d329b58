"""The auditor's part: verify the evidence, and show that one flipped byte is noticed."""

import json
import shutil
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


def tampered_copy(pack: Path) -> Path:
    """A copy of the pack in which one byte of one merchant's ledger is another."""
    copy = pack.with_suffix(".tampered")
    shutil.copyfile(pack, copy)
    with zipfile.ZipFile(pack) as zipped:
        place = _data_offset(pack, zipped.getinfo(FLIPPED)) + zipped.getinfo(FLIPPED).file_size // 2
    with copy.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    return copy


def _data_offset(pack: Path, member: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: after its header (30 bytes), name and extra field."""
    with pack.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = file.read(2), file.read(2)
    return (
        member.header_offset + 30 + int.from_bytes(name, "little") + int.from_bytes(extra, "little")
    )
