"""What the canary audit shows of the shipped training code, as it is and with faults planted in it.

Claims: three faults that are planted into the shipped code at its seams (noise / 4, clip x 4, the
true number of sampled units as divisor) are each caught; the code without them passes with every
seed. ``table`` has the lower bounds on epsilon for the test setting, whose claim is 0.93.

Command:
    python -m benchmarks.privacy_parts.empirical --seeds 3

Expected: planted_bugs_caught 3; bounds of 0.1 to 0.5 for the code as it is, 1.3 to 2.0 for a
quarter of the noise or four times the clip norm, 2.8 to 3.5 for an eighth of the noise.
"""

import argparse
import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import torch

from benchmarks.federation_parts.measure import emit, note
from hansa.client.empirical.direct import direct_checks
from hansa.client.empirical.experiment import GRADIENTS, run_experiment
from hansa.client.empirical.setting import settings_of
from hansa.core.plan import RunPlan, read_plan
from tests.fakes.planted_bugs import clip_times, divided_by_the_true_number, noise_divided_by

Bug = Callable[[], AbstractContextManager[None]]

PLAN: Final = Path("demo/plans/cold-items.yaml")

TABLE: Final[dict[str, Bug]] = {
    "as shipped": contextlib.nullcontext,
    "noise / 4": lambda: noise_divided_by(4.0),
    "noise / 8": lambda: noise_divided_by(8.0),
    "clip x 4": lambda: clip_times(4.0),
}
BUGS: Final[dict[str, Bug]] = {
    "noise / 4": TABLE["noise / 4"],
    "clip x 4": TABLE["clip x 4"],
    "wrong divisor": divided_by_the_true_number,
}


def bounds(plan: RunPlan, seeds: int) -> list[dict[str, object]]:
    """The table: a row a setting, a list of bounds (a seed each) a fault."""
    rows: list[dict[str, object]] = []
    for setting in settings_of(plan):
        form, row = setting.form(), dict[str, object]()
        for name, bug in TABLE.items():
            with bug():
                found = [run_experiment(GRADIENTS, setting, seed=seed) for seed in range(seeds)]
            row[name] = [round(one.lower_bound, 2) for one in found]
            row["claimed"] = round(found[0].claimed_epsilon, 2)
            note(f"noise {form.noise_multiplier:g}, {form.steps} steps, {name}: {row[name]}")
        rows.append({"noise_multiplier": form.noise_multiplier, "steps": form.steps, **row})
    return rows


def caught_by(plan: RunPlan, bug: Bug, seed: int) -> list[str]:
    """What fails while a fault is planted."""
    settings = settings_of(plan)
    with bug():
        failed = [one.name for one in direct_checks(settings[0], seed) if not one.passed]
        shown = [run_experiment(GRADIENTS, setting, seed=seed) for setting in settings]
    return failed + ["canaries"] * any(not one.passed for one in shown)


def measure(plan: RunPlan, seeds: int) -> dict[str, object]:
    """All figures of this part."""
    torch.set_num_threads(1)
    sound = [caught_by(plan, contextlib.nullcontext, seed) for seed in range(seeds)]
    caught = {
        name: [caught_by(plan, bug, seed) for seed in range(seeds)] for name, bug in BUGS.items()
    }
    return {
        "planted_bugs_caught": sum(all(each) for each in caught.values()),
        "caught_by": {name: each[0] for name, each in caught.items()},
        "false_alarms": sum(map(bool, sound)),
        "table": bounds(plan, seeds),
        "plan": plan.name,
        "seeds": seeds,
    }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description="planted faults and the canary audit")
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    emit(measure(read_plan(options.plan), options.seeds))


if __name__ == "__main__":
    main()
