"""Every benchmark of privacy, into one JSON file; see ``make bench-privacy``.

Each claim has a part of its own in ``benchmarks/privacy_parts``, which can be run alone and prints
JSON. This runs them one after the other, each in a process of its own, keeps what each printed in
``build/bench/privacy-parts``, and writes what all of them say together.

Command:
    python -m benchmarks.privacy --out build/bench/privacy.json
    python -m benchmarks.privacy --only accounting,steps   # the others stay as they were
"""

from pathlib import Path

from benchmarks.suite import Suite

SUITE = Suite(
    package="benchmarks.privacy_parts",
    parts=("accounting", "steps", "ledger", "verify", "distributed", "empirical"),
    figures=(
        "verify_100k_entries_s",
        "open_100k_entries_s",
        "reserve_at_1000_entries_s",
        "pld_prv_max_gap",
        "shopper_sensitivity_max_ratio",
        "noise_std_max_error",
        "planted_bugs_caught",
        "dp_step_ratio",
        "distributed_step",
    ),
    folder="privacy-parts",
    quick={"steps": ("--steps", "1"), "distributed": ("--steps", "3")},
)

if __name__ == "__main__":
    SUITE.main("all benchmarks of privacy", Path("build/bench/privacy.json"))
