"""The empirical audit as a process of its own, for whoever must not import this code.

    python -m hansa.client.empirical PLAN.json [--seed N] [--limit-s S]

reads a plan (``-``: from standard input) and prints the result as canonical JSON. It ends with 0
where the training passed, 13 where it did not, 1 where the time was not enough, and 2 where there
is nothing to attack; the reason goes to standard error.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hansa.client.empirical.audit import audit
from hansa.client.interruption import interruptible
from hansa.core.canonical import parse_json
from hansa.core.empirical import EmpiricalResult
from hansa.core.errors import AuditFailedError, HansaError, InvalidInputError
from hansa.core.plan import RunPlan, parse_plan, read_plan
from hansa.core.quiet import configure_logging, stay_offline

LIMIT_S = 600.0
_MAX_PLAN_BYTES = 1 << 20


def main(arguments: Sequence[str]) -> int:
    """Runs the audit; returns the exit code."""
    parser = argparse.ArgumentParser(prog="hansa.client.empirical")
    parser.add_argument("plan", help="a file, or - for standard input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    options = parser.parse_args(arguments)
    try:
        result = run(_plan(options.plan), options.seed, limit_s=options.limit_s)
    except HansaError as error:
        sys.stderr.write(f"hansa.client.empirical: {error}\n")
        return error.exit_code
    sys.stdout.buffer.write(result.to_bytes() + b"\n")
    return 0 if result.passed else AuditFailedError.exit_code


def run(plan: RunPlan, seed: int, *, limit_s: float) -> EmpiricalResult:
    """The audit on one thread, so that sums round alike, given up after so many seconds.

    Raises:
        InvalidInputError: the plan trains nothing, or cannot be put into the test setting.
        WorkInterruptedError: the time was not enough.
    """
    torch.set_num_threads(1)
    end = time.monotonic() + limit_s
    with interruptible(lambda: time.monotonic() > end):
        return audit(plan, seed)


def _plan(where: str) -> RunPlan:
    if where != "-":
        return read_plan(Path(where))
    data = sys.stdin.buffer.read(_MAX_PLAN_BYTES + 1)
    if len(data) > _MAX_PLAN_BYTES:
        raise InvalidInputError("a plan has at most 1 MiB; this is none")
    return parse_plan(parse_json(data, "the plan"), "the plan")


if __name__ == "__main__":
    stay_offline(os.environ)
    configure_logging(verbose=False)
    sys.exit(main(sys.argv[1:]))
