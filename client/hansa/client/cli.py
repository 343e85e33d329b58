"""``hansa-client``: one merchant's command.

What only one command needs is imported in it: most commands need no torch and answer at once.
"""

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hansa.client import app_cli, contract_cli, empirical_cli, leave_cli, log_cli
from hansa.client.enrol import Terms
from hansa.client.enrol import join as join_federation
from hansa.client.entropy import SystemEntropy
from hansa.client.halt import HaltSwitch
from hansa.client.site import Site
from hansa.core.base_models import parse_base_models
from hansa.core.errors import HansaError, InvalidInputError
from hansa.core.flower_plan import FlowerPlan, read_any_plan
from hansa.core.invitation import Invitation
from hansa.core.privacy.events import UNIT, Unit
from hansa.core.quiet import configure_logging, stay_offline

app = typer.Typer(
    name="hansa-client",
    help="One merchant's site: see what would leave, join, ingest, train privately, serve on site.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SiteFolder = Annotated[
    Path, typer.Option("--site", envvar="HANSA_SITE", help="Folder of this site.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
BaseModels = Annotated[
    list[str] | None,
    typer.Option(
        "--base-model",
        envvar="HANSA_BASE_MODEL",
        help="NAME=FOLDER of a local Hugging Face encoder; default: the installed MiniLM.",
    ),
]

_SITE = Path("hansa-site")
_console = Console()

app.command("allow-app")(app_cli.allow_app)
app.command("forbid-app")(app_cli.forbid_app)
app.command("apps")(app_cli.apps)
app.command("leave")(leave_cli.leave)
app.add_typer(contract_cli.contract_app, name="contract")
app.command("budget")(contract_cli.budget)
app.add_typer(log_cli.checkpoints_app, name="checkpoints")
app.command("test-privacy")(empirical_cli.attack)


@app.command()
def preview(
    plan: Annotated[
        Path, typer.Argument(help="YAML file of the run plan, as the operator sent it.")
    ],
    base_model: BaseModels = None,
    as_json: AsJson = False,
    site: SiteFolder = _SITE,
) -> None:
    """Show what a plan would let leave this site; connects to nobody."""
    from hansa.client.preview import preview as look

    found = read_any_plan(plan)
    if isinstance(found, FlowerPlan):
        typer.echo(
            f"{found.client_app} decides by itself what leaves: no epsilon can be stated. "
            f"It runs only if you allow it: hansa-client allow-app {found.client_app}"
        )
        return
    seen = look(found, parse_base_models(base_model or []))
    verdict = contract_cli.verdict(found, Site(site), _now())
    if as_json:
        judged = None if verdict is None else verdict.model_dump()
        _print_json({**seen.model_dump(), "contract": judged})
        return
    table = Table(
        "what leaves each round", "shape", "bytes", title=f"plan {seen.plan}, {seen.rounds} rounds"
    )
    for tensor in seen.tensors:
        table.add_row(tensor.name, " x ".join(map(str, tensor.shape)), f"{tensor.size_bytes:,}")
    for metric in seen.metrics:
        table.add_row(metric.name, metric.protection, "8")
    _console.print(table)
    _console.print(f"Protection of the arrays: {seen.tensors_protection}.")
    _console.print(f"Never leaves: {', '.join(seen.never_leaves)}.")
    _console.print(
        f"Cost per {seen.unit}: epsilon {seen.epsilon_per_round} a round, "
        f"{seen.epsilon_total} for the whole run, at delta {seen.delta:g}."
    )
    if seen.epsilon_total_of_a_shopper != seen.epsilon_total:
        _console.print(f"Cost per shopper: epsilon {seen.epsilon_total_of_a_shopper} in all.")
    contract_cli.show_verdict(verdict)


@app.command()
def join(
    token: Annotated[str, typer.Argument(help="The operator's token, or @FILE that holds it.")],
    epsilon_cap: Annotated[float, typer.Option(help="No shopper's epsilon ever exceeds this.")],
    delta: Annotated[float, typer.Option(help="The delta at which epsilon is counted.")] = 1e-5,
    unit: Annotated[Unit, typer.Option(help="Whom epsilon protects; it cannot be changed.")] = UNIT,
    contract: Annotated[
        Path | None,
        typer.Option(help="YAML file of your own terms; default: those of 'contract show'."),
    ] = None,
    base_model: BaseModels = None,
    serving_port: Annotated[int, typer.Option(help="Port of the on-site service; 0: any.")] = 8700,
    update_period_s: Annotated[
        float, typer.Option(help="Seconds between looks for a release.")
    ] = 60.0,
    site: SiteFolder = _SITE,
) -> None:
    """Become a member: the key is made here, the server is pinned by the token."""
    text = _read_token(token)
    terms = Terms(
        epsilon_cap=epsilon_cap,
        delta=delta,
        base_models=parse_base_models(base_model or []),
        serving_port=serving_port,
        update_period_s=update_period_s,
        unit=unit,
        contract=None if contract is None else contract_cli.read_contract(contract),
    )
    settings = join_federation(Site(site), Invitation.from_token(text), terms, _now())
    typer.echo(
        f"{settings.merchant} has joined {settings.server_address}; epsilon cap {epsilon_cap:g}"
    )


@app.command()
def ingest(
    catalogue: Annotated[
        Path, typer.Argument(help="Export of the items: CSV, Parquet or JSON lines.")
    ],
    events: Annotated[
        Path, typer.Argument(help="Export of the events: CSV, Parquet or JSON lines.")
    ],
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="OURS=THEIRS for a column of another name.")
    ] = None,
    as_json: AsJson = False,
    site: SiteFolder = _SITE,
) -> None:
    """Check, clean and take in the shop's exports; nothing is sent anywhere."""
    from hansa.client.dataset import ingest as take_in
    from hansa.client.ingest.columns import parse_mapping
    from hansa.client.ingest.pseudonyms import KEY_BYTES, read_or_create_key

    place = Site(site)
    key = read_or_create_key(place.pseudonym_key, SystemEntropy().random_bytes(KEY_BYTES))
    report = take_in(catalogue, events, place.dataset, parse_mapping(mapping or []), _now(), key)
    if as_json:
        _print_json(report.model_dump(mode="json"))
        return
    for sentence in report.sentences():
        typer.echo(sentence)


