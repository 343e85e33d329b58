"""The commands around the contract and the budget that it leaves."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hansa.client.budget import Budget, read_budget
from hansa.client.contract_offer import OfferShelf, with_this_code
from hansa.client.contract_view import PlanVerdict, judge
from hansa.client.ledger_store import LedgerStore, read_ledger
from hansa.client.site import Site
from hansa.core.code_identity import installed_code
from hansa.core.contract import Change, Contract, Offer, changes, parse_contract, shown
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.plan import RunPlan, read_yaml

contract_app = typer.Typer(
    help="What the server may ask of this site, by your own word.", no_args_is_help=True
)

SiteFolder = Annotated[
    Path, typer.Option("--site", envvar="HANSA_SITE", help="Folder of this site.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_SITE = Path("hansa-site")
_console = Console()


@contract_app.command("show")
def show(as_json: AsJson = False, site: SiteFolder = _SITE) -> None:
    """Show the terms in force."""
    ledger = read_ledger(Site(site).ledger)
    contract = ledger.contract
    if as_json:
        _print_json(contract.model_dump(mode="json"))
        return
    table = Table("term", "value", title=f"contract {contract.digest[:16]}")
    for name in Contract.model_fields:
        table.add_row(name, shown(getattr(contract, name)))
    _console.print(table)
    if ledger.accepted is None:
        _console.print("These are the defaults: no terms were accepted in this ledger.")
    if contract.code and installed_code() not in contract.code:
        _console.print(
            f"This installation ({installed_code()[:16]}) is not among the allowed code: it does "
            "no work. See 'contract accept --this-code'."
        )


@contract_app.command("diff")
def diff(as_json: AsJson = False, site: SiteFolder = _SITE) -> None:
    """Show what the operator's offered terms would change."""
    place = Site(site)
    offer = _offer(place)
    current = read_ledger(place.ledger).contract
    found = changes(current, _answer(offer, current))
    if as_json:
        _print_json({"offer": offer.number, "changes": [one.model_dump() for one in found]})
        return
    typer.echo(f"terms {offer.number} of the operator. {offer.note}".rstrip())
    _show_changes(found)


@contract_app.command("accept")
def accept(
    file: Annotated[
        Path | None,
        typer.Option(help="YAML file of your own terms instead of those that are offered."),
    ] = None,
    this_code: Annotated[
        bool, typer.Option("--this-code", help="Allow the installation that is here now.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    site: SiteFolder = _SITE,
) -> None:
    """Put terms into force: the offered ones, or your own; they become a signed ledger entry.

    With --this-code alone the present terms stay, for the code that is installed now.
    """
    place = Site(site)
    with LedgerStore.open(place.ledger) as store:
        current = store.ledger.contract
        contract, number = _chosen(place, current, file, this_code)
        found = changes(current, contract)
        _show_changes(found)
        if not found and store.ledger.accepted is not None and not number:
            return
        if not yes:
            typer.confirm("Put these terms into force?", abort=True)
        store.accept(contract, offer=number, now=_now())
    typer.echo(f"contract {contract.digest[:16]} is in force")


def budget(as_json: AsJson = False, site: SiteFolder = _SITE) -> None:
    """Show what this site's privacy ledger has spent, on what, and what its caps are."""
    spent = read_budget(Site(site), _now())
    if as_json:
        _print_json(spent.model_dump())
        return
    _show_budget(spent)


def read_contract(path: Path) -> Contract:
    """The contract in a YAML file.

    Raises:
        InvalidInputError: the file cannot be read, or a term is unknown or out of bounds.
    """
    return parse_contract(read_yaml(path), str(path))


def verdict(plan: RunPlan, site: Site, now: dt.datetime) -> PlanVerdict | None:
    """What this site's contract says of a plan; None before there is a ledger."""
    try:
        return judge(plan, read_ledger(site.ledger), now)
    except NotFoundError:
        return None


def show_verdict(found: PlanVerdict | None) -> None:
    """Says so to people."""
    if found is None:
        _console.print("No ledger is here yet: your cap and your contract would decide.")
        return
    limits = [f"{found.lifetime_cap:g} for life", f"{found.metrics_cap:g} for metrics"]
    for cap, name in ((found.plan_cap, "plan"), (found.month_cap, "month")):
        if cap is not None:
            limits.append(f"{cap:g} for a {name}")
    _console.print(
        f"Your ledger would show epsilon {found.epsilon_afterwards} afterwards; "
        f"its caps are {', '.join(limits)}."
    )
    outcome = f"refuses it: {found.refused}" if found.refused else "allows it"
    _console.print(f"Your contract {found.contract[:16]} {outcome}.")


def _chosen(
    place: Site, current: Contract, file: Path | None, this_code: bool
) -> tuple[Contract, int]:
    """The terms that are to come into force, and the offer that they answer."""
    if file is not None:
        contract, number = with_this_code(read_contract(file)), 0
    elif this_code:
        contract, number = current, 0
    else:
        offer = _offer(place)
        contract, number = _answer(offer, current), offer.number
    if this_code:
        contract = contract.model_copy(update={"code": (installed_code(),)})
    return contract, number


def _answer(offer: Offer, current: Contract) -> Contract:
    """The offered terms; which code may run stays the merchant's own question if they are silent.

    So does the unit, which is the ledger's for life.
    """
    kept: dict[str, Any] = {"units": current.units}
    if not offer.contract.code:
        kept["code"] = current.code
    return offer.contract.model_copy(update=kept)


def _offer(place: Site) -> Offer:
    offer = OfferShelf(place.offered_terms, place.settings().plan_public_key).read()
    if offer is None:
        raise InvalidInputError(
            "the operator offers no terms; bring your own with 'contract accept --file TERMS.yaml'"
        )
    return offer


def _show_changes(found: tuple[Change, ...]) -> None:
    if not found:
        typer.echo("nothing changes")
        return
    table = Table("term", "now", "then", "effect")
    for one in found:
        table.add_row(one.term, one.old, one.new, "allows more" if one.looser else "allows less")
    _console.print(table)


def _show_budget(spent: Budget) -> None:
    _console.print(
        f"epsilon {spent.epsilon_spent} of {spent.epsilon_cap:g} spent for each {spent.unit} at "
        f"delta {spent.delta:g}; {spent.entries} ledger entries, unbroken"
    )
    scopes = Table("of it for", "", "epsilon", "cap")
    for one in spent.scopes:
        cap = "-" if one.epsilon_cap is None else f"{one.epsilon_cap:g}"
        scopes.add_row(one.scope, one.name, one.epsilon_spent, cap)
    _console.print(scopes)
    table = Table("run", "rounds trained", "refused")
    for run in spent.runs:
        table.add_row(run.run, str(run.rounds), run.refused or "-")
    _console.print(table)
    for run in spent.runs:
        if run.declared:
            _console.print(
                f"{run.run}: {run.app} released {run.declared} results under your own "
                "responsibility; epsilon does not count them"
            )
    how = "accepted" if spent.accepted else "the defaults"
    _console.print(f"Contract {spent.contract[:16]} ({how}).")
    if spent.offered is not None:
        _console.print(f"The operator offers new terms ({spent.offered}): see 'contract diff'.")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
