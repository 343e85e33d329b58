"""The operator's commands about merchants that leave: notices, obligations, earlier releases."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table

from hansa.core.errors import InvalidInputError
from hansa.core.storage import write_atomically
from hansa.protos.v1 import operator_pb2 as pb
from hansa.server.cli_options import STATE, AsJson, Server, State
from hansa.server.operator_client import connect
from hansa.server.settings import StateFolder


def take_notice(
    notice: Annotated[Path, typer.Argument(help="As 'hansa-client leave --offline' wrote it.")],
    out: Annotated[Path, typer.Option(help="File of the receipt, for the merchant.")],
    state: State = STATE,
    server: Server = None,
) -> None:
    """End a membership by a notice that the merchant has signed; its certificate ends at once."""
    try:
        data = notice.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read {notice}: {error.strerror}") from error
    with connect(StateFolder(state), server) as client:
        receipt = client.take_notice(data)
    write_atomically(out, receipt)
    typer.echo(f"the merchant has left; hand it {out}")


def obligations(
    receipts: Annotated[
        Path | None, typer.Option(help="Write the receipts into this folder, too.")
    ] = None,
    as_json: AsJson = False,
    state: State = STATE,
    server: Server = None,
) -> None:
    """Show what is owed to merchants that left: which releases still hold their updates."""
    with connect(StateFolder(state), server) as client:
        found = client.obligations()
    for one in found:
        if receipts is not None and one.receipt:
            write_atomically(receipts / f"{one.merchant}-{one.left_unix_s}.json", one.receipt)
    if as_json:
        typer.echo(json.dumps([_plain(one) for one in found], indent=2))
        return
    table = Table("merchant", "left", "remedy", "state", "what to do")
    for one in found:
        left = dt.datetime.fromtimestamp(one.left_unix_s, dt.UTC)
        state_ = "open" if one.open else "done"
        table.add_row(one.merchant, f"{left:%Y-%m-%d}", one.remedy, state_, to_do(one))
    Console().print(table)


def roll_back(
    version: Annotated[int, typer.Argument(min=1, help="The release to restore.")],
    state: State = STATE,
) -> None:
    """Publish an earlier release again, under the next version; run it where the state lies."""
    from hansa.server.initialise import CHANNEL
    from hansa.server.releases.keys import load_online_keys
    from hansa.server.releases.repository import ReleaseRepository
    from hansa.server.roll_back import roll_back as restore
    from hansa.server.state.database import open_database

    place = StateFolder(state)
    repository = ReleaseRepository(place.releases, load_online_keys(place.release_keys))
    engine = open_database(place.settings().database_url or place.database)
    try:
        made = restore(repository, engine, CHANNEL, version, dt.datetime.now(dt.UTC))
    finally:
        engine.dispose()
    typer.echo(f"release {made} restores release {version}; sites take it at their next look")


def to_do(one: pb.Obligation) -> str:
    """What is left to do, in one sentence for each channel and run."""
    if not one.open:
        return "nothing"
    steps = [_replace(one.remedy, channel) for channel in one.channels if channel.newest_holds]
    steps += [f"run {run} goes on with its updates: run stop {run}" for run in one.unfinished_runs]
    return "; ".join(steps)


def _replace(remedy: str, channel: pb.ChannelState) -> str:
    held = f"{channel.channel} {channel.newest_version} holds its updates"
    if remedy == "roll-back" and channel.newest_without:
        return f"{held}: roll-back {channel.newest_without}"
    if remedy == "roll-back":
        return f"{held}, and so do all before it: release a new run that begins with base-model"
    return f"{held}: release a new run that begins with base-model"


def _plain(one: pb.Obligation) -> dict[str, object]:
    plain: dict[str, object] = MessageToDict(
        one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    del plain["receipt"]
    return plain
