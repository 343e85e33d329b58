"""What a round costs when a whole model travels: 90 MB in 100 arrays, two and four merchants.

Claims, by number of nodes: on the loopback, where the CPU is the limit, a round takes at most 1.5
times a bare gRPC stream with the same guarantee (mutual TLS, hashed at both ends, on the disk at
both receivers), is at least 10 times faster than Flower 1.41's own engine, and costs the server at
most 0.4 s of CPU for each node; on a link of 50 MiB/s for each node it takes at most 1.10 times the
network's own time.

Both ratios are of the round less the slowest client's own work, which stands for training and is no
part of the plane: decoding, adding a number, encoding. Validation of the updates, aggregation and
the checkpoint stay in. The ratios of the whole round stand beside them.

Peers, in the same run and in turns: the bare stream, and Flower's engine. The slow link is a relay
with a token bucket in each direction; the network's own time is twice the model over its rate.

Command:
    python -m benchmarks.federation_parts.full_round --nodes 2 4

Expected on 2 cores of which nothing else makes use: 2 to 6 s a round for two nodes.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.federation_parts.link import Link
from benchmarks.federation_parts.measure import emit, median, note, spread
from benchmarks.federation_parts.payload import PAYLOADS, bench_plan
from benchmarks.federation_parts.peers.bare_stream import BareStream
from benchmarks.federation_parts.peers.flower_engine import FlowerEngine
from benchmarks.federation_parts.processes import end_on_sigterm
from benchmarks.federation_parts.world import FinishedRun, Round, World, scratch
from hansa.client.site import Site

LINK_BYTES_PER_S = 50 << 20
PAYLOAD = PAYLOADS["full"]
NETWORK_S = 2 * PAYLOAD.size_bytes / LINK_BYTES_PER_S


@dataclass
class Series:
    """What was measured over one kind of line."""

    runs: list[FinishedRun] = field(default_factory=list)
    bare_walls: list[float] = field(default_factory=list)
    bare_cpu_s: list[float] = field(default_factory=list)

    @property
    def rounds(self) -> list[Round]:
        """All rounds of all runs."""
        return [one for run in self.runs for one in run.rounds]

    @property
    def walls(self) -> list[float]:
        """Whole rounds, in seconds."""
        return [one.wall_s for one in self.rounds]

    @property
    def plane(self) -> list[float]:
        """Rounds less the slowest client's own work, in seconds."""
        return [one.plane_s for one in self.rounds]


