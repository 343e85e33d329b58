"""``hansa-server terms``: what the operator offers all merchants to agree to."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from hansa.core.contract import parse_contract
from hansa.core.plan import read_yaml
from hansa.server.authority import read_plan_key
from hansa.server.cli_options import STATE, State
from hansa.server.settings import StateFolder
from hansa.server.terms import OfferedTerms

terms_app = typer.Typer(
    help="Offer terms to all merchants; each decides for itself.", no_args_is_help=True
)


@terms_app.command("set")
def set_terms(
    file: Annotated[Path, typer.Argument(metavar="TERMS.yaml", help="The terms; see the guide.")],
    note: Annotated[str, typer.Option(help="Why; merchants see it.")] = "",
    state: State = STATE,
) -> None:
    """Sign terms and offer them; merchants see them when they connect next, and may accept them."""
    folder = StateFolder(state)
    folder.settings()
    contract = parse_contract(read_yaml(file), str(file))
    key = read_plan_key(folder.authority / "plan.key.pem")
    offer = OfferedTerms(folder.terms).set(contract, key, note)
    typer.echo(
        f"terms {offer.number} ({contract.digest[:16]}) are offered; at each merchant the old ones "
        "hold until it runs 'hansa-client contract accept'"
    )


@terms_app.command("show")
def show_terms(state: State = STATE) -> None:
    """Print the terms on offer as YAML."""
    folder = StateFolder(state)
    folder.settings()
    offer = OfferedTerms(folder.terms).read(read_plan_key(folder.authority / "plan.key.pem"))
    if offer is None:
        typer.echo("no terms are offered: each merchant keeps its own")
        return
    typer.echo(f"# terms {offer.number} {offer.note}".rstrip())
    typer.echo(yaml.safe_dump(offer.contract.model_dump(mode="json"), sort_keys=False), nl=False)
