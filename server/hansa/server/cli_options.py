"""Options that many of the operator's commands have."""

from pathlib import Path
from typing import Annotated

import typer

State = Annotated[
    Path, typer.Option("--state", envvar="HANSA_STATE", help="Folder of the operator's state.")
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", envvar="HANSA_SERVER", help="HOST:PORT of the server; default: this machine's."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
PlanFile = Annotated[Path, typer.Argument(help="YAML file of the run plan.")]

STATE = Path("hansa-server")
