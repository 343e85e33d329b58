"""What a simulation engine costs: ours in one process, beside Flower's on Ray, with the same app.

Claim: with 1,000 virtual merchants and 50 a round, a round takes at most a fifth of the time that
it takes in Flower's default simulation (``flwr.simulation.run_simulation`` as it is, Ray with
default settings), and both give the same arrays, bit for bit.

The app is light on purpose (73,984 numbers, three SGD steps in NumPy, a few milliseconds), so that
the engines are compared and not NumPy with itself: where training takes a second, the ratio tends
to that of the processes at work. Both engines run the same strategy by the same ``Strategy.start``,
each in a process of its own, ours before and after Flower's; NumPy has one thread in both, without
which sums would round differently. A round is from the strategy's messages to its aggregate; the
first one is left out of the median, for Ray starts its actors in it. The whole wall time is that of
the engine's call, imports left out; of our two runs the slower one counts.

Command:
    python -m benchmarks.federation_parts.simulation [--merchants 1000] [--cohort 50] [--rounds 10]

Expected range (2 vCPU of an EPYC Zen 3): Flower 1 to 5 s a round and 20 to 60 s in all; ours 0.1 to
0.4 s a round; at least 5 times faster.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from benchmarks.federation_parts.measure import machine, spread
from benchmarks.federation_parts.simulation_app import Lottery, app, first_model
from hansa.core.canonical import sha256_hex
from hansa.core.quiet import stay_offline

APP = "benchmarks.federation_parts.simulation_app:app"
PACKAGES = ("flwr", "ray", "numpy")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_SEED = 7
_LIMIT_S = 900.0


def main() -> None:
    """Measures both engines and prints the figures."""
    options = _options()
    if options.engine:
        print(json.dumps(_measured(options)))
        return
    # Ours before and after Flower's: what else the machine does slows both alike.
    order = ("ours", "flower", "ours", "ours_2_workers")
    runs = [(name, _in_process_of_its_own(name)) for name in order]
    if len({one["arrays_sha256"] for _, one in runs}) != 1:
        sys.exit(f"the engines' arrays differ: {runs}")
    figures = {
        name: _pooled([one for kind, one in runs if kind == name]) for name in dict.fromkeys(order)
    }
    ours, flower = figures["ours"], figures["flower"]
    print(
        json.dumps(
            {
                "simulation_speedup_vs_flower": _ratio(flower, ours, "round_s", "median"),
                "whole_speedup_vs_flower": round(flower["wall_s"] / ours["wall_s"], 2),
                "merchants": options.merchants,
                "cohort": options.cohort,
                "rounds": options.rounds,
                "equal_arrays": True,
                **figures,
                "versions": {name: metadata.version(name) for name in PACKAGES},
                "machine": machine(),
            },
            indent=2,
        )
    )


def _pooled(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds of one engine's runs, the first round of each left out."""
    return {
        "round_s": spread([value for one in runs for value in one["round_s"]["values"]]),
        "first_round_s": max(one["first_round_s"] for one in runs),
        "wall_s": max(one["wall_s"] for one in runs),
        "arrays_sha256": runs[0]["arrays_sha256"],
    }


def _ratio(one: dict[str, Any], other: dict[str, Any], *path: str) -> float:
    for name in path:
        one, other = one[name], other[name]
    return round(float(str(one)) / float(str(other)), 2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--merchants", type=int, default=1000)
    parser.add_argument("--cohort", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--engine", choices=tuple(_ENGINES), help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_process_of_its_own(engine: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.federation_parts.simulation", *sys.argv[1:]]
    done = subprocess.run(
        [*command, "--engine", engine],
        capture_output=True,
        text=True,
        env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        timeout=_LIMIT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{engine} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    stay_offline(os.environ)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    strategy = Lottery(places=options.merchants, cohort=options.cohort, seed=_SEED)
    found: list[bytes] = []

    def run(grid: Grid) -> None:
        result = strategy.start(grid, first_model(), num_rounds=options.rounds)
        found.append(result.arrays["weights"].numpy().tobytes())

    started = time.perf_counter()
    _ENGINES[options.engine](run, options.merchants)
    return {
        "round_s": spread(strategy.seconds[1:] or strategy.seconds),
        "first_round_s": round(strategy.seconds[0], 3),
        "wall_s": round(time.perf_counter() - started, 3),
        "arrays_sha256": sha256_hex(found[0]),
    }


def _ours(run: Callable[[Grid], None], merchants: int, workers: int = 1) -> None:
    from hansa.server.simulation import InProcessGrid

    with closing(InProcessGrid(APP, merchants, workers=workers)) as grid:
        run(grid)


def _flower(run: Callable[[Grid], None], merchants: int) -> None:
    from flwr.simulation import run_simulation

    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, _context: Context) -> None:
        run(grid)

    run_simulation(server_app=server_app, client_app=app, num_supernodes=merchants)


_ENGINES: dict[str, Callable[[Callable[[Grid], None], int], None]] = {
    "ours": _ours,
    "ours_2_workers": lambda run, merchants: _ours(run, merchants, workers=2),
    "flower": _flower,
}


if __name__ == "__main__":
    main()
