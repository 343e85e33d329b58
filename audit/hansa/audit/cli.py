"""The command of the auditor: ``hansa-audit``."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hansa.audit import log_cli, receipt_cli, report_cli
from hansa.audit.copies import read_copies, read_file
from hansa.audit.findings import Check, Report, Spend
from hansa.audit.outcome import errors_as_exit_codes, print_json
from hansa.audit.prv import epsilon_prv
from hansa.audit.verifier import verify
from hansa.core.errors import AuditFailedError, HansaError
from hansa.core.evidence import Evidence, read_pack
from hansa.core.privacy.accounting import accountants, epsilon_pld, epsilon_rdp, round_up
from hansa.core.privacy.ledger import Ledger

app = typer.Typer(
    name="hansa-audit",
    help="Check, offline and trusting no one, what privacy a federated run has spent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Pack = Annotated[Path, typer.Argument(help="The audit pack (zip) that the operator hands out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines, not tables.")]
RootFile = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="ROOT.json",
        help="The TUF root metadata that you trust, obtained from another source than the pack.",
    ),
]
PlanKey = Annotated[
    str | None,
    typer.Option(
        "--plan-key",
        metavar="HEX",
        help="The operator's public plan key that you trust (64 hexadecimal digits).",
    ),
]

CheckpointFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="A checkpoint of the log, or a merchant's export of them, from another source than "
        "the pack; may be repeated.",
    ),
]

_NO_LOG = (
    "[yellow]The pack holds no log, as those of older servers: what is marked absent was not "
    "examined. Ask the operator and merchants for their checkpoints.[/]"
)
_UNSEEN = (
    "[yellow]The log vouches for itself; pass --checkpoint with what merchants have seen: only "
    "then a log that was rewritten as a whole is noticed.[/]"
)
_out = Console(soft_wrap=True)

app.command("request")(log_cli.request_command)
app.command("pull")(log_cli.pull_command)
app.command("compare")(log_cli.compare_command)
app.command("who")(log_cli.who_command)
app.command("report")(report_cli.report_command)
app.command("receipt")(receipt_cli.receipt_command)


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    if show_version:
        _out.print(f"hansa-audit {version('hansa')}", highlight=False)
        raise typer.Exit


@app.command("verify")
def verify_command(
    pack: Pack,
    as_json: AsJson = False,
    root: RootFile = None,
    plan_key: PlanKey = None,
    checkpoint: CheckpointFiles = None,
) -> None:
    """Run every check on a pack; exit with 0 only if all pass, with 13 if one fails."""
    with errors_as_exit_codes(as_json):
        pinned = None if root is None else read_file(root)
        seen = [one.signed for one in read_copies(checkpoint or []).checkpoints]
        report = verify(_evidence(pack), pinned_root=pinned, plan_key=plan_key, witnessed=seen)
        if as_json:
            print_json({"passed": report.passed, **report.model_dump(mode="json")})
        else:
            _show_report(report)
        if not report.passed:
            raise typer.Exit(AuditFailedError.exit_code)


@app.command("epsilon")
def epsilon_command(pack: Pack, as_json: AsJson = False) -> None:
    """Recompute each merchant's epsilon from its ledger, by three accountants."""
    with errors_as_exit_codes(as_json):
        evidence = _evidence(pack)
        rows = [_epsilons(name, evidence) for name, own in sorted(evidence.ledgers.items()) if own]
        if as_json:
            print_json({"accountants": accountants(), "merchants": rows})
            return
        columns = ("merchant", "PLD", "PRV", "RDP", "cap", "delta")
        _out.print(_table("Epsilon per shopper, add-or-remove-one", columns, rows, _epsilon_row))


@app.command("show")
def show_command(pack: Pack, as_json: AsJson = False) -> None:
    """Show what is in a pack: plan, rounds and ledgers. Nothing is judged."""
    with errors_as_exit_codes(as_json):
        evidence = _evidence(pack)
        if as_json:
            print_json(_summary(evidence))
        else:
            _show_evidence(evidence)


def main() -> None:
    """The entry point of ``hansa-audit``."""
    app()


def _evidence(pack: Path) -> Evidence:
    return read_pack(read_file(pack))


def _table(
    title: str,
    columns: tuple[str, ...],
    rows: list[Any],
    cells: Callable[[Any], tuple[str, ...]],
) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*cells(row))
    return table


