"""The commands around schedules."""

import datetime as dt
import json
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from hansa.core.plan import read_plan
from hansa.server.cli_options import STATE, AsJson, PlanFile, State
from hansa.server.operator_client import connect
from hansa.server.settings import StateFolder

schedule_app = typer.Typer(help="Have plans run again and again.", no_args_is_help=True)
_console = Console()


@schedule_app.command("add")
def schedule_add(
    name: Annotated[str, typer.Argument(help="Name of the schedule.")],
    plan: PlanFile,
    cron: Annotated[str, typer.Option(help="Five fields in UTC, for example '0 3 * * 1'.")],
    drift: Annotated[
        float,
        typer.Option(help="Only when the noised recall@10 fell by so much; 0 runs every time."),
    ] = 0.0,
    state: State = STATE,
) -> None:
    """Have a plan run by the clock, or when the released model has become worse.

    With --drift each time only asks the merchants for noised quality counts, which costs them the
    plan's evaluation; a plan that is to go on from the last release says so in 'begins_with'.
    """
    checked = read_plan(plan)
    with connect(StateFolder(state)) as client:
        due = client.add_schedule(name, checked, cron, drift).next_due_unix_s
    typer.echo(f"{name} is due next at {_moment(due)}")


@schedule_app.command("list")
def schedule_list(as_json: AsJson = False, state: State = STATE) -> None:
    """List the schedules."""
    with connect(StateFolder(state)) as client:
        rows = client.schedules()
    if as_json:
        plain = [
            MessageToDict(
                row, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for row in rows
        ]
        typer.echo(json.dumps(plain, indent=2))
        return
    table = Table("schedule", "plan", "cron (UTC)", "drift", "next", "last run")
    for row in rows:
        drift = f"{row.drift:g}" if row.drift else "-"
        due = _moment(row.next_due_unix_s)
        table.add_row(row.name, row.plan_name, row.cron, drift, due, row.last_run or "-")
    _console.print(table)


@schedule_app.command("remove")
def schedule_remove(
    name: Annotated[str, typer.Argument(help="Name of the schedule.")], state: State = STATE
) -> None:
    """End a schedule; runs that it began go on."""
    with connect(StateFolder(state)) as client:
        client.remove_schedule(name)
    typer.echo(f"{name} is removed")


def _moment(unix_s: int) -> str:
    return dt.datetime.fromtimestamp(unix_s, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
