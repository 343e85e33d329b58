"""``hansa-client checkpoints``: what this site has seen of the operator's log."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer

from hansa.client.site import Site
from hansa.client.witness import Witness
from hansa.core.canonical import canonical_json
from hansa.core.errors import TransparencyError
from hansa.core.storage import write_atomically

SiteFolder = Annotated[
    Path, typer.Option("--site", envvar="HANSA_SITE", help="Folder of this site.")
]
_SITE = Path("hansa-site")

checkpoints_app = typer.Typer(
    help="What this site has seen of the operator's transparency log.", no_args_is_help=True
)


@checkpoints_app.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    site: SiteFolder = _SITE,
) -> None:
    """Show the newest checkpoint; exit code 15 when the log was cut, rewritten or forked."""
    witness = Witness.of(Site(site))
    seen, alarm = witness.memory.seen(), witness.memory.alarm()
    if as_json:
        told = None if alarm is None else alarm.model_dump(mode="json")
        typer.echo(json.dumps({"alarm": told, **seen.model_dump(mode="json")}, indent=2))
    elif seen.note is None:
        typer.echo("this site has seen no checkpoint of a log yet")
    else:
        typer.echo(f"newest checkpoint: {witness.trusted(seen.note.encode())}")
        typer.echo(f"{seen.own} entries of this site's ledger were seen in the log")
    if alarm is not None:
        typer.echo(
            f"ALARM since {alarm.time:%Y-%m-%d %H:%M} UTC: {alarm.sentence}. Hand the file of "
            "'hansa-client checkpoints export' to an auditor; 'checkpoints reset' ends the alarm",
            err=True,
        )
        raise typer.Exit(TransparencyError.exit_code)


@checkpoints_app.command()
def check(site: SiteFolder = _SITE) -> None:
    """Ask the server for its newest checkpoint and have it proven; trains nothing."""
    from hansa.client.channel import open_channel, translated
    from hansa.client.ledger_store import read_ledger
    from hansa.client.node.log_line import GrpcLogLine

    place = Site(site)
    settings, own, witness = place.settings(), place.credentials(), Witness.of(place)
    channel = open_channel(
        settings.server_address,
        authority_pem=place.authority_pem(),
        key_pem=own.key_pem,
        certificate_pem=own.certificate_pem,
    )
    with channel, translated(settings.server_address, own.certificate):
        line = GrpcLogLine(channel)
        # Only what was seen before counts as acknowledged: this command opens no session.
        witness.check(
            line.newest(),
            line,
            entries=read_ledger(place.ledger).entries,
            acknowledged=witness.memory.seen().own,
            now=dt.datetime.now(dt.UTC),
        )
    show(site=site)


@checkpoints_app.command()
def export(
    out: Annotated[Path, typer.Option(help="File to write.")], site: SiteFolder = _SITE
) -> None:
    """Write the checkpoints that this site has seen, for 'hansa-audit compare' and 'verify'."""
    book = Witness.of(Site(site)).book()
    write_atomically(out, canonical_json(book.model_dump(mode="json")))
    typer.echo(f"{len(book.notes)} checkpoints written to {out}")


@checkpoints_app.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    site: SiteFolder = _SITE,
) -> None:
    """End an alarm: set aside what was seen, and believe the next checkpoint.

    For when the operator has explained, as after a restored backup. Hand the exported checkpoints
    to an auditor first: with them goes the proof.
    """
    if not yes:
        typer.confirm("Forget which log this site has seen, and believe the next one?", abort=True)
    aside = Witness.of(Site(site)).reset(dt.datetime.now(dt.UTC))
    typer.echo("nothing was kept" if aside is None else f"what was seen is in {aside} now")