def _show_report(report: Report) -> None:
    checks = _table(
        f"Run {report.run}, plan {report.plan_digest[:12]}",
        ("", "check", "where", "what was seen"),
        list(report.checks),
        lambda one: (
            _verdict(one),
            one.name,
            one.where,
            escape(one.detail),
        ),
    )
    columns = (
        "merchant",
        "PLD",
        "PRV",
        "RDP",
        "cap",
        "this run",
        "reserved",
        "committed",
        "declared",
    )
    spends = _table("Epsilon per shopper", columns, list(report.spends), _spend_row)
    _out.print(checks, spends)
    for role, moment in sorted(report.expires.items()):
        _out.print(f"{role} metadata expires {moment:%Y-%m-%d}", highlight=False)
    if report.release is not None and not report.root_pinned:
        _out.print("[yellow]The root came with the pack; pass --root to check it against yours.[/]")
    if report.checkpoint is None:
        _out.print(_NO_LOG)
    elif not report.witnessed:
        _out.print(_UNSEEN)
    verdict = "[green]All checks passed.[/]" if report.passed else "[red]Verification failed.[/]"
    _out.print(verdict)


def _verdict(check: Check) -> str:
    if check.absent:
        return "[yellow]absent[/]"
    return "[green]pass[/]" if check.passed else "[red]FAIL[/]"


def _spend_row(spend: Spend) -> tuple[str, ...]:
    return (
        spend.merchant,
        str(round_up(spend.epsilon_pld)),
        str(round_up(spend.epsilon_prv)),
        str(round_up(spend.epsilon_rdp)),
        f"{spend.cap_epsilon:g}",
        str(round_up(spend.run_epsilon)),
        str(spend.reservations),
        str(spend.commits),
        str(spend.declared),
    )


def _epsilons(merchant: str, evidence: Evidence) -> dict[str, Any]:
    try:
        ledger = Ledger(evidence.ledgers[merchant])
    except HansaError as error:
        raise AuditFailedError(f"ledgers/{merchant}.jsonl: {error}") from error
    delta = ledger.opening.delta
    return {
        "merchant": merchant,
        "epsilon_pld": epsilon_pld(ledger.events, delta),
        "epsilon_prv": epsilon_prv(ledger.events, delta),
        "epsilon_rdp": epsilon_rdp(ledger.events, delta),
        "cap_epsilon": ledger.cap_epsilon,
        "delta": delta,
    }


def _epsilon_row(row: dict[str, Any]) -> tuple[str, ...]:
    figures = (row["epsilon_pld"], row["epsilon_prv"], row["epsilon_rdp"])
    rounded = (str(round_up(figure)) for figure in figures)
    return (row["merchant"], *rounded, f"{row['cap_epsilon']:g}", f"{row['delta']:g}")


def _summary(evidence: Evidence) -> dict[str, Any]:
    return {
        "plan": evidence.plan.payload,
        "plan_key": evidence.plan.key_id,
        "run": evidence.run.model_dump(mode="json"),
        "ledgers": {
            name: [entry.model_dump(mode="json") for entry in entries]
            for name, entries in sorted(evidence.ledgers.items())
        },
        "release": evidence.release is not None,
    }


def _show_evidence(evidence: Evidence) -> None:
    run = evidence.run
    finished = "goes on" if run.finished is None else f"finished {run.finished:%Y-%m-%d %H:%M}"
    _out.print(
        f"Run {escape(run.run)}: started {run.started:%Y-%m-%d %H:%M}, {finished} (UTC)\n"
        f"Plan {run.plan_digest[:12]}, signed by key {evidence.plan.key_id[:12]}\n"
        f"Release: {'none' if evidence.release is None else 'in the pack'}",
        highlight=False,
    )
    rounds = _table(
        "Rounds",
        ("round", "asked", "accepted", "refused", "aggregate"),
        list(run.rounds),
        lambda one: (
            str(one.round),
            str(len(one.cohort)),
            str(len(one.accepted)),
            ", ".join(f"{name}: {escape(why)}" for name, why in one.refused.items()),
            (one.aggregate_sha256 or "failed")[:12],
        ),
    )
    ledgers = _table(
        "Ledgers",
        ("merchant", "entries", "key"),
        sorted(evidence.ledgers.items()),
        lambda item: (item[0], str(len(item[1])), _key_of(evidence, item[0])),
    )
    _out.print(rounds, ledgers)


def _key_of(evidence: Evidence, merchant: str) -> str:
    record = evidence.merchants.get(merchant)
    return "unknown" if record is None else record.ledger_public_key[:12]
