"""The auditor's command ``receipt``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hansa.audit.compare import first_fault
from hansa.audit.copies import read_copies, read_file
from hansa.audit.findings import Check
from hansa.audit.log_cli import AsJson, PlanKey
from hansa.audit.outcome import errors_as_exit_codes, print_json
from hansa.audit.receipt import check_receipt
from hansa.core.errors import AuditFailedError

_out = Console(soft_wrap=True)


def receipt_command(
    receipt: Annotated[Path, typer.Argument(help="The receipt that a merchant got.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Packs, a pulled folder, the merchant's ledger."),
    ] = None,
    plan_key: PlanKey = None,
    as_json: AsJson = False,
) -> None:
    """Check a leaving merchant's receipt: signature, and with a log whether it is complete."""
    with errors_as_exit_codes(as_json):
        checks = check_receipt(read_file(receipt), read_copies(files or []), plan_key=plan_key)
        fault = first_fault(checks)
        if as_json:
            body = [one.model_dump(mode="json") for one in checks]
            print_json({"passed": fault is None, "checks": body})
        else:
            _show(checks, pinned=plan_key is not None)
        if fault is not None:
            raise AuditFailedError(f"{fault.where}: {fault.name}: {fault.detail}")


def _show(checks: list[Check], *, pinned: bool) -> None:
    table = Table("", "check", "what was seen")
    for one in checks:
        verdict = "[green]pass[/]" if one.passed else "[red]FAIL[/]"
        table.add_row("[yellow]absent[/]" if one.absent else verdict, one.name, escape(one.detail))
    _out.print(table)
    if not pinned:
        _out.print("[yellow]No --plan-key: the receipt vouches for itself.[/]")
