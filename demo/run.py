#!/usr/bin/env python3
"""A whole federation of four real shops on this machine: one command, three roles, real processes.

Each step is the command that a person in that role would type. Figures go to ``summary.json`` as
they are.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import scoreboard
import show
from audit import tampered_copy, verify, write_report
from federation import Federation, Merchant, fresh_folder, python_script
from processes import Processes, StepError
from questions import ask_shops, measure_latency

from hansa.core.base_models import parse_base_models
from hansa.core.errors import HansaError
from hansa.core.plan import read_plan

HERE = Path(__file__).parent
CAPS = {"harbour": 9.0, "market": 9.0, "station": 9.0, "village": 4.0}
"""The village allows too little for all rounds: its ledger will refuse, and the others go on."""


def main() -> None:
    """Runs the demo; exit code 1 when a step fails, 130 on Ctrl-C. No process outlives it."""
    options = _options()
    # Said explicitly: a shell lets its background jobs ignore SIGINT, and Python keeps to that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _demo(options)
    except (StepError, HansaError) as error:
        show.console.print(f"[red]demo:[/] {error}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        show.console.print("demo: stopped; every process was ended")
        sys.exit(130)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/demo"), help="folder of all that is made"
    )
    parser.add_argument(
        "--exports", type=Path, help="folder with merchants.json; default: made from real receipts"
    )
    parser.add_argument(
        "--base-model", type=Path, help="Hugging Face folder; default: the installed MiniLM"
    )
    parser.add_argument("--plan", type=Path, default=HERE / "plans" / "cold-items.yaml")
    parser.add_argument("--lora-plan", type=Path, default=HERE / "plans" / "lora-taste.yaml")
    return parser.parse_args()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _demo(options: argparse.Namespace) -> None:
    started = time.monotonic()
    out = fresh_folder(options.out.resolve())
    with Processes(out / "logs") as processes:
        exports = _exports(processes, options.exports, out)
        model = options.base_model or parse_base_models([])["minilm"]
        federation = _federation(processes, exports, out, model)
        with show.step("operator: make the state, start the server"):
            federation.open()
        _show_ingests(federation.enrol(options.plan))
        seen = _observe(federation, processes, options, out)
    summary = scoreboard.summarise(seen, wall_s=time.monotonic() - started)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    show.role_tables(summary)
    show.console.print(f"All figures: {out / 'summary.json'}", highlight=False)


def _observe(
    federation: Federation, processes: Processes, options: argparse.Namespace, out: Path
) -> scoreboard.Observed:
    """The headline's run, its release, the shops' answers, the audit, and a taste of LoRA."""
    task = read_plan(options.plan).task
    run = federation.run(options.plan)
    verified_by = federation.wait_for_release(run["release_version"])
    asked = ask_shops(federation, task)
    latency = measure_latency(federation, task)
    report, finding = _audit(processes, federation.pack(run["run_id"]))
    return scoreboard.Observed(
        merchants=federation.merchants,
        run=run,
        verified_by=verified_by,
        asked=asked,
        latency=latency,
        audit=report,
        tampered=finding,
        lora=federation.run(options.lora_plan),
        budgets={one.name: federation.budget(one) for one in federation.merchants},
        memory=processes.peak_memory_mb(),
        quality=_quality(processes, federation, options.plan, out),
    )


def _audit(processes: Processes, pack: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the auditor finds in the evidence, and in a copy with one byte flipped."""
    with show.step("auditor: verify, write the report, flip one byte, verify again", 3) as bar:
        report = verify(processes, pack)
        bar.advance()
        write_report(processes, pack, pack.parent / "regulator-pack")
        bar.advance()
        return report, verify(processes, tampered_copy(pack))


def _exports(processes: Processes, given: Path | None, out: Path) -> Path:
    if given is not None:
        return given
    with show.step("shops: write their exports from a year of real receipts"):
        python_script(processes, HERE / "data.py", str(out / "exports"))
    return out / "exports"


def _federation(processes: Processes, exports: Path, out: Path, base_model: Path) -> Federation:
    listed = json.loads((exports / "merchants.json").read_text(encoding="utf-8"))
    merchants = [
        Merchant(
            name=one["name"],
            catalogue=exports / one["catalogue"],
            events=exports / one["events"],
            mapping=one["mapping"],
            site=out / "sites" / one["name"],
            epsilon_cap=CAPS[one["name"]],
        )
        for one in listed["merchants"]
    ]
    catalogue = exports / listed["public_catalogue"]
    return Federation(processes, out, merchants, base_model=base_model, public_catalogue=catalogue)


def _show_ingests(reports: dict[str, dict[str, dict[str, int]]]) -> None:
    rows = []
    for name, report in reports.items():
        events, items = report["events"], report["catalogue"]
        why = ", ".join(f"{one['reason']} {one['rows']}" for one in events["dropped"])  # type: ignore[attr-defined]
        rows.append(
            (
                name,
                f"{items['rows_kept']}/{items['rows_read']}",
                f"{events['rows_kept']}/{events['rows_read']}",
                why,
            )
        )
    show.table(
        "Ingest: rows kept of rows read", ("merchant", "items", "events", "events dropped"), rows
    )


def _quality(
    processes: Processes, federation: Federation, plan: Path, out: Path
) -> dict[str, object]:
    """After the servers are busy no more: every method on the same held-out shoppers."""
    path = out / "quality.json"
    sites = [str(merchant.site) for merchant in federation.merchants]
    with show.step(
        "merchants: compare with popularity, zero-shot, nearest history and local training"
    ):
        python_script(
            processes, HERE / "compare.py", "--plan", str(plan), "--out", str(path), *sites
        )
    return dict(json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
