"""What the answer to a task may hold: the plan's arrays, the declared numbers, nothing else.

The application was written to return no more. This does not look at how it works, only at what it
made: an app of a later version, or one that was tampered with, lets nothing further out.
"""

from collections.abc import Mapping
from typing import Final

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan
from hansa.core.privacy.noise_share import noised_sum
from hansa.core.secure.protocol import TRAIN
from hansa.core.secure.vector import size_of
from hansa.core.tensors import spec_of
from hansa.core.update import Arrays

ARRAYS: Final = "arrays"
METRICS: Final = "metrics"
CONSTANTS: Final[Mapping[str, float]] = {"num-examples": 1}
"""Numbers that are the same whatever the data."""

NOISED: Final = frozenset({"recall-at-10-sum", "shoppers"})
"""Numbers of an evaluation, each noised as ``PrivacyPlan.evaluation_event`` is paid for."""


def check_answer(plan: RunPlan, phase: str, model: Arrays, answer: Content) -> None:
    """Refuses an answer that holds anything but what its phase may let out.

    Args:
        plan: the run's.
        phase: ``train`` or ``evaluate``.
        model: the arrays that the application was given to train.
        answer: what it returned.

    Raises:
        InvalidInputError: there is an array, number or record that nobody declared.
    """
    arrays = {ARRAYS} if phase == TRAIN else set()
    numbers = set(CONSTANTS) if phase == TRAIN else set(CONSTANTS) | NOISED
    if set(answer.arrays) != arrays or answer.configs or set(answer.metrics) != {METRICS}:
        raise InvalidInputError("the answer holds records that are not declared to leave")
    if set(answer.metrics[METRICS]) != numbers:
        raise InvalidInputError("the answer holds numbers that are not declared to leave")
    if any(answer.metrics[METRICS][name] != value for name, value in CONSTANTS.items()):
        raise InvalidInputError("a number of the answer that must be constant is not")
    if phase == TRAIN:
        _check_arrays(plan, model, answer.arrays[ARRAYS])


def _check_arrays(plan: RunPlan, model: Arrays, trained: Arrays) -> None:
    if plan.privacy.distributed_noise is not None:
        noised_sum(trained, size_of(model))
        return
    if list(model) != list(trained):
        raise InvalidInputError("the answer holds arrays that are not declared to leave")
    for name in model:
        if spec_of(model, name) != spec_of(trained, name):
            raise InvalidInputError(f"array {name!r} of the answer is not like the model's")
