"""``hansa-server``: the operator's command.

What only one command needs is imported in it: most commands need no torch and answer at once.
"""

import asyncio
import datetime as dt
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hansa.core.base_models import parse_base_models
from hansa.core.errors import HansaError
from hansa.core.plan import read_plan
from hansa.core.quiet import configure_logging, stay_offline
from hansa.core.storage import write_atomically
from hansa.protos.v1 import operator_pb2 as pb
from hansa.server.operator_client import OperatorClient, connect
from hansa.server.settings import ServerSettings, StateFolder

app = typer.Typer(
    name="hansa-server",
    help="Run a federation: invite merchants, launch rounds, publish signed releases.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
run_app = typer.Typer(help="Start, watch and stop runs.", no_args_is_help=True)
app.add_typer(run_app, name="run")

State = Annotated[
    Path, typer.Option("--state", envvar="HANSA_STATE", help="Folder of the operator's state.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
PlanFile = Annotated[Path, typer.Argument(help="YAML file of the run plan.")]
RunName = Annotated[str, typer.Argument(help="Name of the run, as 'run list' shows it.")]

_STATE = Path("hansa-server")
_FINISHED = ("completed", "failed", "stopped")
_FAILED_RUN_EXIT_CODE = 10
_POLL_S = 0.3
_console = Console()


@app.command()
def init(
    address: Annotated[str, typer.Option(help="HOST:PORT at which merchants reach this server.")],
    base_model: Annotated[
        list[str] | None,
        typer.Option(
            envvar="HANSA_BASE_MODEL",
            help="NAME=FOLDER of a local Hugging Face encoder; default: the installed MiniLM.",
        ),
    ] = None,
    public_catalogue: Annotated[
        Path | None, typer.Option(help="CSV with a 'title' column of public item texts.")
    ] = None,
    federation: Annotated[str, typer.Option(help="Name of the federation.")] = "hansa",
    listen: Annotated[str, typer.Option(help="Local interface to listen on.")] = "0.0.0.0",  # noqa: S104
    state: State = _STATE,
) -> None:
    """Make the operator's state: certificate authority, release keys, database."""
    from hansa.server.initialise import initialise

    settings = ServerSettings.checked(
        federation=federation,
        address=address,
        listen=listen,
        base_models=parse_base_models(base_model or []),
        public_catalogue=None if public_catalogue is None else public_catalogue.resolve(),
    )
    initialise(StateFolder(state), settings, dt.datetime.now(dt.UTC))
    _console.print(
        f"The server's state is in {state}. Start it with: hansa-server start --state {state}"
    )
    _console.print(
        f"Move {state / 'offline'} to a safe place away from this machine: "
        "it holds the root keys of releases."
    )


@app.command()
def start(
    state: State = _STATE, verbose: Annotated[bool, typer.Option("--verbose")] = False
) -> None:
    """Run the server until Ctrl-C or SIGTERM; unfinished runs go on."""
    from hansa.server.serve import serve

    configure_logging(verbose=verbose)
    asyncio.run(serve(StateFolder(state)))


@app.command()
def invite(
    merchant: Annotated[str, typer.Argument(help="Name: lower-case letters, digits, hyphens.")],
    hours: Annotated[int, typer.Option(help="The invitation expires after so many hours.")] = 72,
    out: Annotated[
        Path | None, typer.Option(help="Write the token to this file (mode 0600).")
    ] = None,
    as_json: AsJson = False,
    state: State = _STATE,
) -> None:
    """Make a single-use token with which a merchant joins."""
    with connect(StateFolder(state)) as client:
        invitation = client.invite(merchant, hours)
    if out is not None:
        write_atomically(out, invitation.token.encode() + b"\n", mode=0o600)
    if as_json:
        _print_json(_plain(invitation))
    else:
        typer.echo(f"token written to {out}" if out is not None else invitation.token)


@app.command()
def merchants(as_json: AsJson = False, state: State = _STATE) -> None:
    """List the members and the open invitations."""
    with connect(StateFolder(state)) as client:
        found = client.merchants()
    if as_json:
        _print_json([_plain(merchant) for merchant in found])
        return
    table = Table("merchant", "state", "online", "serves release", "software")
    for merchant in found:
        online = "yes" if merchant.online else "no"
        table.add_row(
            merchant.merchant,
            merchant.state,
            online,
            str(merchant.serving_version or "-"),
            merchant.software,
        )
    _console.print(table)


@app.command()
def revoke(
    merchant: Annotated[str, typer.Argument(help="Name of the merchant.")], state: State = _STATE
) -> None:
    """End a membership at once; its certificate is refused from now on."""
    with connect(StateFolder(state)) as client:
        client.revoke(merchant)
    typer.echo(f"{merchant} is no member any more")


@app.command("check")
def check(plan: PlanFile, as_json: AsJson = False) -> None:
    """Show what a plan costs each shopper, before anything starts."""
    from hansa.server.plan_check import check_plan

    cost = check_plan(read_plan(plan))
    if as_json:
        _print_json(cost.model_dump())
        return
    table = Table(
        "epsilon per round", "epsilon of the whole run", "delta", "steps", "noise multiplier"
    )
    table.add_row(
        cost.epsilon_per_round,
        cost.epsilon_total,
        f"{cost.delta:g}",
        str(cost.steps),
        str(cost.noise_multiplier),
    )
    _console.print(table)


@app.command()
def pack(
    run: RunName,
    out: Annotated[Path, typer.Option(help="File to write.")],
    state: State = _STATE,
) -> None:
    """Write the auditor's evidence of a run; 'hansa-audit verify' checks it."""
    with connect(StateFolder(state)) as client:
        data = client.pack(run)
    write_atomically(out, data)
    typer.echo(f"{len(data)} bytes of evidence written to {out}")


@run_app.command("start")
def run_start(
    plan: PlanFile,
    wait: Annotated[bool, typer.Option(help="Show the rounds until the run has ended.")] = True,
    as_json: AsJson = False,
    state: State = _STATE,
) -> None:
    """Launch a run; exit code 10 when it fails."""
    checked = read_plan(plan)
    with connect(StateFolder(state)) as client:
        run = client.start_run(checked)
        if wait:
            run = _watch(client, run.run_id, quiet=as_json)
    _show_run(run, as_json)
    if run.state == "failed":
        raise typer.Exit(_FAILED_RUN_EXIT_CODE)


@run_app.command("list")
def run_list(as_json: AsJson = False, state: State = _STATE) -> None:
    """List all runs, newest first."""
    with connect(StateFolder(state)) as client:
        runs = client.runs()
    if as_json:
        _print_json([_plain(run) for run in runs])
        return
    table = Table("run", "state", "rounds", "release", "")
    for run in runs:
        progress = f"{run.rounds_done}/{run.rounds_planned}"
        table.add_row(
            run.run_id, run.state, progress, str(run.release_version or "-"), run.sentence
        )
    _console.print(table)


@run_app.command("show")
def run_show(run: RunName, as_json: AsJson = False, state: State = _STATE) -> None:
    """Show one run with its rounds: who took part, who did not, and why."""
    with connect(StateFolder(state)) as client:
        _show_run(client.run(run), as_json)


@run_app.command("stop")
def run_stop(run: RunName, state: State = _STATE) -> None:
    """End a run; merchants that are training finish and are not asked again."""
    with connect(StateFolder(state)) as client:
        client.stop_run(run)
    typer.echo(f"{run} is being stopped")


def _watch(client: OperatorClient, run_id: str, *, quiet: bool) -> pb.RunInfo:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), disable=quiet, transient=True
    ) as progress:
        bar = progress.add_task(run_id)
        while (run := client.run(run_id)).state not in _FINISHED:
            progress.update(
                bar,
                total=run.rounds_planned,
                completed=run.rounds_done,
                description=f"{run_id} {run.state}",
            )
            time.sleep(_POLL_S)
    return run


def _show_run(run: pb.RunInfo, as_json: bool) -> None:
    if as_json:
        body = _plain(run)
        body["evaluation"] = json.loads(run.evaluation_json or "{}")
        del body["evaluation_json"]
        _print_json(body)
        return
    _console.print(f"{run.run_id}: {run.state}. {run.sentence}")
    table = Table("round", "asked", "accepted", "refused", "seconds", "down", "up")
    for one in run.rounds:
        refused = "; ".join(f"{task.merchant}: {task.reason}" for task in one.refused)
        table.add_row(
            str(one.round),
            str(len(one.cohort)),
            str(len(one.accepted)),
            refused or "-",
            f"{one.seconds:.1f}",
            str(one.down_bytes),
            str(one.up_bytes),
        )
    if run.rounds:
        _console.print(table)


def _plain(message: Any) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def main() -> None:
    """Runs the command; a deliberate error is one sentence and an exit code of its own."""
    stay_offline(os.environ)
    try:
        app()
    except HansaError as error:
        typer.echo(f"hansa-server: {error}", err=True)
        sys.exit(error.exit_code)
