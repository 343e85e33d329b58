"""What the site's ledger says, for the merchant's eyes."""

from pydantic import BaseModel, ConfigDict

from hansa.client.ledger_store import read_ledger
from hansa.client.site import Site
from hansa.core.privacy.accounting import round_up
from hansa.core.privacy.entries import Declare, Entry, Refuse, Reserve


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunBudget(_Part):
    """One run as the ledger booked it."""

    run: str
    rounds: int
    """Rounds whose training was paid for."""
    refused: str | None
    """Why the ledger refused a further task."""
    declared: int
    """Releases of a foreign app, under the merchant's own responsibility; epsilon has no part."""
    app: str | None
    """Which app."""


class Budget(_Part):
    """The state of the book."""

    epsilon_spent: str
    """Rounded up, at ``delta``."""
    epsilon_cap: float
    delta: float
    entries: int
    runs: tuple[RunBudget, ...]


def read_budget(site: Site) -> Budget:
    """The ledger's state, verified as it is read.

    Raises:
        NotFoundError: the site has no ledger yet.
        LedgerError: the book is broken.
    """
    ledger = read_ledger(site.ledger)
    names = sorted({_run_of(entry) for entry in ledger.entries} - {""})
    return Budget(
        epsilon_spent=str(round_up(ledger.spent_epsilon())),
        epsilon_cap=ledger.cap_epsilon,
        delta=ledger.opening.delta,
        entries=len(ledger.entries),
        runs=tuple(_run(name, ledger.entries) for name in names),
    )


def _run_of(entry: Entry) -> str:
    match entry.body:
        case Reserve() | Declare() as body:
            return body.run
        case Refuse() as body:
            return body.id.split("/")[0]
        case _:
            return ""


def _run(name: str, entries: tuple[Entry, ...]) -> RunBudget:
    own = [entry.body for entry in entries if _run_of(entry) == name]
    rounds = sum(isinstance(body, Reserve) and body.phase == "train" for body in own)
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
    return f"epsilon would have become {needed}, above the cap of {body.cap_epsilon:g}"
