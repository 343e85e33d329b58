"""What a plan costs and what is left of it for a shop, before anybody pays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from hansa.core.errors import InvalidInputError
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_reference, reference_accountant, round_up
from hansa.core.privacy.banded import most_participations
from hansa.core.privacy.calibration import needed_noise
from hansa.core.privacy.events import PrivacyEvent
from hansa.core.privacy.plan import PrivacyPlan
from hansa.server.plan_size import bytes_per_round, trained_numbers, trained_shapes
from hansa.server.shop_check import ShopOutlook, outlook

BEYOND = "no useful figure"
"""What is written for an epsilon that is not worth computing: no protection is to be claimed."""

_WORTH_THE_NAME = 20.0
"""Above this epsilon a posterior may be anything: nobody should call it protection."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShopperCost(_Part):
    """What a shopper spends who has data at so many merchants."""

    merchants: int
    epsilon: str


class MerchantProtection(_Part):
    """What hides a merchant as a whole, all its shoppers together."""

    shoppers: int
    """Of the merchant that the figure is for; public, never counted."""
    epsilon: str
    verdict: str


class Calibration(_Part):
    """The noise that a target needs, everything else in the plan left as it is."""

    target_epsilon: float
    noise_multiplier: float


class PlanCost(_Part):
    """A plan's price for each unit of each merchant that takes part in every round."""

    unit: str
    mechanism: str
    accountant: str
    epsilon_per_round: str
    """Rounded up, as all figures; rounds do not add up linearly."""
    epsilon_training: str
    epsilon_metrics: str
    epsilon_total: str
    """All rounds and the noised evaluation together."""
    delta: float
    steps: int
    """Noised steps in the whole run."""
    noise_multiplier: float
    sampling_rate: float
    second_unit: str
    second_epsilon: str
    """The whole run for the other unit."""
    second_meaning: str
    shoppers: tuple[ShopperCost, ...]
    merchant: MerchantProtection
    bytes_per_round: int | None
    """Of one merchant's update; None where the base model's sizes are not known here."""
    calibration: Calibration | None
    shop: ShopOutlook | None
    notes: tuple[str, ...]


NOTES: Final = (
    "Choosing a plan's constants on public data costs nothing. Choosing them by trials on "
    "shoppers' data costs: each search is an event (repeat_and_select), priced by RDP.",
    "Nobody can know who is a customer of several merchants: publish the figure for the most "
    "merchants that you expect.",
)


def check_plan(
    plan: RunPlan,
    *,
    base_models: Mapping[str, Path] | None = None,
    merchants: int | None = None,
    shoppers: int | None = None,
    target_epsilon: float | None = None,
) -> PlanCost:
    """The plan's cost by the reference accountant, with what it leaves open.

    Args:
        plan: the plan.
        base_models: folders by name, for the sizes of what is trained.
        merchants: a further number of merchants that one shopper may be a customer of.
        shoppers: a hypothetical shop's public size, to see what the plan means for it.
        target_epsilon: solve for the noise that keeps the whole run to it; all figures are then
            for the plan with that noise.

    Raises:
        InvalidInputError: an argument is out of bounds, no noise keeps to the target, or the base
            model does not fit the plan.
    """
    privacy = PrivacyPlan.of(plan)
    calibration = _calibrated(privacy, target_epsilon)
    if calibration is not None:
        privacy = replace(privacy, noise_multiplier=calibration.noise_multiplier)
    shapes = trained_shapes(plan, base_models or {})
    numbers = None if shapes is None else trained_numbers(shapes)
    per_round = [privacy.round_event()] if privacy.rounds else []
    evaluation = privacy.evaluation_event()
    total = privacy.run_events()
    second = _second_unit(privacy)
    return PlanCost(
        unit=privacy.unit,
        mechanism=_mechanism(privacy),
        accountant=reference_accountant(total),
        epsilon_per_round=_spent(per_round, privacy),
        epsilon_training=_spent(privacy.training_events(), privacy),
        epsilon_metrics=_spent([] if evaluation is None else [evaluation], privacy),
        epsilon_total=_spent(total, privacy),
        delta=privacy.delta,
        steps=privacy.rounds * privacy.local_steps,
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=privacy.sampling_rate,
        second_unit=second[0],
        second_epsilon=second[1],
        second_meaning=second[2],
        shoppers=_by_merchants(privacy, merchants),
        merchant=_merchant(privacy, shoppers),
        bytes_per_round=None if shapes is None else bytes_per_round(plan, shapes),
        calibration=calibration,
        shop=None
        if shoppers is None
        else outlook(privacy, shoppers, plan.federation.quorum, numbers),
        notes=NOTES,
    )


