"""What the site's ledger says, for the merchant's eyes."""

import datetime as dt

from pydantic import BaseModel, ConfigDict

from hansa.client.contract_offer import OfferShelf
from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.ids import TaskId
from hansa.core.privacy.accounting import round_up
from hansa.core.privacy.bodies import Declare, Refuse, Reserve, Scope
from hansa.core.privacy.entries import Entry, moment
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.spending import month_of


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunBudget(_Part):
    """One run as the ledger booked it."""

    run: str
    rounds: int
    """Rounds whose training was paid for, and not released again."""
    refused: str | None
    """Why the ledger refused a further task."""
    declared: int
    """Releases of a foreign app, under the merchant's own responsibility; epsilon has no part."""
    app: str | None
    """Which app."""


class ScopeBudget(_Part):
    """What a part of the book has spent, and what it may."""

    scope: Scope
    name: str
    """Which plan, or which month (UTC); empty for the others."""
    epsilon_spent: str
    """Rounded up."""
    epsilon_cap: float | None
    """Absent: no cap of its own."""


class Budget(_Part):
    """The state of the book."""

    epsilon_spent: str
    """Rounded up, at ``delta``."""
    epsilon_cap: float
    """For life: the book's own cap, or the contract's where that is lower."""
    delta: float
    unit: str
    """Whom epsilon protects."""
    entries: int
    scopes: tuple[ScopeBudget, ...]
    """Each plan, the present month, and everything that is no training."""
    contract: str
    """Digest of the terms in force."""
    accepted: bool
    """Whether the merchant accepted them; else they are the defaults."""
    offered: int | None
    """Number of newer terms that the operator offers."""
    runs: tuple[RunBudget, ...]


def read_budget(site: Site, now: dt.datetime) -> Budget:
    """The ledger's state, verified as it is read.

    Raises:
        NotFoundError: the site has no ledger yet.
        LedgerError: the book is broken.
    """
    ledger = read_ledger(site.ledger)
    names = sorted({_run_of(entry) for entry in ledger.entries} - {""})
    return Budget(
        epsilon_spent=str(round_up(ledger.spent_epsilon())),
        epsilon_cap=ledger.caps.lifetime,
        delta=ledger.opening.delta,
        unit=ledger.opening.unit,
        entries=len(ledger.entries),
        scopes=_scopes(ledger, month_of(moment(now))),
        contract=ledger.contract.digest,
        accepted=ledger.accepted is not None,
        offered=_newer_offer(site, ledger),
        runs=tuple(_run(name, ledger) for name in names),
    )


def _newer_offer(site: Site, ledger: Ledger) -> int | None:
    if not site.has_joined():
        return None
    offer = OfferShelf(site.offered_terms, site.settings().plan_public_key).read()
    known = 0 if ledger.accepted is None else ledger.accepted.offer
    return None if offer is None or offer.number <= known else offer.number


def _scopes(ledger: Ledger, month: str) -> tuple[ScopeBudget, ...]:
    spending, caps = ledger.spending, ledger.caps
    plans = tuple(
        _scope("plan", name, spending.plan_epsilon(name), caps.plan) for name in spending.plans()
    )
    return (
        *plans,
        _scope("month", month, spending.month_epsilon(month), caps.month),
        _scope("metrics", "", spending.metrics_epsilon(), caps.metrics),
    )


def _scope(scope: Scope, name: str, epsilon: float, cap: float | None) -> ScopeBudget:
    return ScopeBudget(
        scope=scope, name=name, epsilon_spent=str(round_up(epsilon)), epsilon_cap=cap
    )


def _run_of(entry: Entry) -> str:
    match entry.body:
        case Reserve() | Declare() as body:
            return body.run
        case Refuse() as body:
            return body.id.split("/")[0]
        case _:
            return ""


def _run(name: str, ledger: Ledger) -> RunBudget:
    own = [entry.body for entry in ledger.entries if _run_of(entry) == name]
    rounds = sum(
        isinstance(body, Reserve)
        and body.phase == "train"
        and not ledger.is_released(TaskId(body.id))
        for body in own
    )
    refusals = [body for body in own if isinstance(body, Refuse)]
    declared = [body for body in own if isinstance(body, Declare)]
    return RunBudget(
        run=name,
        rounds=rounds,
        refused=_refusal(refusals[0]) if refusals else None,
        declared=len(declared),
        app=declared[0].app if declared else None,
    )


def _refusal(body: Refuse) -> str:
    needed = round_up(body.epsilon_needed)
    of = "" if body.scope == "lifetime" else f" for {body.scope}"
    return f"epsilon would have become {needed}, above the cap of {body.cap_epsilon:g}{of}"
