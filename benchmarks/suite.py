"""Several benchmarks as one: each in a process of its own, all their figures in one JSON file."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.federation_parts.measure import load, machine, note, versions
from benchmarks.federation_parts.processes import ROOT, end_on_sigterm, environment

_LIMIT_S = 3_600.0
_GRACE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The parts of one ``make bench-NAME``."""

    package: str
    """Where the parts are, as modules that print JSON."""
    parts: Sequence[str]
    figures: Sequence[str]
    """What the file holds at least; null for what was not measured."""
    folder: str = "parts"
    """Beside the file: what each part printed."""
    quick: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Options that show that everything runs; too little for figures."""

    def main(self, description: str, out: Path) -> None:
        """Writes the JSON file; the exit code is 1 when a part failed."""
        end_on_sigterm()
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--out", type=Path, default=out)
        parser.add_argument("--only", type=lambda text: tuple(text.split(",")), default=self.parts)
        parser.add_argument("--quick", action="store_true", help="no figures to quote")
        options = parser.parse_args()
        folder = options.out.parent / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        arguments = self.quick if options.quick else {}
        failed = [
            part for part in options.only if not self._run(part, arguments.get(part, ()), folder)
        ]
        options.out.write_text(json.dumps(self.combined(folder), indent=2) + "\n")
        note(f"{options.out} is written" + (f"; failed: {', '.join(failed)}" if failed else ""))
        sys.exit(int(bool(failed)))

    def combined(self, folder: Path) -> dict[str, Any]:
        """The figures of all parts that were ever measured, and each part as it was printed."""
        parts = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        figures: dict[str, Any] = dict.fromkeys(self.figures)
        for part in parts.values():
            figures |= {name: part[name] for name in self.figures if part.get(name) is not None}
        quick = [name for name, part in parts.items() if part["quick"]]
        return {
            **figures,
            "machine": machine(),
            "versions": versions(),
            "only_tried": quick,
            "parts": parts,
        }

    def _run(self, part: str, options: Sequence[str], folder: Path) -> bool:
        """One part; what it printed is kept, and whether it ended well is returned."""
        note(f"== {part}")
        command = [sys.executable, "-m", f"{self.package}.{part}", *options]
        began, before = time.monotonic(), load()
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE)
        try:
            printed, _ = process.communicate(timeout=_LIMIT_S)
        finally:
            _end(process)
        if process.returncode != 0:
            note(f"== {part} ended with code {process.returncode}")
            return False
        result = json.loads(printed)
        result |= {
            "command": " ".join(["python", *command[1:]]),
            "quick": bool(options),
            "seconds": round(time.monotonic() - began, 1),
            "load_average_before": before,
            "load_average_after": load(),
        }
        (folder / f"{part}.json").write_text(json.dumps(result, indent=2) + "\n")
        return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Lets a part that still runs end what it has started."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