@app.command()
def start(
    site: SiteFolder = _SITE, verbose: Annotated[bool, typer.Option("--verbose")] = False
) -> None:
    """Run the site until Ctrl-C or SIGTERM: training, updates, search and recommendation."""
    from hansa.client.start import start as run

    configure_logging(verbose=verbose)
    run(Site(site))


@app.command()
def stop(
    now: Annotated[
        bool, typer.Option("--now", help="Cut the line at once; the work in hand is given up.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the log; stays on site.")] = "",
    site: SiteFolder = _SITE,
) -> None:
    """Take no part in the federation until 'resume'; search and recommendation go on.

    It works whether or not the client runs, and outlives restarts. Without --now the work in hand
    is finished and delivered first. What was reserved for work that is given up stays spent.
    """
    Site(site).settings()
    HaltSwitch(Site(site).halt).set(at_once=now, reason=reason, now=_now())
    typer.echo("this site takes no part in the federation now; 'hansa-client resume' ends that")


@app.command()
def resume(site: SiteFolder = _SITE) -> None:
    """Take part in the federation again after 'stop'."""
    Site(site).settings()
    if HaltSwitch(Site(site).halt).clear():
        typer.echo("this site takes part in the federation again")
    else:
        typer.echo("this site was not stopped")


@app.command()
def doctor(as_json: AsJson = False, site: SiteFolder = _SITE) -> None:
    """Check line, certificates, keys, clock, disk, ledger, GPU and versions; say what to do."""
    from hansa.client.doctor import examine
    from hansa.core.diagnosis import as_plain, as_table, healthy

    findings = examine(Site(site))
    if as_json:
        _print_json(as_plain(findings))
    else:
        _console.print(as_table(findings))
    raise typer.Exit(0 if healthy(findings) else 1)


@app.command("raise-cap")
def raise_cap(
    epsilon: Annotated[float, typer.Argument(help="The new cap; above the present one.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    site: SiteFolder = _SITE,
) -> None:
    """Allow more privacy loss; the decision becomes a signed entry of the ledger."""
    from hansa.client.ledger_store import LedgerStore

    if not yes:
        typer.confirm(f"Let a shopper's epsilon grow up to {epsilon:g}, for ever?", abort=True)
    with LedgerStore.open(Site(site).ledger) as store:
        store.raise_cap(epsilon, now=_now())
        lifetime = store.ledger.caps.lifetime
    typer.echo(f"the cap is {epsilon:g} now")
    if lifetime < epsilon:
        typer.echo(f"the contract still allows {lifetime:g} in all; see 'contract accept'")


@app.command()
def report(
    as_json: AsJson = False,
    site: SiteFolder = _SITE,
) -> None:
    """Show what the federation gained this shop, on its own held-out shoppers; stays on site."""
    from hansa.client.report import make_report

    configure_logging(verbose=False)
    gain = make_report(Site(site))
    if as_json:
        _print_json(gain.model_dump())
        return
    table = Table(
        "method",
        "recall@10",
        "nDCG@10",
        title=f"release {gain.release_version}, {gain.shoppers} shoppers",
    )
    for name, row in gain.methods.items():
        table.add_row(name, f"{row.recall_at_10:.4f}", f"{row.ndcg_at_10:.4f}")
    _console.print(table)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What a shopper would type.")],
    limit: Annotated[int, typer.Option(help="How many items.")] = 10,
    as_json: AsJson = False,
    site: SiteFolder = _SITE,
) -> None:
    """Ask this site's own service for items."""
    from hansa.client.shop import connect

    with connect(Site(site)) as shop:
        _show(shop.search(query, limit), as_json)


@app.command()
def recommend(
    items: Annotated[list[str], typer.Argument(help="Item ids of a history, oldest first.")],
    limit: Annotated[int, typer.Option(help="How many items.")] = 10,
    only_new: Annotated[bool, typer.Option("--only-new", help="Only newly listed items.")] = False,
    as_json: AsJson = False,
    site: SiteFolder = _SITE,
) -> None:
    """Ask this site's own service for recommendations."""
    from hansa.client.shop import connect

    with connect(Site(site)) as shop:
        _show(shop.recommend(items, limit, only_new=only_new), as_json)


def _show(answers: Any, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "release_version": answers.release_version,
                "items": [
                    {
                        "item_id": item.item_id,
                        "title": item.title,
                        "price": item.price,
                        "score": item.score,
                    }
                    for item in answers.items
                ],
            }
        )
        return
    table = Table("item", "price", "score", title=f"release {answers.release_version}")
    for item in answers.items:
        table.add_row(item.title, f"{item.price:.2f}", f"{item.score:.3f}")
    _console.print(table)


def _read_token(token: str) -> str:
    if not token.startswith("@"):
        return token
    try:
        return Path(token[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read the token file {token[1:]}: {error}") from error


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def main() -> None:
    """Runs the command; a deliberate error is one sentence and an exit code of its own."""
    stay_offline(os.environ)
    try:
        app()
    except HansaError as error:
        typer.echo(f"hansa-client: {error}", err=True)
        sys.exit(error.exit_code)
