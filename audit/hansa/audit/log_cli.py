"""The auditor's commands about the log: ``request``, ``pull``, ``compare`` and ``who``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hansa.audit.access import Access
from hansa.audit.compare import compare, first_fault
from hansa.audit.copies import read_copies, read_file
from hansa.audit.log_view import LogView
from hansa.audit.outcome import errors_as_exit_codes, print_json
from hansa.audit.pull import connected, pull
from hansa.core.errors import AuditFailedError, InvalidInputError
from hansa.core.transparency.holdings import Holding, holdings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines, not tables.")]
Folder = Annotated[Path, typer.Option("--folder", help="The auditor's own folder.")]
Files = Annotated[
    list[Path],
    typer.Argument(help="Packs, pulled folders, exported checkpoints, copies of ledgers."),
]
PlanKey = Annotated[
    str | None,
    typer.Option("--plan-key", metavar="HEX", help="The operator's public key that you trust."),
]
_FOLDER = Path("auditor")
_out = Console(soft_wrap=True)


def request_command(
    name: Annotated[str, typer.Argument(help="Your name: lower-case letters, digits, hyphens.")],
    folder: Folder = _FOLDER,
) -> None:
    """Make a key, and the request that the operator certifies; the key stays here."""
    with errors_as_exit_codes(as_json=False):
        path = Access(folder).request(name)
        typer.echo(f"hand {path} to the operator: hansa-server auditor admit {name} {path.name}")


def pull_command(
    folder: Folder = _FOLDER,
    grant: Annotated[
        Path | None, typer.Option(help="The operator's grant, at the first time or when renewed.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="Fetch the pack of this run only; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the log and the packs of ended runs; what was fetched before must still be there."""
    with errors_as_exit_codes(as_json):
        access = Access(folder)
        if grant is not None:
            access.accept(read_file(grant), str(grant))
        with connected(access) as source:
            pulled = pull(access, source, runs=None if run is None else tuple(run))
        if as_json:
            told = {"checkpoint": pulled.checkpoint, "new_entries": pulled.new_entries}
            print_json({**told, "packs": list(pulled.packs)})
            return
        typer.echo(f"log: {pulled.checkpoint}; {pulled.new_entries} new entries")
        for name in pulled.packs:
            typer.echo(f"pack of {name} is in {folder / 'packs'}")


def compare_command(files: Files, plan_key: PlanKey = None, as_json: AsJson = False) -> None:
    """Hold several people's copies of the log against each other; exit 13 at any difference."""
    with errors_as_exit_codes(as_json):
        checks = compare(read_copies(files), plan_key=plan_key)
        fault = first_fault(checks)
        if as_json:
            body = [one.model_dump(mode="json") for one in checks]
            print_json({"passed": fault is None, "checks": body})
        else:
            table = Table("", "check", "where", "what was seen")
            for one in checks:
                verdict = "[green]pass[/]" if one.passed else "[red]FAIL[/]"
                table.add_row(verdict, one.name, escape(one.where), escape(one.detail))
            _out.print(table)
        if fault is not None:
            raise AuditFailedError(f"{fault.where}: {fault.name}: {fault.detail}")


def who_command(
    merchant: Annotated[str, typer.Argument(help="Name of the merchant.")],
    files: Files,
    plan_key: PlanKey = None,
    as_json: AsJson = False,
) -> None:
    """Show which releases hold updates of a merchant, from when to when."""
    with errors_as_exit_codes(as_json):
        found = holdings(_newest_log(files, plan_key), merchant)
        if as_json:
            print_json({"merchant": merchant, "releases": [one.model_dump() for one in found]})
            return
        columns = ("channel", "release", "run", "rounds", "also by releases", "from", "until")
        table = Table(*columns, title=f"Releases that hold updates of {escape(merchant)}")
        for one in found:
            table.add_row(*_row(one))
        _out.print(table)


def _row(one: Holding) -> tuple[str, ...]:
    return (
        one.channel,
        str(one.version),
        one.run,
        ", ".join(map(str, one.rounds)) or "-",
        ", ".join(map(str, one.inherited_from)) or "-",
        one.since[:19] + "Z",
        "now" if one.until is None else one.until[:19] + "Z",
    )


def _newest_log(files: list[Path], plan_key: str | None) -> LogView:
    """The longest log of the files, once it is known to be the one that was signed."""
    views = [LogView.of(one.copy, key_id=plan_key) for one in read_copies(files).logs]
    if not views:
        raise InvalidInputError("none of the files holds a log; name a pack or a pulled folder")
    newest = max(views, key=lambda view: len(view.leaves))
    newest.check_root()
    return newest
