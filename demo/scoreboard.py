"""The demo's figures in one dictionary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from federation import Merchant


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Everything that the demo saw."""

    merchants: list[Merchant]
    run: Mapping[str, Any]
    lora: Mapping[str, Any]
    budgets: Mapping[str, Mapping[str, Any]]
    verified_by: list[str]
    asked: list[dict[str, Any]]
    latency: Mapping[str, float]
    audit: Mapping[str, Any]
    tampered: Mapping[str, Any]
    quality: Mapping[str, Any]
    memory: Mapping[str, float]


def summarise(seen: Observed, *, wall_s: float) -> dict[str, Any]:
    """The figures as observed, rounded for reading, none left out because it disappoints."""
    run, release = seen.run, seen.run["evaluation"]["release"]
    return {
        "wall_s": round(wall_s, 1),
        "rounds_completed": run["rounds_done"],
        "merchants": [_merchant(merchant, seen) for merchant in seen.merchants],
        "quality": dict(seen.quality),
        "noised_evaluation": {
            name: value for name, value in run["evaluation"].items() if name != "release"
        },
        "model": {
            "fp32_mb": release["teacher_size_bytes"] / 1e6,
            "released_mb": release["size_bytes"] / 1e6,
            "cosine_vs_fp32": release["mean_cosine"],
            "ndcg_loss": release["ndcg_loss"],
        },
        "release": {"version": run["release_version"], "verified_by": seen.verified_by},
        "serving": {**seen.latency, "answers": seen.asked},
        "audit": _audit(seen),
        "bytes_per_round_per_client": _bytes_per_round(run),
        "lora": {
            "rounds_completed": seen.lora["rounds_done"],
            "bytes_per_round_per_client": _bytes_per_round(seen.lora),
        },
        "peak_memory_mb": {name: round(value) for name, value in seen.memory.items()},
    }


def _merchant(merchant: Merchant, seen: Observed) -> dict[str, Any]:
    rounds = [one for one in seen.run["rounds"] if merchant.name in one["accepted"]]
    budget = seen.budgets[merchant.name]
    counts = seen.run["evaluation"].get("shoppers_noised_by_merchant", {})
    refusals = [one["refused"] for one in budget["runs"] if one["refused"]]
    return {
        "name": merchant.name,
        "shoppers_noised": _rounded(counts.get(merchant.name)),
        "rounds_joined": len(rounds),
        "refused_reason": refusals[0] if refusals else None,
        "epsilon_spent": float(budget["epsilon_spent"]),
        "delta": budget["delta"],
        "epsilon_cap": budget["epsilon_cap"],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _audit(seen: Observed) -> dict[str, Any]:
    spends = seen.audit["spends"]
    return {
        "verified": seen.audit["passed"],
        "epsilon_pld": max(one["epsilon_pld"] for one in spends),
        "epsilon_prv": max(one["epsilon_prv"] for one in spends),
        "tamper_detected": not seen.tampered["passed"],
        "tamper_finding": seen.tampered.get("detail", ""),
    }


def _bytes_per_round(run: Mapping[str, Any]) -> int:
    """Content bytes down and up for one client in one round, the mean over rounds."""
    totals = [int(one["down_bytes"]) + int(one["up_bytes"]) for one in run["rounds"]]
    return round(sum(totals) / len(totals))
