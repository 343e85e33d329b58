"""What would leave the premises under a plan: shown before anything is joined, trained or sent."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hansa.compression.codec import encoded_bytes
from hansa.compression.parcel import AS_IT_IS
from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import TRAINED, lora_shapes, tower_shapes
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_pld, round_up
from hansa.core.privacy.plan import PrivacyPlan

_BYTES_PER_FLOAT = 4


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LeavingTensor(_Part):
    """One array of an update."""

    name: str
    shape: tuple[int, ...]
    size_bytes: int


class LeavingMetric(_Part):
    """One number that is sent beside the arrays."""

    name: str
    protection: str


class Preview(_Part):
    """Everything that a plan lets out of one merchant."""

    plan: str
    plan_digest: str
    rounds: int
    tensors: tuple[LeavingTensor, ...]
    bytes_per_round: int
    tensors_protection: str
    metrics: tuple[LeavingMetric, ...]
    never_leaves: tuple[str, ...]
    epsilon_per_round: str
    epsilon_total: str
    delta: float
    unit: str


def preview(plan: RunPlan, base_models: Mapping[str, Path]) -> Preview:
    """What the plan lets out, computed on this machine from the plan and the public model alone.

    Raises:
        InvalidInputError: the plan's base model is not known here.
    """
    privacy = PrivacyPlan.of(plan)
    shapes = _shapes(plan, base_models)
    bits = plan.federation.codec.uplink_bits
    tensors = tuple(_tensor(name, shape, bits) for name, shape in shapes.items())
    return Preview(
        plan=plan.name,
        plan_digest=plan.digest,
        rounds=plan.federation.rounds,
        tensors=tensors,
        bytes_per_round=sum(tensor.size_bytes for tensor in tensors),
        tensors_protection=(
            f"each of {privacy.local_steps} steps a round: "
            f"Poisson sample of shoppers (rate {privacy.sampling_rate}), "
            f"clipped to {privacy.clip_norm} per shopper, "
            f"Gaussian noise of {privacy.noise_std:g} added here"
            + ("" if bits == AS_IT_IS else f", then rounded to {bits} bits")
        ),
        metrics=_metrics(plan),
        never_leaves=(
            "shoppers",
            "events",
            "counts of shoppers or events",
            "losses",
            "the personal report",
        ),
        epsilon_per_round=str(round_up(epsilon_pld([privacy.round_event()], privacy.delta))),
        epsilon_total=str(round_up(epsilon_pld(privacy.run_events(), privacy.delta))),
        delta=privacy.delta,
        unit=privacy.unit,
    )


def _shapes(plan: RunPlan, base_models: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    hidden_size, layers = _encoder_size(plan, base_models)
    if plan.training.trains == "lora":
        return lora_shapes(hidden_size, layers, plan.training.rank)
    shapes = tower_shapes(hidden_size, plan.training.rank)
    return {name: shapes[name] for name in TRAINED}


def _tensor(name: str, shape: tuple[int, ...], bits: int) -> LeavingTensor:
    """The array as it leaves; zstd may make it smaller still."""
    size = _BYTES_PER_FLOAT * math.prod(shape)
    if bits != AS_IT_IS:
        size = encoded_bytes(shape, bits=bits)
    return LeavingTensor(name=name, shape=shape, size_bytes=size)


def _metrics(plan: RunPlan) -> tuple[LeavingMetric, ...]:
    weight = LeavingMetric(name="num-examples", protection="always 1; no count")
    noise = plan.privacy.evaluation_noise_multiplier
    if noise is None:
        return (weight,)
    protection = (
        f"once, at the end: Gaussian noise of {noise} times the sensitivity added here, "
        "paid for in epsilon"
    )
    names = ("recall-at-10-sum over held-out shoppers", "number of held-out shoppers")
    return (weight, *(LeavingMetric(name=name, protection=protection) for name in names))


def _encoder_size(plan: RunPlan, base_models: Mapping[str, Path]) -> tuple[int, int]:
    """Width of the states and number of layers."""
    folder = base_models.get(plan.model.base)
    if folder is None:
        raise InvalidInputError(
            f"no folder is given for the base model {plan.model.base!r}; name it with --base-model"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return int(config["hidden_size"]), int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{folder} is no Hugging Face folder of a BERT-like encoder: {error}"
        ) from error
