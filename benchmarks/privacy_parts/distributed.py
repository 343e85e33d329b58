"""What a step under distributed noise costs beyond its computation.

Claim: with 10 clients and a tower of 25 to 600 KB a step, which is a secure round of its own, takes
at most 0.5 s beyond the slowest client's own work, so that 60 to 150 steps are practical.

Keys and shares are exchanged once for ``--prepared`` steps (``prepared_rounds``); the first step of
such a block is in the mean, and seldom in the median. ``--prepared 1`` does it in every step.

The clients are the real ones in four processes; the secure sums, the ledgers' entries and the noise
shares are the product's. A step lasts from its first task to the next step's first task.

Command:
    python -m benchmarks.privacy_parts.distributed

Expected on 2 cores that do nothing else: 0.4 to 0.8 s with blocks, 0.6 to 1.1 s without.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.federation_parts.measure import emit, median, note, spread
from benchmarks.federation_parts.payload import PAYLOADS, bench_plan
from benchmarks.federation_parts.processes import end_on_sigterm
from benchmarks.federation_parts.world import World, scratch

PROCESSES = 4
TOWERS = ("tower-25", "tower-600")


def measure(folder: Path, clients: int, steps: int, prepared: int) -> dict[str, object]:
    """One federation; each size has a warm-up and a run."""
    found: dict[str, object] = {}
    with World(folder / "world") as world:
        world.start_server()
        sites = [world.join(world.fresh_name()) for _ in range(clients)]
        world.start_clients([sites[number::PROCESSES] for number in range(PROCESSES)])
        for tower in TOWERS:
            found[tower] = _of(world, tower, clients, steps, prepared)
    about = {"clients": clients, "steps": steps, "prepared_rounds": prepared}
    return {"distributed_step": found, **about}


def _of(world: World, tower: str, clients: int, steps: int, prepared: int) -> dict[str, object]:
    terms = {
        "distributed_noise": {"colluders": 1},
        "secure_aggregation": {
            "fraction_bits": 32,
            "max_abs": 64.0,
            "prepared_rounds": prepared,
        },
        "quorum": clients - 1,
        "cohort": clients,
    }
    world.run(bench_plan(tower, rounds=2, **terms))  # type: ignore[arg-type]
    run = world.run(bench_plan(tower, rounds=steps + 1, **terms))  # type: ignore[arg-type]
    overheads = [one.plane_s for one in run.rounds]
    note(f"{tower}: {median(overheads)} s a step beyond the clients' work")
    return {
        "overhead_s": median(overheads),
        "mean_overhead_s": round(statistics.fmean(overheads), 4),
        "overhead": spread(overheads),
        "wall": spread([one.wall_s for one in run.rounds]),
        "server_cpu_s_per_step": round(run.server_cpu_s / (steps + 1), 4),
        "tower_bytes": PAYLOADS[tower].size_bytes,
    }


def main() -> None:
    """Prints one JSON object."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description="steps under distributed noise")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--prepared", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        emit(measure(Path(folder), options.clients, options.steps, options.prepared))


if __name__ == "__main__":
    main()
