"""What a round costs when there is almost nothing to send: 1 MB in 100 arrays, two merchants.

Claim: a whole round of the real plane (configuring, tasks, down, up, validation, aggregation,
checkpoint in a durable database, signed ledgers) is at least 50 times faster than a round of
Flower 1.41's own engine with the same model, work and number of nodes.

Peers, in the same run: Flower's engine, in turns with ours; and a bare gRPC stream with the same
guarantee, for scale.

Command:
    python -m benchmarks.federation_parts.small_round

Expected on 2 cores: 0.05 to 0.25 s a round; Flower 6 s, or 10 to 30 s on a busy machine.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.federation_parts.measure import emit, median, note, spread
from benchmarks.federation_parts.payload import PAYLOADS, bench_plan
from benchmarks.federation_parts.peers.bare_stream import BareStream
from benchmarks.federation_parts.peers.flower_engine import FlowerEngine
from benchmarks.federation_parts.processes import end_on_sigterm
from benchmarks.federation_parts.world import FinishedRun, World, scratch

NODES = 2


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Ours and the peers in turns."""
    ours: list[FinishedRun] = []
    bare: list[float] = []
    flower: list[float] = []
    plan = bench_plan("small", rounds=options.rounds + 1, quorum=NODES)
    payload = PAYLOADS["small"]
    peer = BareStream(folder / "bare", size_bytes=payload.size_bytes, nodes=NODES)
    with World(folder / "world") as world, peer:
        world.start_server()
        world.start_clients([[world.join(world.fresh_name())] for _ in range(NODES)])
        world.run(bench_plan("small", rounds=3, quorum=NODES))  # warm-up
        for repetition in range(options.repetitions):
            ours.append(world.run(plan))
            bare += [peer.round()[0] for _ in range(options.rounds)]
            note(f"1 MB: ours {ours[-1].rounds[-1].wall_s:.3f} s, bare {bare[-1]:.3f} s")
            if options.flower_rounds:
                flower += _flower(folder / f"flower-{repetition}", options.flower_rounds)
    return {"small_round": _result(ours, bare, flower)}


def _flower(folder: Path, rounds: int) -> list[float]:
    with FlowerEngine(folder, nodes=NODES) as engine:
        run = engine.run(rounds=rounds, arrays=PAYLOADS["small"].arrays, values=2_500)
    note(f"1 MB: Flower {run.rounds[-1].wall_s:.1f} s")
    return [one.wall_s for one in run.rounds]


def _result(ours: list[FinishedRun], bare: list[float], flower: list[float]) -> dict[str, object]:
    walls = [one.wall_s for run in ours for one in run.rounds]
    shares = [run.server_cpu_s / NODES / (len(run.rounds) + 1) for run in ours]
    result: dict[str, object] = {
        "wall_s": median(walls),
        "wall": spread(walls),
        "application": spread([one.application_s for run in ours for one in run.rounds]),
        "bare_stream": spread(bare),
        "server_cpu_s": median(shares),
        "nodes": NODES,
    }
    if flower:
        result["speedup_vs_flower"] = round(median(flower) / median(walls), 1)
        result["flower"] = spread(flower)
    return result


def main() -> None:
    """Prints one JSON object."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description="a round of 1 MB and two nodes")
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="of ours, in each repetition")
    parser.add_argument("--flower-rounds", type=int, default=3, help="0 leaves Flower out")
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        emit(measure(Path(folder), parser.parse_args()))


if __name__ == "__main__":
    main()
