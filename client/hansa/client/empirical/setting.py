"""The test setting: a plan with so much noise that its claim is small.

Where a plan claims epsilon 8, even training without a tenth of its noise shows less than that to a
few hundred canaries. Where the claim is 0.9, a quarter of the noise shows 1.6, and any bound above
the claim is a fault. The code, and every other constant of the plan, are those that ship.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from hansa.core.empirical import CanarySetting
from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.privacy.plan import PrivacyPlan

NOISE_PER_STEP: Final = 4.0
"""Noise multiplier for one step; more steps get so much more that the claim stays the same."""

_TURNS: Final = (1, 4)
"""How often each canary takes part, by setting."""

SETTINGS: Final = len(_TURNS)

_MOST_BANDS: Final = 4
_MOST_HONEST: Final = 8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A plan with the test setting in its place."""

    plan: RunPlan

    @property
    def privacy(self) -> PrivacyPlan:
        """The mechanism of the setting, and what it is worth."""
        return PrivacyPlan.of(self.plan)

    def form(self) -> CanarySetting:
        """The setting as the result says it."""
        privacy = self.privacy
        return CanarySetting(
            noise_multiplier=privacy.noise_multiplier,
            sampling_rate=privacy.sampling_rate,
            steps=privacy.local_steps,
            rounds=privacy.rounds,
            bands=privacy.bands,
            honest=privacy.honest,
        )


def check_trains(plan: RunPlan) -> None:
    """Raises InvalidInputError: the plan trains nothing that could be attacked."""
    if plan.federation.rounds == 0:
        raise InvalidInputError("a plan of 0 rounds trains nothing; there is nothing to attack")


def settings_of(plan: RunPlan) -> tuple[Setting, ...]:
    """A setting of one turn and one of several, each with a claim of about 0.93 at delta 1e-5.

    Raises:
        InvalidInputError: the plan cannot be put into the setting; the sentence names the field.
    """
    check_trains(plan)
    return tuple(_setting(plan, turns) for turns in _TURNS)


def replaced(plan: RunPlan) -> tuple[str, ...]:
    """Which fields of the plan the settings replace, in the words of ``EmpiricalResult``."""
    fields = ["noise-multiplier", "sampling-rate", "local-steps", "rounds", "devices"]
    if plan.privacy.unit == "record":
        fields.append("records-per-shopper")
    if plan.privacy.banded_noise is not None:
        fields.append("bands")
    if plan.privacy.distributed_noise is not None:
        fields += ["quorum", "max-abs"]
    return tuple(fields)


def changed(plan: RunPlan, **parts: dict[str, Any]) -> RunPlan:
    """The plan with some fields of its parts set anew, checked like any other plan.

    Raises:
        InvalidInputError: there is no such plan.
    """
    body = plan.model_dump(mode="json")
    for part, fields in parts.items():
        body[part] = {**body[part], **fields}
    return parse_plan(body, "the plan in the test setting")


def _setting(plan: RunPlan, turns: int) -> Setting:
    """Each canary takes part ``turns`` times."""
    noise = NOISE_PER_STEP * math.sqrt(turns)
    privacy: dict[str, Any] = {"noise_multiplier": noise, "sampling_rate": 1.0}
    training: dict[str, Any] = {"local_steps": turns, "devices": 1}
    federation: dict[str, Any] = {"rounds": 1}
    if plan.privacy.unit == "record":
        privacy["records_per_shopper"] = 1  # one slot, so that every canary's pair is in it
    if plan.privacy.banded_noise is not None:
        bands = min(plan.privacy.banded_noise.bands, _MOST_BANDS)
        privacy["banded_noise"] = {"bands": bands}
        training["local_steps"] = bands * turns
    if plan.privacy.distributed_noise is not None:
        training["local_steps"] = 1
        federation |= {"rounds": turns, **few_shares(plan, noise)}
    return Setting(plan=changed(plan, privacy=privacy, training=training, federation=federation))


def few_shares(plan: RunPlan, noise: float) -> dict[str, Any]:
    """A few honest shares, and a sum with room for this noise."""
    spec, secure = plan.privacy.distributed_noise, plan.federation.secure_aggregation
    if spec is None or secure is None:
        raise InvalidInputError("distributed noise needs federation.secure_aggregation: set it")
    wider = max(1.0, noise / plan.privacy.noise_multiplier)
    return {
        "quorum": min(plan.federation.quorum, max(3, spec.colluders + _MOST_HONEST)),
        "secure_aggregation": {
            **secure.model_dump(mode="json"),
            "max_abs": min(1e6, secure.max_abs * wider),
        },
    }
