"""The whole empirical audit of a plan."""

from collections.abc import Callable

from hansa.client.empirical.direct import direct_checks
from hansa.client.empirical.experiment import (
    CONFIDENCE,
    DELTA,
    KINDS,
    TRIES,
    run_experiment,
)
from hansa.client.empirical.membership import infer_membership
from hansa.client.empirical.setting import replaced, settings_of
from hansa.core.code_identity import installed_code
from hansa.core.empirical import EmpiricalResult, all_passed, worst_of
from hansa.core.plan import RunPlan


def audit(
    plan: RunPlan,
    seed: int,
    *,
    watch: Callable[[str], None] = lambda _what: None,
) -> EmpiricalResult:
    """Attacks the training of this installation under a plan.

    Args:
        plan: its noise, sampling rate and steps are replaced by the test setting.
        seed: public; the same seed gives the same result on the same machine.
        watch: told what is done next.

    Raises:
        InvalidInputError: the plan trains nothing, or cannot be put into the test setting.
        WorkInterruptedError: the result is not wanted any more.
    """
    settings = settings_of(plan)
    watch("checking noise, divisor and clipping")
    checks = direct_checks(settings[0], seed)
    experiments = []
    for setting in settings:
        for kind in KINDS:
            watch(f"attacking {setting.form().steps} steps with {kind} as canaries")
            experiments.append(run_experiment(kind, setting, seed=seed))
    watch("guessing the members of a synthetic world")
    mia = infer_membership(plan, seed)
    found = tuple(experiments)
    worst = worst_of(found)
    return EmpiricalResult(
        plan_digest=plan.digest,
        code_digest=installed_code(),
        seed=seed,
        delta=DELTA,
        confidence=CONFIDENCE,
        tries=TRIES,
        replaced=replaced(plan),
        experiments=found,
        checks=checks,
        mia=mia,
        claimed_epsilon=worst.claimed_epsilon,
        lower_bound=worst.lower_bound,
        passed=all_passed(found, checks, mia),
    )
