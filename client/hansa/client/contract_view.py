"""What the contract says of a plan, for the merchant's eyes."""

import datetime as dt

from pydantic import BaseModel, ConfigDict

from hansa.core.contract_rules import check_plan
from hansa.core.errors import ContractError
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import round_up
from hansa.core.privacy.bodies import Reserve
from hansa.core.privacy.entries import moment
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.privacy.spending import TRAIN

EVALUATE = "evaluate"


class PlanVerdict(BaseModel):
    """A plan against the terms in force and the budget that is left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: str
    """Digest of the terms."""
    refused: str | None
    """The term that the plan breaks, or the cap that its whole run would exceed; absent: none."""
    epsilon_afterwards: str
    """Of the whole ledger, if every round of a run were paid for."""
    lifetime_cap: float
    plan_cap: float | None
    month_cap: float | None
    metrics_cap: float


def judge(plan: RunPlan, ledger: Ledger, now: dt.datetime) -> PlanVerdict:
    """What would become of a run of this plan, all of it in the present month; books nothing.

    A plan of another unit than the ledger's cannot be added up, and is refused.
    """
    caps = ledger.caps
    broken = _broken_term(plan, ledger)
    afterwards = 0.0
    if plan.privacy.unit == ledger.opening.unit:
        afterwards = ledger.would_spend(PrivacyPlan.of(plan).run_events())
        broken = broken or _exceeded_cap(plan, ledger, now)
    return PlanVerdict(
        contract=ledger.contract.digest,
        refused=broken,
        epsilon_afterwards=str(round_up(afterwards)),
        lifetime_cap=caps.lifetime,
        plan_cap=caps.plan,
        month_cap=caps.month,
        metrics_cap=caps.metrics,
    )


def _broken_term(plan: RunPlan, ledger: Ledger) -> str | None:
    opening = ledger.opening
    try:
        check_plan(ledger.contract, plan, unit=opening.unit, delta=opening.delta)
    except ContractError as error:
        return str(error)
    return None


def _exceeded_cap(plan: RunPlan, ledger: Ledger, now: dt.datetime) -> str | None:
    """The metrics by their own share, then everything by all other caps."""
    privacy = PrivacyPlan.of(plan)
    reports = [] if (report := privacy.evaluation_event()) is None else [report]
    for phase, events in ((EVALUATE, reports), (TRAIN, privacy.run_events())):
        if not events:
            continue
        body = Reserve(
            id=plan.name,
            plan_digest=plan.digest,
            run=plan.name,
            round=0,
            phase=phase,
            events=tuple(events),
        )
        overdraft = ledger.spending.overdraft(body, moment(now), ledger.caps)
        if overdraft is not None:
            return f"a whole run would raise {overdraft.sentence()}"
    return None
