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
from typing import Annotated, Any, Literal

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hansa.core.base_models import parse_base_models
from hansa.core.errors import HansaError
from hansa.core.flower_plan import read_any_plan
from hansa.core.plan import read_plan
from hansa.core.quiet import configure_logging, stay_offline
from hansa.core.storage import write_atomically
from hansa.protos.v1 import operator_pb2 as pb
from hansa.server import app_cli, auditor_cli, care, leave_cli, plan_cli, schedule_cli, terms_cli
from hansa.server.cli_options import STATE, AsJson, PlanFile, Server, State
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
app.command("doctor")(care.doctor)
app.command("rotate-certificate")(care.rotate_certificate)
app.command("clean")(care.clean)
app.command("take-notice")(leave_cli.take_notice)
app.command("obligations")(leave_cli.obligations)
app.command("roll-back")(leave_cli.roll_back)
app.command("allow-app")(app_cli.allow_app)
app.command("forbid-app")(app_cli.forbid_app)
app.command("app-plan")(app_cli.app_plan)
run_app.command("arrays")(app_cli.run_arrays)

app.add_typer(schedule_cli.schedule_app, name="schedule")
app.add_typer(auditor_cli.auditor_app, name="auditor")
app.add_typer(terms_cli.terms_app, name="terms")
app.add_typer(plan_cli.plan_app, name="plan")
app.command("check", help="The same as 'plan check'.")(plan_cli.plan_check)

RunName = Annotated[str, typer.Argument(help="Name of the run, as 'run list' shows it.")]

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
    database_url: Annotated[
        str | None,
        typer.Option(
            envvar="HANSA_DATABASE_URL",
            help="postgresql://USER@HOST/DATABASE, which servers may share; default: SQLite.",
        ),
    ] = None,
    blobs_url: Annotated[
        str | None,
        typer.Option(
            envvar="HANSA_BLOBS_URL", help="s3://BUCKET/PREFIX or another place for fsspec."
        ),
    ] = None,
    state: State = STATE,
) -> None:
    """Make the operator's state: certificate authority, release keys, database."""
    from hansa.server.initialise import initialise

    settings = ServerSettings.checked(
        federation=federation,
        address=address,
        listen=listen,
        base_models=parse_base_models(base_model or []),
        public_catalogue=None if public_catalogue is None else public_catalogue.resolve(),
        database_url=database_url,
        blobs_url=blobs_url,
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
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Port to listen on; default: that of the address."),
    ] = None,
    state: State = STATE,
    verbose: Annotated[bool, typer.Option("--verbose")] = False,
) -> None:
    """Run the server until Ctrl-C or SIGTERM; unfinished runs go on."""
    from hansa.server.serve import serve

    configure_logging(verbose=verbose)
    asyncio.run(serve(StateFolder(state), port))


@app.command()
def invite(
    merchant: Annotated[str, typer.Argument(help="Name: lower-case letters, digits, hyphens.")],
    hours: Annotated[int, typer.Option(help="The invitation expires after so many hours.")] = 72,
    out: Annotated[
        Path | None, typer.Option(help="Write the token to this file (mode 0600).")
    ] = None,
    as_json: AsJson = False,
    state: State = STATE,
    server: Server = None,
) -> None:
    """Make a single-use token with which a merchant joins."""
    with connect(StateFolder(state), server) as client:
        invitation = client.invite(merchant, hours)
    if out is not None:
        write_atomically(out, invitation.token.encode() + b"\n", mode=0o600)
    if as_json:
        _print_json(_plain(invitation))
    else:
        typer.echo(f"token written to {out}" if out is not None else invitation.token)


@app.command()
def merchants(as_json: AsJson = False, state: State = STATE, server: Server = None) -> None:
    """List the members and the open invitations."""
    with connect(StateFolder(state), server) as client:
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
    merchant: Annotated[str, typer.Argument(help="Name of the merchant.")],
    state: State = STATE,
    server: Server = None,
) -> None:
    """End a membership at once; its certificate is refused from now on."""
    with connect(StateFolder(state), server) as client:
        client.revoke(merchant)
    typer.echo(f"{merchant} is no member any more")


@app.command()
def simulate(
    plan: PlanFile,
    merchants: Annotated[int, typer.Option(min=1, help="Number of virtual merchants.")],
    rounds: Annotated[int | None, typer.Option(help="Instead of the plan's.")] = None,
    cohort: Annotated[int | None, typer.Option(help="Instead of the plan's.")] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Our own, or Flower's simulation on Ray.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes that train at a time.")] = 1,
    seed: Annotated[int, typer.Option(help="Public; the same seed gives the same model.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Exports or a site to divide; default: synthetic shops.")
    ] = None,
    split: Annotated[
        Literal["category", "size"], typer.Option(help="How --data is divided.")
    ] = "category",
    base_model: Annotated[
        list[str] | None,
        typer.Option(envvar="HANSA_BASE_MODEL", help="NAME=FOLDER; default: installed MiniLM."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the model and report here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a plan with virtual merchants on this machine; no merchant takes part."""
    from hansa.server.simulation import command
    from hansa.server.simulation.room import SimulationRequest, adapt

    request = SimulationRequest(
        plan=adapt(read_plan(plan), rounds=rounds, cohort=cohort),
        merchants=merchants,
        seed=seed,
        engine=engine,
        workers=workers,
        base_models=parse_base_models(base_model or []),
        data=data,
        split=split,
    )
    report = command.run(request, out, quiet=as_json)
    if as_json:
        _print_json(report.model_dump(mode="json"))
    else:
        command.show(report, _console)


@app.command()
def pack(
    run: RunName,
    out: Annotated[Path, typer.Option(help="File to write.")],
    state: State = STATE,
    server: Server = None,
) -> None:
    """Write the auditor's evidence of a run; 'hansa-audit verify' checks it."""
    with connect(StateFolder(state), server) as client:
        data = client.pack(run)
    write_atomically(out, data)
    typer.echo(f"{len(data)} bytes of evidence written to {out}")


@run_app.command("start")
def run_start(
    plan: PlanFile,
    wait: Annotated[bool, typer.Option(help="Show the rounds until the run has ended.")] = True,
    as_json: AsJson = False,
    state: State = STATE,
    server: Server = None,
) -> None:
    """Launch a run; exit code 10 when it fails."""
    checked = read_any_plan(plan)
    with connect(StateFolder(state), server) as client:
        run = client.start_run(checked)
        if wait:
            run = _watch(client, run.run_id, quiet=as_json)
    _show_run(run, as_json)
    if run.state == "failed":
        raise typer.Exit(_FAILED_RUN_EXIT_CODE)


@run_app.command("list")
def run_list(as_json: AsJson = False, state: State = STATE, server: Server = None) -> None:
    """List all runs, newest first."""
    with connect(StateFolder(state), server) as client:
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
def run_show(
    run: RunName, as_json: AsJson = False, state: State = STATE, server: Server = None
) -> None:
    """Show one run with its rounds: who took part, who did not, and why."""
    with connect(StateFolder(state), server) as client:
        _show_run(client.run(run), as_json)


@run_app.command("stop")
def run_stop(run: RunName, state: State = STATE, server: Server = None) -> None:
    """End a run; merchants that are training finish and are not asked again."""
    with connect(StateFolder(state), server) as client:
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
