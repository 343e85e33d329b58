"""Has the training code attacked before a release, in a process of its own.

The server does not import a client's code. It runs the one that is installed beside it, as the
simulation does, and takes only figures that hang together and are of this plan and installation.
"""

import os
import subprocess
import sys
from typing import Final

from hansa.core.canonical import canonical_json
from hansa.core.code_identity import installed_code
from hansa.core.empirical import EmpiricalResult
from hansa.core.errors import AuditFailedError, HansaError, InvalidInputError
from hansa.core.plan import RunPlan
from hansa.core.quiet import stay_offline

PROGRAM: Final = "hansa.client.empirical"
LIMIT_S: Final = 600.0

_GRACE_S: Final = 30.0
"""For loading libraries and for ending by itself."""
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_ANSWERS: Final = (0, AuditFailedError.exit_code)
_MOST_CHARACTERS: Final = 500


class EmpiricalAuditError(HansaError):
    """The empirical audit came to no result; whether the training is sound is not known."""


def audit_training(plan: RunPlan, seed: int, *, limit_s: float = LIMIT_S) -> EmpiricalResult:
    """What an attack on the training code shows under a plan; it may have failed: see ``passed``.

    Args:
        plan: the run's.
        seed: public, and best one that nobody could choose, such as a part of a digest.
        limit_s: seconds after which the process ends; it takes one thread until then.

    Raises:
        EmpiricalAuditError: the client's code is not installed here, the time was not enough, or
            the answer is not that of this plan and installation.
    """
    command = [sys.executable, "-m", PROGRAM, "-", "--seed", str(seed), "--limit-s", str(limit_s)]
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter and module
            command,
            input=canonical_json(plan.model_dump(mode="json")),
            capture_output=True,
            env=_environment(),
            timeout=limit_s + _GRACE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EmpiricalAuditError(
            f"the empirical audit took longer than {limit_s:g} s: allow more time"
        ) from error
    if ended.returncode not in _ANSWERS:
        raise EmpiricalAuditError(f"the empirical audit came to no result: {_why(ended.stderr)}")
    return _checked(ended.stdout, plan, seed)


def _checked(answer: bytes, plan: RunPlan, seed: int) -> EmpiricalResult:
    try:
        result = EmpiricalResult.parse(answer)
    except InvalidInputError as error:
        raise EmpiricalAuditError(str(error)) from error
    if (result.plan_digest, result.seed) != (plan.digest, seed):
        raise EmpiricalAuditError("the empirical audit is of another plan or seed; run it anew")
    if result.code_digest != installed_code():
        raise EmpiricalAuditError("the installation changed; restart the server and audit anew")
    if result.wrong_bounds():
        raise EmpiricalAuditError("the bounds of the empirical audit do not follow from its counts")
    return result


def _environment() -> dict[str, str]:
    environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
    stay_offline(environment)
    return environment


def _why(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    missing = "No module named" in lines[-1]
    return lines[-1][:_MOST_CHARACTERS] + ("; install hansa[client] here too" if missing else "")
