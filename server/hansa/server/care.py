"""Commands that keep an installation in order: ``doctor``, ``rotate-certificate``, ``clean``."""

import datetime as dt
import json
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from hansa.server.cli_options import STATE, AsJson, Server, State
from hansa.server.settings import StateFolder


def rotate_certificate(state: State = STATE) -> None:
    """Issue the server's and the operator's certificates anew; a running server notices."""
    from hansa.server.own_certificates import OwnCertificates

    folder = StateFolder(state)
    OwnCertificates(folder.authority, folder.settings(), lambda: dt.datetime.now(dt.UTC)).rotate()
    typer.echo("new connections get the new certificate; open ones live on")


def doctor(as_json: AsJson = False, state: State = STATE, server: Server = None) -> None:
    """Check certificates, keys, clock, disk, database, GPU and versions; say what to do."""
    from hansa.core.diagnosis import as_plain, as_table, healthy
    from hansa.server.doctor import examine

    findings = examine(StateFolder(state), server)
    if as_json:
        typer.echo(json.dumps(as_plain(findings), indent=2))
    else:
        Console().print(as_table(findings))
    raise typer.Exit(0 if healthy(findings) else 1)


def clean(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    min_age_hours: Annotated[
        float, typer.Option(min=1.0, help="Nothing younger goes, nor of runs that ended later.")
    ] = 24.0,
    as_json: AsJson = False,
    state: State = STATE,
) -> None:
    """Remove blobs that no run, release or auditor needs any more; the server may be running."""
    from hansa.server import housekeeping

    cleaning = housekeeping.clean(
        StateFolder(state), now=time.time(), min_age_s=min_age_hours * 3600.0, dry_run=dry_run
    )
    if as_json:
        typer.echo(json.dumps(asdict(cleaning), indent=2))
        return
    verb = "would be removed" if dry_run else "removed"
    typer.echo(
        f"{cleaning.blobs} blobs ({cleaning.size_bytes / 1e6:.1f} MB) {verb}; "
        f"{cleaning.kept_blobs} ({cleaning.kept_bytes / 1e6:.1f} MB) are kept"
    )
