"""The command of the auditor: ``hansa-audit``."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hansa.audit.prv import epsilon_prv
from hansa.audit.verifier import Report, Spend, verify
from hansa.core.errors import AuditFailedError, HansaError, InvalidInputError
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

_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)


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
    pack: Pack, as_json: AsJson = False, root: RootFile = None, plan_key: PlanKey = None
) -> None:
    """Run every check on a pack; exit with 0 only if all pass, with 13 if one fails."""
    with _errors_as_exit_codes(as_json):
        pinned = None if root is None else _read(root)
        report = verify(_evidence(pack), pinned_root=pinned, plan_key=plan_key)
        if as_json:
            _print_json({"passed": report.passed, **report.model_dump(mode="json")})
        else:
            _show_report(report)
        if not report.passed:
            raise typer.Exit(AuditFailedError.exit_code)


@app.command("epsilon")
def epsilon_command(pack: Pack, as_json: AsJson = False) -> None:
    """Recompute each merchant's epsilon from its ledger, by three accountants."""
    with _errors_as_exit_codes(as_json):
        evidence = _evidence(pack)
        rows = [_epsilons(name, evidence) for name, own in sorted(evidence.ledgers.items()) if own]
        if as_json:
            _print_json({"accountants": accountants(), "merchants": rows})
            return
        columns = ("merchant", "PLD", "PRV", "RDP", "cap", "delta")
        _out.print(_table("Epsilon per shopper, add-or-remove-one", columns, rows, _epsilon_row))


@app.command("show")
def show_command(pack: Pack, as_json: AsJson = False) -> None:
    """Show what is in a pack: plan, rounds and ledgers. Nothing is judged."""
    with _errors_as_exit_codes(as_json):
        evidence = _evidence(pack)
        if as_json:
            _print_json(_summary(evidence))
        else:
            _show_evidence(evidence)


def main() -> None:
    """The entry point of ``hansa-audit``."""
    app()


@contextmanager
def _errors_as_exit_codes(as_json: bool) -> Iterator[None]:
    try:
        yield
    except HansaError as error:
        if as_json:
            _print_json({"passed": False, "error": type(error).__name__, "detail": str(error)})
        _err.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False)
        raise typer.Exit(error.exit_code) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}") from error


def _evidence(pack: Path) -> Evidence:
    return read_pack(_read(pack))


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))


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
            "[green]pass[/]" if one.passed else "[red]FAIL[/]",
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
    verdict = "[green]All checks passed.[/]" if report.passed else "[red]Verification failed.[/]"
    _out.print(verdict)


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
