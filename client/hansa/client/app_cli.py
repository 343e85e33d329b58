"""The commands around foreign Flower apps."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hansa.client.allowed_apps import AllowedApps
from hansa.client.site import Site
from hansa.core.settings_text import parse_settings

SiteFolder = Annotated[
    Path, typer.Option("--site", envvar="HANSA_SITE", help="Folder of this site.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_SITE = Path("hansa-site")


def allow_app(
    app_name: Annotated[
        str, typer.Argument(metavar="MODULE:OBJECT", help="The plan's client_app.")
    ],
    config: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE that the app sees as Context.node_config; may be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    site: SiteFolder = _SITE,
) -> None:
    """Let a foreign Flower app run here; what it lets out is your own responsibility.

    Install its package into this client's environment yourself. It runs with the client's rights;
    the ledger declares what it lets out, and counts no epsilon for it.
    """
    Site(site).settings()
    node_config = parse_settings(config or [])
    if not yes:
        typer.confirm(
            f"Let {app_name} run with this client's rights and release what it likes?", abort=True
        )
    AllowedApps(Site(site).allowed_apps).allow(app_name, node_config, dt.datetime.now(dt.UTC))
    typer.echo(f"{app_name} is allowed here, with {node_config or 'no settings'}")


def forbid_app(
    app_name: Annotated[str, typer.Argument(metavar="MODULE:OBJECT", help="The app.")],
    site: SiteFolder = _SITE,
) -> None:
    """Let a foreign Flower app run here no more."""
    AllowedApps(Site(site).allowed_apps).forbid(app_name)
    typer.echo(f"{app_name} is not allowed here any more")


def apps(as_json: AsJson = False, site: SiteFolder = _SITE) -> None:
    """List the foreign Flower apps that may run here."""
    found = AllowedApps(Site(site).allowed_apps).all()
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=2))
        return
    table = Table("app", "its settings", "allowed since")
    for one in found:
        settings = ", ".join(f"{key}={value}" for key, value in one.node_config.items())
        table.add_row(one.app, settings or "-", f"{one.allowed:%Y-%m-%d}")
    Console().print(table)
