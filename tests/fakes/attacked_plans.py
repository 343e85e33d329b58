"""Small plans of every kind of training, for attacks on the training code.

``attacked_plan("lora")``, or with other fields: ``attacked_plan("tower", privacy={...})``.
"""

from typing import Any

from hansa.core.plan import RunPlan, parse_plan

RANKS = {"tower": 24, "lora": 4}


def attacked_plan(
    trains: str = "tower",
    *,
    training: dict[str, Any] | None = None,
    privacy: dict[str, Any] | None = None,
    federation: dict[str, Any] | None = None,
) -> RunPlan:
    """A plan of three short rounds at sampling rate 0.5."""
    rank = {"rank": RANKS[trains]} if trains in RANKS else {}
    constants = {"sampling_rate": 0.5, "expected_shoppers": 20, "noise_multiplier": 1.2}
    body = {
        "name": "attacked",
        "training": {"trains": trains, **rank, **(training or {})},
        "privacy": {**constants, **(privacy or {})},
        "federation": {"rounds": 3, "quorum": 3, **(federation or {})},
        "compression": None,
    }
    return parse_plan(body, "the plan")


def banded_plan() -> RunPlan:
    """Units take turns, noise is correlated."""
    privacy = {"sampling_rate": 1.0, "banded_noise": {"bands": 8}}
    return attacked_plan(training={"local_steps": 8}, privacy=privacy)


def distributed_plan() -> RunPlan:
    """One noise draw for all merchants."""
    return attacked_plan(
        privacy={"distributed_noise": {"colluders": 1}},
        federation={"secure_aggregation": {}},
    )


def adamw_plan() -> RunPlan:
    """AdamW and the mean over a tail follow the noise."""
    settings = {"optimizer": "adamw", "learning_rate": 0.01, "average_tail": 0.5}
    return attacked_plan(training={**settings, "local_steps": 6})


def record_plan() -> RunPlan:
    """A single purchase is protected."""
    return attacked_plan(privacy={"unit": "record"})
