"""The commands around foreign Flower apps and strategies."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from hansa.core.content import Content
from hansa.core.object_ref import check_ref
from hansa.core.settings_text import parse_settings
from hansa.core.storage import write_atomically
from hansa.server.app_plan import plan_of_folder
from hansa.server.cli_options import STATE, Server, State
from hansa.server.operator_client import connect
from hansa.server.settings import StateFolder

Refs = Annotated[list[str], typer.Argument(metavar="MODULE:OBJECT...", help="Strategies and apps.")]


def allow_app(refs: Refs, state: State = STATE) -> None:
    """Let plans name these; install their packages into the server's environment yourself.

    A Flower app needs both its server_app and its client_app here. They run with the server's
    rights. A running server takes notice at once.
    """
    folder = StateFolder(state)
    settings = folder.settings()
    allowed = sorted({*settings.allowed_apps, *map(check_ref, refs)})
    folder.write(settings.model_copy(update={"allowed_apps": tuple(allowed)}))
    typer.echo(f"plans may name: {', '.join(allowed)}")


def forbid_app(refs: Refs, state: State = STATE) -> None:
    """Let no further plan name these; runs that are at work go on."""
    folder = StateFolder(state)
    settings = folder.settings()
    allowed = tuple(ref for ref in settings.allowed_apps if ref not in refs)
    folder.write(settings.model_copy(update={"allowed_apps": allowed}))
    typer.echo(f"plans may name: {', '.join(allowed) or 'nothing foreign'}")


def app_plan(
    folder: Annotated[Path, typer.Argument(help="Folder of a Flower app, with pyproject.toml.")],
    config: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE instead of the app's own setting.")
    ] = None,
    quorum: Annotated[int, typer.Option(help="Valid answers that a round needs.")] = 1,
    deadline_s: Annotated[float, typer.Option(help="Longest wait for any message.")] = 3600.0,
) -> None:
    """Print the plan that runs a Flower app unchanged; write it to a file with '>'."""
    overrides = parse_settings(config or [])
    plan = plan_of_folder(folder, overrides=overrides, quorum=quorum, deadline_s=deadline_s)
    typer.echo(yaml.safe_dump(plan.model_dump(), sort_keys=False), nl=False)


def run_arrays(
    run: Annotated[str, typer.Argument(help="Name of the run, as 'run list' shows it.")],
    out: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    state: State = STATE,
    server: Server = None,
) -> None:
    """Write the last arrays of a run: the last round's aggregate, or a Flower app's result."""
    from safetensors.numpy import save

    with connect(StateFolder(state), server) as client:
        content = Content.from_bytes(client.arrays(run))
    arrays = {name: array for record in content.arrays.values() for name, array in record.items()}
    write_atomically(out, save(arrays))
    typer.echo(f"{len(arrays)} arrays written to {out}")
