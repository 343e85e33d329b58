"""What would leave the premises under a plan: shown before anything is joined, trained or sent."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hansa.compression.codec import encoded_bytes
from hansa.compression.parcel import AS_IT_IS
from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import TRAINED, EncoderSize, encoder_shapes, tower_shapes
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_reference, round_up
from hansa.core.privacy.events import PrivacyEvent
from hansa.core.privacy.plan import PrivacyPlan

_BYTES_PER_FLOAT = 4
_BERTS_INTERMEDIATE = 3072  # what a configuration means that does not say it


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
    epsilon_total_of_a_shopper: str
    """The same as ``epsilon_total`` where the unit is a shopper; more where it is a record."""
    delta: float
    unit: str


def preview(plan: RunPlan, base_models: Mapping[str, Path]) -> Preview:
    """What the plan lets out, computed on this machine from the plan and the public model alone.

    Raises:
        InvalidInputError: the plan's base model is not known here.
    """
    privacy = PrivacyPlan.of(plan)
    shapes = _shapes(plan, base_models)
    tensors = tuple(_tensor(name, shape, plan) for name, shape in shapes.items())
    return Preview(
        plan=plan.name,
        plan_digest=plan.digest,
        rounds=plan.federation.rounds,
        tensors=tensors,
        bytes_per_round=sum(tensor.size_bytes for tensor in tensors),
        tensors_protection=_protection(plan, privacy),
        metrics=_metrics(plan),
        never_leaves=(
            "shoppers",
            "events",
            "counts of shoppers or events",
            "losses",
            "the personal report",
        ),
        epsilon_per_round=_epsilon([privacy.round_event()], privacy),
        epsilon_total=_epsilon(privacy.run_events(), privacy),
        epsilon_total_of_a_shopper=_of_a_shopper(privacy),
        delta=privacy.delta,
        unit=privacy.unit,
    )


def _epsilon(events: Sequence[PrivacyEvent], privacy: PrivacyPlan) -> str:
    return str(round_up(epsilon_reference(events, privacy.delta)))


def _of_a_shopper(privacy: PrivacyPlan) -> str:
    epsilon = privacy.shopper_epsilon()
    return str(round_up(epsilon)) if math.isfinite(epsilon) else "beyond any use"


def _protection(plan: RunPlan, privacy: PrivacyPlan) -> str:
    """Who enters a step, how it is bounded, and whose noise covers it."""
    drawn = f"Poisson sample of {privacy.unit}s (rate {privacy.sampling_rate})"
    if privacy.bands is not None:
        drawn = f"{privacy.unit}s in turns, each at most every {privacy.bands} steps"
    noise = f"Gaussian noise of {privacy.noise_std:g} added here"
    if privacy.bands is not None:
        noise = f"correlated {noise}"
    if privacy.honest is not None:
        noise = (
            f"a share of noise of {privacy.noise_std:g} added here ({privacy.honest} honest shares "
            "make up the whole), then masked so that only the sum over all merchants is shown"
        )
    elif plan.federation.secure_aggregation is not None:
        noise += ", then masked so that only the sum over all merchants is shown"
    bits = plan.federation.codec.uplink_bits
    rounded = "" if bits == AS_IT_IS else f", then rounded to {bits} bits"
    return (
        f"each of {privacy.local_steps} steps a round: {drawn}, clipped to {privacy.clip_norm} "
        f"per {privacy.unit}, {noise}{rounded}"
    )


def _shapes(plan: RunPlan, base_models: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    size = _encoder_size(plan, base_models)
    if plan.training.trains != "tower":
        return encoder_shapes(plan.training, size)
    shapes = tower_shapes(size.hidden, plan.training.rank)
    return {name: shapes[name] for name in TRAINED}


def _tensor(name: str, shape: tuple[int, ...], plan: RunPlan) -> LeavingTensor:
    """The array as it leaves; zstd may make it smaller still."""
    bits, coding = plan.federation.codec.uplink_bits, plan.federation.coding()
    size = (_BYTES_PER_FLOAT if coding is None else coding.dtype.itemsize) * math.prod(shape)
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


def _encoder_size(plan: RunPlan, base_models: Mapping[str, Path]) -> EncoderSize:
    """The public model's own sizes."""
    folder = base_models.get(plan.model.base)
    if folder is None:
        raise InvalidInputError(
            f"no folder is given for the base model {plan.model.base!r}; name it with --base-model"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return EncoderSize(
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            intermediate=int(config.get("intermediate_size", _BERTS_INTERMEDIATE)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{folder} is no Hugging Face folder of a BERT-like encoder: {error}"
        ) from error
