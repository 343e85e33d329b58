"""An empirical audit's result that hangs together, without having trained anything.

``empirical_body()`` is the JSON; change what a test is about and parse it.
"""

from typing import Any

from hansa.core.privacy.one_run import lower_bound

TRIES = 32


def empirical_body(plan_digest: str = "a" * 64, code_digest: str = "b" * 64) -> dict[str, Any]:
    """A result that passed: 460 of 800 guesses right, at a claim of 0.93."""
    bound = lower_bound(1500, 800, 460, delta=1e-5, alpha=0.05 / TRIES)
    experiment = {
        "canaries_are": "gradients",
        "setting": {"noise_multiplier": 4.0, "sampling_rate": 1.0, "steps": 1, "rounds": 1},
        "canaries": 1500,
        "guesses": 800,
        "correct": 460,
        "claimed_epsilon": 0.9263,
        "lower_bound": bound,
    }
    check = {"name": "noise-scale", "measured": 1.001, "expected": 1.0, "tolerance": 0.025}
    return {
        "plan_digest": plan_digest,
        "code_digest": code_digest,
        "seed": 0,
        "delta": 1e-5,
        "confidence": 0.95,
        "tries": TRIES,
        "replaced": ["noise-multiplier"],
        "experiments": [experiment],
        "checks": [check],
        "mia": None,
        "claimed_epsilon": 0.9263,
        "lower_bound": bound,
        "passed": True,
    }
