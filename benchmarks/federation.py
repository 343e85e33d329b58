"""Every benchmark of the federation engine, into one JSON file; see ``make bench-federation``.

Each claim has a part of its own in ``benchmarks/federation_parts``, which can be run alone and
prints JSON. This runs them one after the other, each in a process of its own, keeps what each
printed in ``build/bench/parts``, and writes what all of them say together.

Command:
    python -m benchmarks.federation --out build/bench/federation.json
    python -m benchmarks.federation --only small_round,lora_64   # the others stay as they were

All parts together take a quarter of an hour or more on 2 cores; most of it is Flower's engine.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.federation_parts.measure import load, machine, note, versions
from benchmarks.federation_parts.processes import ROOT, end_on_sigterm, environment

PARTS = ("small_round", "full_round", "server_memory", "lora_64", "secagg", "simulation")
FIGURES = (
    "small_round",
    "full_round",
    "server_rss_growth_models",
    "lora_64_overhead_s",
    "secagg_client_cpu_s",
    "simulation_speedup_vs_flower",
)
"""What the file holds at least; null for what was not measured."""
QUICK = {
    "small_round": ("--repetitions", "1", "--rounds", "5", "--flower-rounds", "1"),
    "full_round": ("--repetitions", "1", "--rounds", "1", "--flower-rounds", "1"),
    "server_memory": ("--clients", "4", "16"),
    "lora_64": ("--rounds", "3"),
}
"""Enough to see that everything runs; too little for figures."""
_LIMIT_S = 3_600.0
_GRACE_S = 60.0


def _run(part: str, options: Sequence[str], folder: Path) -> bool:
    """One part; what it printed is kept, and whether it ended well is returned."""
    note(f"== {part}")
    command = [sys.executable, "-m", f"benchmarks.federation_parts.{part}", *options]
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


def combined(folder: Path) -> dict[str, Any]:
    """The figures of all parts that were ever measured, and each part as it was printed."""
    parts = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    figures: dict[str, Any] = dict.fromkeys(FIGURES)
    for part in parts.values():
        figures |= {name: part[name] for name in FIGURES if part.get(name) is not None}
    quick = [name for name, part in parts.items() if part["quick"]]
    return {
        **figures,
        "machine": machine(),
        "versions": versions(),
        "only_tried": quick,
        "parts": parts,
    }


def main() -> None:
    """Writes the JSON file; the exit code is 1 when a part failed."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description="all benchmarks of the federation engine")
    parser.add_argument("--out", type=Path, default=Path("build/bench/federation.json"))
    parser.add_argument("--only", type=lambda text: tuple(text.split(",")), default=PARTS)
    parser.add_argument("--quick", action="store_true", help="a few minutes, no figures to quote")
    options = parser.parse_args()
    folder = options.out.parent / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    arguments = QUICK if options.quick else {}
    failed = [part for part in options.only if not _run(part, arguments.get(part, ()), folder)]
    options.out.write_text(json.dumps(combined(folder), indent=2) + "\n")
    note(f"{options.out} is written" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(int(bool(failed)))


if __name__ == "__main__":
    main()
