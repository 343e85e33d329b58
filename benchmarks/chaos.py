"""Chaos: a long run in which processes are killed, lines cut and disks full; see ``make chaos``.

Claim: of 100 rounds of 8 clients none is wedged, no update is lost, no merchant's epsilon is
charged wrongly, and the last model equals that of a run without faults for the same accepted
updates.

Command:
    python -m benchmarks.chaos --rounds 100 --clients 8 --out build/bench/chaos.json

Expected: zeros, ``final_equal`` true, and ten to twenty minutes on 2 cores. The exit code is 1 when
a promise was broken; the findings are in the file.
"""

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path

from benchmarks.federation_parts.chaos import Storm, Weather
from benchmarks.federation_parts.measure import load, machine, note, versions
from benchmarks.federation_parts.processes import end_on_sigterm
from benchmarks.federation_parts.world import scratch

PROMISES = {"wedged": 0, "lost_updates": 0, "wrong_charges": 0, "final_equal": True}


def _weather() -> tuple[Weather, Path]:
    parser = argparse.ArgumentParser(description="a federation in which everything breaks")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kill-probability", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--out", type=Path, default=Path("build/bench/chaos.json"))
    options = vars(parser.parse_args())
    out = options.pop("out")
    return Weather(**options), out


def main() -> None:
    """Writes the JSON file, and prints it."""
    end_on_sigterm()
    weather, out = _weather()
    note(f"chaos with seed {weather.seed}")
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        result = Storm(Path(folder), weather).run()
    about = {"load_average": load(), "machine": machine(), "versions": versions()}
    text = json.dumps({**result, **about}, indent=2) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    sys.stdout.write(text)
    sys.exit(int(any(result[name] != value for name, value in PROMISES.items())))


if __name__ == "__main__":
    main()
