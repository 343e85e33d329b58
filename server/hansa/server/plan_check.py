"""What a plan costs, before anybody pays."""

from pydantic import BaseModel, ConfigDict

from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_pld, round_up
from hansa.core.privacy.plan import PrivacyPlan


class PlanCost(BaseModel):
    """A plan's price for each shopper of each merchant that takes part in every round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon_per_round: str
    """Rounded up; rounds do not add up linearly."""
    epsilon_total: str
    """Rounded up; all rounds and the noised evaluation together."""
    delta: float
    steps: int
    """Noised steps in the whole run."""
    noise_multiplier: float
    sampling_rate: float


def check_plan(plan: RunPlan) -> PlanCost:
    """The plan's cost by the PLD accountant."""
    privacy = PrivacyPlan.of(plan)
    return PlanCost(
        epsilon_per_round=str(round_up(epsilon_pld([privacy.round_event()], privacy.delta))),
        epsilon_total=str(round_up(epsilon_pld(privacy.run_events(), privacy.delta))),
        delta=privacy.delta,
        steps=privacy.rounds * privacy.local_steps,
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=privacy.sampling_rate,
    )
