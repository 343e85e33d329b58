"""What the demo shows while it works and at its end."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

console = Console(soft_wrap=True)

METHODS = {
    "popularity": "popularity of items of like text",
    "zero_shot": "zero-shot: mean of the history's embeddings",
    "nearest_history": "the 3 nearest items of the history",
    "local_dp": "local only, DP, the same plan",
    "local_dp_tuned": "local only, DP, its own learning rate",
    "federated": "federated, clipped, no noise",
    "federated_dp": "federated, DP: the release as served",
}
"""Rows of the merchants' table of quality."""


class Step:
    """A bar of one step."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self) -> None:
        """One unit more is done."""
        self._progress.advance(self._task)

    def set(self, done: int, total: int) -> None:
        """So much is done of so much."""
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def step(name: str, total: int = 1) -> Iterator[Step]:
    """Shows a bar while the step works, and one line with its seconds when it is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        yield Step(progress, progress.add_task(name, total=total))
    console.print(
        f"[green]done[/] {name} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False
    )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table."""
    view = Table(*columns, title=title, title_justify="left")
    for row in rows:
        view.add_row(*map(str, row))
    console.print(view)


def answers(question: str, reply: Mapping[str, Any]) -> None:
    """Prints what a shop answered."""
    rows = [
        (item["title"], f"{item['price']:.2f}", f"{item['score']:.3f}") for item in reply["items"]
    ]
    table(question, ("item", "price", "score"), rows)


def role_tables(summary: Mapping[str, Any]) -> None:
    """One table for each role, out of the summary alone."""
    _merchant_table(summary)
    _operator_table(summary)
    _auditor_table(summary)


def _merchant_table(summary: Mapping[str, Any]) -> None:
    rows = [
        (
            one["name"],
            one["rounds_joined"],
            f"{one['epsilon_spent']} of {one['epsilon_cap']}",
            one["shoppers_noised"] if one["shoppers_noised"] is not None else "-",
            one["refused_reason"] or "-",
        )
        for one in summary["merchants"]
    ]
    columns = ("merchant", "rounds joined", "epsilon spent", "shoppers (noised)", "refused because")
    table("For the merchants", columns, rows)
    _quality_tables(summary["quality"])


def _quality_tables(quality: Mapping[str, Any]) -> None:
    rows = [
        (text, f"{quality[name]:.4f}", f"{quality['ndcg_at_10'][name]:.4f}")
        for name, text in METHODS.items()
    ]
    title = f"{quality['task']}: {quality['held_out_shoppers']} held-out shoppers, all shops"
    table(title, ("method", "recall@10", "nDCG@10"), rows)
    repeated = quality["federated_dp_repeated"]
    console.print(
        f"One run's noise moves its figure: {quality['repetitions']} repetitions of the federated "
        f"run give recall@10 {repeated['mean']:.4f}, standard deviation {repeated['std']:.4f}; "
        "local_dp is a mean of as many. docs/demo.md says what the figures can bear.",
        highlight=False,
    )
    for name, figures in quality["beside"].items():
        title = f"Beside it, {name.replace('_', ' ')}"
        table(title, list(figures), [[f"{value:.4f}" for value in figures.values()]])


def _operator_table(summary: Mapping[str, Any]) -> None:
    model, serving, release = summary["model"], summary["serving"], summary["release"]
    rows = [
        ("rounds completed", summary["rounds_completed"]),
        ("bytes per round per client", f"{summary['bytes_per_round_per_client']:,}"),
        ("model, fp32 -> released", f"{model['fp32_mb']:.1f} MB -> {model['released_mb']:.1f} MB"),
        ("cosine to fp32, nDCG lost", f"{model['cosine_vs_fp32']:.4f}, {model['ndcg_loss']:.4f}"),
        (
            "release",
            f"version {release['version']}, verified by {len(release['verified_by'])} sites",
        ),
        ("search p50 / p99", f"{serving['search_p50_ms']:.1f} / {serving['search_p99_ms']:.1f} ms"),
        (
            "recommend p50 / p99",
            f"{serving['recommend_p50_ms']:.1f} / {serving['recommend_p99_ms']:.1f} ms",
        ),
        ("whole demo", f"{summary['wall_s']:.0f} s"),
    ]
    table("For the operator", ("figure", "value"), rows)


def _auditor_table(summary: Mapping[str, Any]) -> None:
    audit = summary["audit"]
    rows = [
        ("evidence verified", "yes" if audit["verified"] else "NO"),
        ("largest epsilon, accountant PLD", f"{audit['epsilon_pld']:.4f}"),
        ("largest epsilon, accountant PRV", f"{audit['epsilon_prv']:.4f}"),
        (
            "one flipped byte noticed",
            f"{'yes' if audit['tamper_detected'] else 'NO'}: {audit['tamper_finding']}",
        ),
    ]
    table("For the auditor", ("check", "result"), rows)
