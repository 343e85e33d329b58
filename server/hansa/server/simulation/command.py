"""What ``hansa-server simulate`` shows: a bar while it runs, tables at its end."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hansa.core.quiet import configure_logging
from hansa.server.simulation.engine import simulate
from hansa.server.simulation.report import Quality, SimulationReport
from hansa.server.simulation.room import SimulationRequest
from hansa.server.simulation.virtual_grid import Step, Watch


def run(request: SimulationRequest, out: Path | None, *, quiet: bool) -> SimulationReport:
    """Simulates under a progress bar; without ``out`` nothing stays on the disk."""
    configure_logging(verbose=False)
    logging.getLogger("hansa").setLevel(logging.WARNING)  # the bar and the tables say it all
    with _folder(out) as folder, _bar(request.plan.federation.rounds, quiet=quiet) as watch:
        return simulate(request, folder, watch)


def show(report: SimulationReport, console: Console) -> None:
    """Prints a report for people."""
    console.print(report.note)
    console.print(
        f"{report.plan}: {report.merchants} virtual merchants, {report.data['shoppers']} shoppers, "
        f"{report.data['items']} items ({report.data['source']}), seed {report.seed}, "
        f"engine {report.engine}"
    )
    table = Table("round", "asked", "accepted", "refused", "seconds", "down", "up")
    for one in report.rounds:
        refused = ", ".join(f"{count} {reason}" for reason, count in one.refused.items())
        table.add_row(
            str(one.number),
            str(one.asked),
            str(one.accepted),
            refused or "-",
            f"{one.seconds:.2f}",
            str(one.down_bytes),
            str(one.up_bytes),
        )
    console.print(table)
    console.print(
        f"recall@10 of new items, exact: {_recall(report.quality_before)} before, "
        f"{_recall(report.quality_after)} after, over {report.quality_after.shoppers} "
        f"held-out virtual shoppers of {report.quality_after.merchants} merchants"
    )
    privacy = report.privacy
    console.print(
        f"at real merchants, each shopper would pay epsilon {privacy.epsilon_of_every_round} for "
        f"all rounds; the virtual merchant asked most often took part in "
        f"{privacy.most_rounds_of_one_merchant}: epsilon {privacy.epsilon_of_most_rounds} "
        f"(delta {privacy.delta:g})"
    )
    console.print(f"not simulated: {', '.join(report.left_out)}")
    console.print(f"{report.set_up_s:.1f} s of setting up, {report.rounds_s:.1f} s of rounds")


def _recall(quality: Quality) -> str:
    return "-" if quality.recall_at_10 is None else f"{quality.recall_at_10:.3f}"


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="hansa-simulation-") as scratch:
        yield Path(scratch)


@contextmanager
def _bar(rounds: int, *, quiet: bool) -> Iterator[Watch]:
    """A round is done by the share of its merchants that have answered."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), disable=quiet, transient=True
    ) as progress:
        bar = progress.add_task("setting up", total=float(rounds))

        def watch(step: Step) -> None:
            share = step.answered / step.asked
            if step.phase == "train":
                text = f"round {step.round_number} of {rounds}"
                progress.update(bar, description=text, completed=step.round_number - 1 + share)
            else:
                progress.update(bar, description=f"judging the model {share:.0%}")

        yield watch
