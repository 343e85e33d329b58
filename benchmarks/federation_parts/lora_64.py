"""What a round of 64 merchants costs beyond their training, when only adapters travel.

Claim: with 64 clients and updates of 74k parameters (0.3 MB) a round takes at most 2 s on 2 cores
on top of the slowest client's own work.

The clients are the real ones, 16 in each of four processes, each with its own connection, session,
ledger and outbox; they share the two cores with the server. A round lasts from its first task to
the next round's first task.

Command:
    python -m benchmarks.federation_parts.lora_64 --rounds 10

Expected on 2 cores: 1 to 3 s; of other work on the machine the figure tells more than of the plane.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.federation_parts.measure import emit, median, note, spread
from benchmarks.federation_parts.payload import PAYLOADS, bench_plan
from benchmarks.federation_parts.processes import end_on_sigterm
from benchmarks.federation_parts.world import World, scratch

PROCESSES = 4


def measure(folder: Path, clients: int, rounds: int) -> dict[str, object]:
    """One federation, a warm-up and a run."""
    with World(folder / "world") as world:
        world.start_server()
        sites = [world.join(world.fresh_name()) for _ in range(clients)]
        world.start_clients([sites[number::PROCESSES] for number in range(PROCESSES)])
        world.run(bench_plan("lora", rounds=2, quorum=clients))
        run = world.run(bench_plan("lora", rounds=rounds + 1, quorum=clients))
    overheads = [one.plane_s for one in run.rounds]
    note(f"{clients} clients: {median(overheads)} s beyond the training")
    return {
        "lora_64_overhead_s": median(overheads),
        "lora_64": {
            "overhead": spread(overheads),
            "wall": spread([one.wall_s for one in run.rounds]),
            "application": spread([one.application_s for one in run.rounds]),
            "server_cpu_s_per_round": round(run.server_cpu_s / (rounds + 1), 4),
            "clients": clients,
            "update_bytes": PAYLOADS["lora"].size_bytes,
        },
    }


def main() -> None:
    """Prints one JSON object."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description="many clients, small updates")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        emit(measure(Path(folder), options.clients, options.rounds))


if __name__ == "__main__":
    main()
