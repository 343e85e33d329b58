"""Puts the measured figures into docs/benchmarks.md and docs/robust-aggregation.md.

The documents have places between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; this fills them
from ``build/bench/{federation,chaos,attacks}.json``, and leaves alone what was not measured.

Command:
    python -m benchmarks.report
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]

_CHAOS = [
    "rounds",
    "clients",
    "kills",
    "server_kills",
    "cuts",
    "disk_full",
    "disk_full_by",
    "accepted",
    "interrupted",
    "late",
    "wedged",
    "lost_updates",
    "wrong_charges",
    "final_equal",
    "seconds",
    "seed",
]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _range(spread: Json | None, digits: int = 2) -> str:
    """``median (min to max)``."""
    if spread is None:
        return "not measured"
    low, middle, high = (f"{spread[name]:.{digits}f}" for name in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def _figure(value: object, unit: str = "") -> str:
    return "not measured" if value is None else f"{value}{unit}"


def claims(found: Json) -> str:
    """Each promise beside what was measured."""
    small, full = found.get("small_round") or {}, found.get("full_round") or {}
    rows: list[tuple[str, str, str]] = [
        (
            "1 MB round, 2 nodes, against Flower's engine",
            "at least 50 times faster",
            _figure(small.get("speedup_vs_flower"), " times"),
        )
    ]
    for nodes, one in full.items():
        rows += [
            (f"90 MB round, {nodes} nodes, against {peer}", promised, _figure(one.get(key), unit))
            for peer, promised, key, unit in (
                ("a bare stream", "at most 1.5 times its wall", "ratio_vs_stream", " times"),
                ("the network, 50 MiB/s", "at most 1.10 times", "ratio_vs_link", " times"),
                ("Flower's engine", "at least 10 times faster", "speedup_vs_flower", " times"),
                ("the server's CPU", "at most 0.4 s a node", "server_cpu_s", " s"),
            )
        ]
    rows += [
        (what, promised, _figure(found.get(key), unit))
        for what, promised, key, unit in (
            (
                "Server's peak memory, 64 clients less 4, 90 MB",
                "under 0.5 models",
                "server_rss_growth_models",
                " models",
            ),
            ("64 clients with LoRA updates", "at most 2 s a round", "lora_64_overhead_s", " s"),
            (
                "Secure aggregation, 74k values, 32 clients",
                "at most 1 s of CPU a client",
                "secagg_client_cpu_s",
                " s",
            ),
            (
                "Simulation of 1,000 merchants, against Flower's",
                "at least 5 times faster",
                "simulation_speedup_vs_flower",
                " times",
            ),
        )
    ]
    return table(("claim", "promised", "measured"), rows)


def rounds(found: Json) -> str:
    """The walls of rounds: ours and the peers', in seconds."""
    named = {"1 MB, 2 nodes": found.get("small_round") or {}}
    for nodes, one in (found.get("full_round") or {}).items():
        named[f"90 MB, {nodes} nodes"] = one
        named[f"90 MB, {nodes} nodes, 50 MiB/s each"] = one.get("link") or {}
    head = ("round", "ours", "of it the clients' work", "bare stream", "Flower's engine")
    rows = [
        (name, *(_range(one.get(key)) for key in ("wall", "application", "bare_stream", "flower")))
        for name, one in named.items()
    ]
    return table(head, rows)


def memory(found: Json) -> str:
    """The server's memory and the latency of other calls, by number of clients."""
    part = (found.get("parts") or {}).get("server_memory") or {}
    rows = [
        (
            clients,
            one["peak_rss_mb"],
            one["peak_anonymous_mb"],
            one["heartbeat"]["p50_ms"],
            one["heartbeat"]["p95_ms"],
            one["heartbeat_idle"]["p95_ms"],
        )
        for clients, one in (part.get("server_memory") or {}).items()
    ]
    head = ("clients", "peak RSS, MB", "of it anonymous, MB", "p50, ms", "p95, ms", "p95 idle, ms")
    return table(head, rows) if rows else "Not measured yet."


def chaos(found: Json) -> str:
    """What chaos did, and what it broke."""
    rows = [(name.replace("_", " "), found[name]) for name in _CHAOS if name in found]
    return table(("", ""), rows) if rows else "Not measured yet."


def attacks(found: Json) -> str:
    """Accuracy under each attack and rule, and its share of the rule's own without an attack."""
    rows = found.get("table") or []
    rules = list(dict.fromkeys(one["rule"] for one in rows))
    cells = {(one["attackers"], one["attack"], one["rule"]): _accuracy(one) for one in rows}
    lines = dict.fromkeys((one["attackers"], one["attack"]) for one in rows)
    return table(
        (f"of {found['merchants']} attack", "attack", *rules),
        ((*line, *(cells.get((*line, rule), "not run") for rule in rules)) for line in lines),
    )


def _accuracy(one: Json) -> str:
    if one["accuracy"] is None:
        return "fails"
    return f"{one['accuracy']:.3f} ({one['of_no_attack']:.1%})"


def about(found: Json) -> str:
    """Machine, versions, load."""
    at = found.get("machine") or {}
    lines = [
        f"Machine: {at.get('cpu')}, {at.get('cores')} cores, {at.get('memory_gb')} GB, "
        f"{at.get('system')}.",
        "Versions: "
        + ", ".join(f"{k} {v}" for k, v in (found.get("versions") or {}).items())
        + ".",
    ]
    loads = {
        name: (part.get("load_average_before") or part.get("load_average") or ["?"])[0]
        for name, part in (found.get("parts") or {}).items()
    }
    if loads:
        said = ", ".join(f"{name} {value}" for name, value in loads.items())
        lines.append(f"Load average (1 minute) when each part began: {said}.")
    return "\n".join(lines)


def filled(text: str, places: Mapping[str, str]) -> str:
    """The document with each place's content replaced."""
    for name, content in places.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the document has no place called {name!r}")
        text = f"{before}{begin}{content}\n{end}{after}"
    return text


def _read(path: Path) -> Json:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def main() -> None:
    """Rewrites the documents."""
    parser = argparse.ArgumentParser(description="figures into the documents")
    parser.add_argument("--bench", type=Path, default=Path("build/bench"))
    parser.add_argument("--document", type=Path, default=Path("docs/benchmarks.md"))
    parser.add_argument("--robust", type=Path, default=Path("docs/robust-aggregation.md"))
    options = parser.parse_args()
    federation, storm, attacked = (
        _read(options.bench / f"{name}.json") for name in ("federation", "chaos", "attacks")
    )
    places: dict[str, str] = {}
    if tried := federation.get("only_tried"):
        sys.exit(f"measure {', '.join(tried)} again without --quick: those are no figures to quote")
    if federation:
        makers = {"claims": claims, "rounds": rounds, "memory": memory, "about": about}
        places |= {name: make(federation) for name, make in makers.items()}
    if storm:
        places["chaos"] = chaos(storm)
    _fill(options.document, places)
    _fill(options.robust, {"table": attacks(attacked)} if attacked else {})


def _fill(document: Path, places: Mapping[str, str]) -> None:
    document.write_text(filled(document.read_text(), places))
    sys.stdout.write(f"filled {', '.join(places) or 'nothing'} in {document}\n")


if __name__ == "__main__":
    main()
