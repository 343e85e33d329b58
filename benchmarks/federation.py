"""Every benchmark of the federation engine, into one JSON file; see ``make bench-federation``.

Each claim has a part of its own in ``benchmarks/federation_parts``, which can be run alone and
prints JSON. This runs them one after the other, each in a process of its own, keeps what each
printed in ``build/bench/parts``, and writes what all of them say together.

Command:
    python -m benchmarks.federation --out build/bench/federation.json
    python -m benchmarks.federation --only small_round,lora_64   # the others stay as they were

All parts together take a quarter of an hour or more on 2 cores; most of it is Flower's engine.
"""

from pathlib import Path

from benchmarks.suite import Suite

SUITE = Suite(
    package="benchmarks.federation_parts",
    parts=("small_round", "full_round", "server_memory", "lora_64", "secagg", "simulation"),
    figures=(
        "small_round",
        "full_round",
        "server_rss_growth_models",
        "lora_64_overhead_s",
        "secagg_client_cpu_s",
        "simulation_speedup_vs_flower",
    ),
    quick={
        "small_round": ("--repetitions", "1", "--rounds", "5", "--flower-rounds", "1"),
        "full_round": ("--repetitions", "1", "--rounds", "1", "--flower-rounds", "1"),
        "server_memory": ("--clients", "4", "16"),
        "lora_64": ("--rounds", "3"),
    },
)

if __name__ == "__main__":
    SUITE.main("all benchmarks of the federation engine", Path("build/bench/federation.json"))