def shown(epsilon: float) -> str:
    """Epsilon for people, rounded up."""
    return str(round_up(epsilon)) if math.isfinite(epsilon) else BEYOND


def _spent(events: Sequence[PrivacyEvent], privacy: PrivacyPlan) -> str:
    return shown(epsilon_reference(events, privacy.delta))


def _mechanism(privacy: PrivacyPlan) -> str:
    if privacy.bands is not None:
        return f"banded noise of {privacy.bands} bands, added by each merchant"
    if privacy.honest is not None:
        return (
            "one noise draw a step for all merchants' shoppers; it holds if at least "
            f"{privacy.honest} of the merchants that add a share are honest"
        )
    return "independent noise, added by each merchant to each step; it needs to trust nobody"


def _second_unit(privacy: PrivacyPlan) -> tuple[str, str, str]:
    """The other unit, its epsilon for the whole run, and what that means."""
    if privacy.unit == "shopper":
        spent = _spent(privacy.run_events(), privacy)
        return "record", spent, "at most this: a record is a part of its shopper"
    whole = shown(privacy.shopper_epsilon())
    records = privacy.records_per_shopper
    return "shopper", whole, f"all of a shopper with {records} records, counted exactly"


def _by_merchants(privacy: PrivacyPlan, further: int | None) -> tuple[ShopperCost, ...]:
    numbers = sorted({1, 2, 3} | ({further} if further is not None else set()))
    return tuple(
        ShopperCost(merchants=m, epsilon=shown(privacy.shopper_epsilon(merchants=m)))
        for m in numbers
    )


def _merchant(privacy: PrivacyPlan, shoppers: int | None) -> MerchantProtection:
    """The whole shop as one group: all its units may move every sum, by a clip norm each.

    An upper bound by zero-concentrated privacy; sampling is left out, for it hides no shop.
    """
    size = shoppers or math.ceil(privacy.expected_shoppers / _share(privacy))
    units = size * (privacy.records_per_shopper if privacy.unit == "record" else 1)
    each = privacy.local_steps
    if privacy.bands is not None:
        each = most_participations(privacy.bands, privacy.local_steps)
    rho = privacy.rounds * each * (units / privacy.noise_multiplier) ** 2 / 2.0
    if privacy.evaluation_noise_multiplier is not None:
        rho += (size / privacy.evaluation_noise_multiplier) ** 2 / 2.0
    epsilon = rho + 2.0 * math.sqrt(rho * -math.log(privacy.delta))
    return MerchantProtection(
        shoppers=size, epsilon=str(round_up(epsilon)), verdict=_merchant_verdict(epsilon)
    )


def _merchant_verdict(epsilon: float) -> str:
    if epsilon > _WORTH_THE_NAME:
        return "none worth the name: what is true of all its shoppers together may show"
    return "weak, and only by the noise that hides single shoppers; never a headline"


def _share(privacy: PrivacyPlan) -> float:
    """The share of a shop's units that a step expects."""
    return privacy.sampling_rate if privacy.bands is None else 1.0 / privacy.bands


def _calibrated(privacy: PrivacyPlan, target: float | None) -> Calibration | None:
    if target is None:
        return None
    if not privacy.rounds:
        raise InvalidInputError("a plan of 0 rounds trains nothing: leave --target-epsilon out")
    return Calibration(target_epsilon=target, noise_multiplier=needed_noise(privacy, target))
