"""The auditor's command ``report``."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.markup import escape

from hansa.audit.copies import read_copies, read_file
from hansa.audit.outcome import errors_as_exit_codes
from hansa.audit.report.words import LANGUAGES, Language
from hansa.audit.report.writer import Anchors, examine, write_report
from hansa.core.errors import AuditFailedError

_out = Console(soft_wrap=True)
_OUT: Final = Path("report")


def report_command(
    pack: Annotated[Path, typer.Argument(help="The audit pack (zip) that the operator hands out.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")] = _OUT,
    language: Annotated[
        Literal["en", "zh", "both"], typer.Option(help="English, Chinese, or one after the other.")
    ] = "en",
    root: Annotated[
        Path | None, typer.Option("--root", metavar="ROOT.json", help="The TUF root you trust.")
    ] = None,
    plan_key: Annotated[
        str | None,
        typer.Option("--plan-key", metavar="HEX", help="The operator's plan key you trust."),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint", metavar="FILE", help="A log checkpoint from elsewhere; repeatable."
        ),
    ] = None,
) -> None:
    """Write a report for a regulator: one page for print, and its figures as JSON.

    The pack is verified first. If a check fails, the report says so on top and the exit code is 13.
    """
    with errors_as_exit_codes(as_json=False):
        anchors = Anchors(
            root=None if root is None else read_file(root),
            plan_key=plan_key,
            witnessed=[one.signed for one in read_copies(checkpoint or []).checkpoints],
        )
        dossier = examine(read_file(pack), anchors, now=datetime.now(UTC))
        languages: tuple[Language, ...] = LANGUAGES if language == "both" else (language,)
        for path in write_report(dossier, out, languages):
            _out.print(escape(str(path)), highlight=False)
        if not dossier.passed:
            raise AuditFailedError(dossier.first_fault or "a check failed")
