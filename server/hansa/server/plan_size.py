"""How much a plan trains and sends: from the plan, and where it must be from the model's sizes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from hansa.compression.codec import encoded_bytes
from hansa.compression.parcel import AS_IT_IS
from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import TRAINED, EncoderSize, encoder_shapes, tower_shapes
from hansa.core.plan import RunPlan

Shapes = Mapping[str, tuple[int, ...]]

_BYTES_PER_FLOAT = 4


def trained_shapes(plan: RunPlan, base_models: Mapping[str, Path]) -> Shapes | None:
    """The arrays of an update by name; None where the base model's sizes are not known here.

    Raises:
        InvalidInputError: the folder holds no encoder's configuration, or the plan does not fit it.
    """
    if plan.training.trains == "tower":
        shapes = tower_shapes(0, plan.training.rank)
        return {name: shapes[name] for name in TRAINED}
    folder = base_models.get(plan.model.base)
    return None if folder is None else encoder_shapes(plan.training, encoder_size(folder))


def encoder_size(folder: Path) -> EncoderSize:
    """The sizes in an encoder's public configuration.

    Raises:
        InvalidInputError: the folder holds no such configuration.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return EncoderSize(
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            intermediate=int(config["intermediate_size"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"{folder} is no Hugging Face folder of a BERT-like encoder: {error}"
        ) from error


def trained_numbers(shapes: Shapes) -> int:
    """How many numbers are trained and noised."""
    return sum(math.prod(shape) for shape in shapes.values())


def bytes_per_round(plan: RunPlan, shapes: Shapes) -> int:
    """The bytes of one merchant's update, before zstd and without framing."""
    bits = plan.federation.codec.uplink_bits
    return sum(_size(shape, bits) for shape in shapes.values())


def _size(shape: tuple[int, ...], bits: int) -> int:
    if bits == AS_IT_IS:
        return _BYTES_PER_FLOAT * math.prod(shape)
    return encoded_bytes(shape, bits=bits)
