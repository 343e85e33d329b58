"""``hansa-client test-privacy``: attack the training code before it may see any shopper."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hansa.core.empirical import CanarySetting, EmpiricalResult, MembershipInference
from hansa.core.errors import AuditFailedError
from hansa.core.plan import read_plan
from hansa.core.quiet import configure_logging

_CAN = (
    "It can show: gross faults of clipping, noise or steps, where an epsilon above the claim "
    "refutes the claim at this confidence, and small ones of noise, divisor and clip norm."
)
_CANNOT = (
    "It cannot show that there is no fault: with half of the noise the bounds lie below the claim "
    "too. Nor does it watch what is trained later on real shoppers, nor the server."
)


def attack(
    plan: Annotated[Path, typer.Argument(help="YAML or JSON file of the run plan.")],
    seed: Annotated[int, typer.Option(min=0, help="Public; canaries and noise come from it.")] = 0,
    limit_s: Annotated[float, typer.Option(min=1.0, help="Gives up after so long.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Attack this installation's training code under a plan, with shoppers that do not exist.

    Connects to nobody and reads no data. Exit code 13 if a fault is found.
    """
    from hansa.client.empirical.__main__ import run

    configure_logging(verbose=False)
    found = run(read_plan(plan), seed, limit_s=limit_s)
    if as_json:
        typer.echo(found.to_bytes().decode())
    else:
        show(found, Console())
    if not found.passed:
        raise AuditFailedError("the training code fails its audit: " + "; ".join(found.faults()))


def show(found: EmpiricalResult, console: Console) -> None:
    """Prints a result for people."""
    table = Table(
        "canaries",
        "test setting",
        "guessed right",
        "shown epsilon",
        "claimed",
        title=f"with {found.confidence:.0%} confidence, delta {found.delta:g}, seed {found.seed}",
    )
    for one in found.experiments:
        table.add_row(
            f"{one.canaries} {one.canaries_are}",
            _setting(one.setting),
            f"{one.correct} of {one.guesses}",
            f"{one.lower_bound:.2f}",
            f"{one.claimed_epsilon:.2f}",
            style=None if one.passed else "bold red",
        )
    console.print(table)
    console.print(f"Of the plan the test setting replaces: {', '.join(found.replaced)}.")
    for check in found.checks:
        verdict = "as the plan says" if check.passed else "NOT as the plan says"
        measured = f"{check.measured:.6g} for {check.expected:.6g}"
        console.print(f"{check.name}: {measured}, {verdict}.")
    if found.mia is not None:
        console.print(_smoke(found.mia))
    console.print(_CAN)
    console.print(_CANNOT)
    console.print("Passed." if found.passed else "FAILED.")


def _setting(one: CanarySetting) -> str:
    kind = "" if one.bands is None else f", {one.bands} bands"
    kind += "" if one.honest is None else f", {one.honest} shares"
    steps = one.steps * one.rounds
    return f"noise {one.noise_multiplier:g}, rate {one.sampling_rate:g}, {steps} steps{kind}"


def _smoke(mia: MembershipInference) -> str:
    return (
        f"Smoke test, no evidence: of {mia.members} members of a synthetic world and "
        f"{mia.non_members} others, a loss attack on the model after {mia.steps} steps has AUC "
        f"{mia.auc:.3f} ({mia.auc_low:.3f} to {mia.auc_high:.3f}) and finds "
        f"{mia.tpr_at_1_percent_fpr:.1%} of the members ({mia.tpr_low:.1%} to {mia.tpr_high:.1%}) "
        "at 1 % false alarms; chance is 0.5 and 1 %."
    )