class Bench:
    """One number of nodes: our federation and the bare stream side by side."""

    def __init__(self, folder: Path, nodes: int, rounds: int) -> None:
        self.nodes = nodes
        self._folder = folder
        self._rounds = rounds
        self._world = World(folder / "world")
        self._peer = BareStream(folder / "bare", size_bytes=PAYLOAD.size_bytes, nodes=nodes)
        self._sites: list[Site] = []

    def measure(self, repetitions: int, flower_rounds: int) -> dict[str, object]:
        """Everything about this number of nodes."""
        direct, paced, flower, link_cpu = Series(), Series(), [], []
        with self._world, self._peer:
            self._world.start_server()
            self._sites = [self._world.join(self._world.fresh_name()) for _ in range(self.nodes)]
            self._world.start_clients([[site] for site in self._sites])
            self._warm_up()
            for repetition in range(repetitions):
                self._turn(direct, "direct")
                if flower_rounds:
                    walls, cpu = self._flower(repetition, flower_rounds)
                    flower += walls
                    link_cpu.append(cpu)
            with contextlib.ExitStack() as stack:
                self._reroute(stack)
                for _ in range(repetitions):
                    self._turn(paced, "50 MiB/s")
        return _result(self.nodes, direct, paced, flower, link_cpu)

    def _warm_up(self) -> None:
        self._world.run(bench_plan("full", rounds=1, quorum=self.nodes))
        self._peer.round()

    def _turn(self, series: Series, line: str) -> None:
        plan = bench_plan("full", rounds=self._rounds + 1, quorum=self.nodes)
        series.runs.append(self._world.run(plan))
        for _ in range(self._rounds):
            wall, cpu = self._peer.round()
            series.bare_walls.append(wall)
            series.bare_cpu_s.append(cpu)
        note(
            f"90 MB x {self.nodes}, {line}: ours {median(series.walls)} s, "
            f"bare {median(series.bare_walls)} s"
        )

    def _reroute(self, stack: contextlib.ExitStack) -> None:
        """Puts a slow link between each client and the server, ours and the bare one."""

        def ports(target: int) -> list[int]:
            links = [Link(target, bytes_per_s=LINK_BYTES_PER_S) for _ in range(self.nodes)]
            return [stack.enter_context(link).port for link in links]

        self._world.stop_clients()
        for site, port in zip(self._sites, ports(self._world.port), strict=True):
            where = {"server_address": f"127.0.0.1:{port}"}
            site.write(site.settings().model_copy(update=where))
        self._world.start_clients([[site] for site in self._sites])
        self._peer.connect(ports(self._peer.port))
        self._warm_up()

    def _flower(self, repetition: int, rounds: int) -> tuple[list[float], float]:
        folder = self._folder / f"flower-{repetition}"
        values = PAYLOAD.size_bytes // 4 // PAYLOAD.arrays
        with FlowerEngine(folder, nodes=self.nodes) as engine:
            run = engine.run(rounds=rounds, arrays=PAYLOAD.arrays, values=values)
        walls = [one.wall_s for one in run.rounds]
        note(f"90 MB x {self.nodes}: Flower {walls}")
        return walls, run.link_cpu_s / rounds / self.nodes


def _result(
    nodes: int,
    direct: Series,
    paced: Series,
    flower: Sequence[float],
    link_cpu: Sequence[float],
) -> dict[str, object]:
    shares = [run.server_cpu_s / nodes / (len(run.rounds) + 1) for run in direct.runs]
    wall, bare = median(direct.walls), median(direct.bare_walls)
    result: dict[str, object] = {
        "wall_s": wall,
        "ratio_vs_stream": round(median(direct.plane) / bare, 3),
        "ratio_vs_stream_whole": round(wall / bare, 3),
        "ratio_vs_link": round(median(paced.plane) / NETWORK_S, 3),
        "ratio_vs_link_whole": round(median(paced.walls) / NETWORK_S, 3),
        "server_cpu_s": median(shares),
        "wall": spread(direct.walls),
        "application": spread([one.application_s for one in direct.rounds]),
        "bare_stream": spread(direct.bare_walls),
        "bare_stream_server_cpu_s": round(median(direct.bare_cpu_s) / nodes, 4),
        "link": {
            "rate_mib_per_s": LINK_BYTES_PER_S >> 20,
            "network_s": round(NETWORK_S, 4),
            "wall": spread(paced.walls),
            "application": spread([one.application_s for one in paced.rounds]),
            "bare_stream": spread(paced.bare_walls),
            "bare_ratio_vs_link": round(median(paced.bare_walls) / NETWORK_S, 3),
        },
    }
    if flower:
        result["speedup_vs_flower"] = round(median(flower) / wall, 1)
        result["flower"] = spread(flower)
        result["flower_link_cpu_s"] = median(link_cpu)
    return result


def main() -> None:
    """Prints one JSON object."""
    end_on_sigterm()
    parser = argparse.ArgumentParser(description="a round of 90 MB")
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of ours, in each repetition")
    parser.add_argument("--flower-rounds", type=int, default=2, help="0 leaves Flower out")
    options = parser.parse_args()
    results = {}
    for nodes in options.nodes:
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            bench = Bench(Path(folder), nodes, options.rounds)
            results[str(nodes)] = bench.measure(options.repetitions, options.flower_rounds)
    emit({"full_round": results, "model_bytes": PAYLOAD.size_bytes})


if __name__ == "__main__":
    main()
