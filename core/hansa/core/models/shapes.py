"""What is trained, by name and shape: known without torch, so that all may look before joining."""

from dataclasses import dataclass
from typing import Final

from hansa.core.errors import InvalidInputError
from hansa.core.plan.training import TrainingSpec

CENTER: Final = "center"
BASIS: Final = "basis"
WEIGHT: Final = "weight"
BIAS: Final = "bias"

TRAINED: Final = (WEIGHT, BIAS)
"""What a tower's update consists of; its constants travel once a run, in the public context."""

PUBLIC: Final = "public"
"""The record of a run's context that holds the constants and the negatives."""

NEGATIVES: Final = "negatives"
"""Embeddings of the public catalogue's items that may be trained on, ``(items, dim)``."""

LORA_TARGETS: Final = ("query", "value")
"""The maps of each layer's attention that have adapters."""

EMBEDDING_NORM: Final = "embeddings.LayerNorm"
"""The one trained part below the layers; the tables of embeddings stay frozen."""


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """The sizes of a BERT that decide which arrays an update has; public."""

    hidden: int
    """Width of the states."""
    layers: int
    intermediate: int
    """Width inside a layer's feed-forward part."""


def tower_shapes(dim: int, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays of a tower, in the order in which they travel.

    Args:
        dim: length of an embedding.
        rank: directions of the public catalogue that the tower works in.
    """
    return {CENTER: (dim,), BASIS: (dim, rank), WEIGHT: (rank, rank), BIAS: (rank,)}


def lora_shapes(hidden_size: int, layers: int, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all adapters' arrays, in the order in which they travel."""
    return {
        f"layer.{layer}.{target}.{part}": shape
        for layer in range(layers)
        for target in LORA_TARGETS
        for part, shape in (("down", (rank, hidden_size)), ("up", (hidden_size, rank)))
    }


def encoder_shapes(training: TrainingSpec, size: EncoderSize) -> dict[str, tuple[int, ...]]:
    """The shapes of what a plan trains inside the encoder, in the order in which they travel.

    Apart from the adapters the arrays are named as in the encoder's own state dict.

    Raises:
        InvalidInputError: the plan trains more layers than the encoder has, or a tower.
    """
    match training.trains:
        case "lora":
            return lora_shapes(size.hidden, size.layers, training.rank)
        case "bitfit":
            everything = _norm_shapes(size) | _layers_shapes(size, first=0)
            return {name: shape for name, shape in everything.items() if name.endswith(BIAS)}
        case "top_layers":
            return _layers_shapes(size, first=_first_of_top(training, size))
        case "full":
            return _norm_shapes(size) | _layers_shapes(size, first=0)
        case _:
            raise InvalidInputError(f"{training.trains} is trained beside the encoder, not in it")


def _first_of_top(training: TrainingSpec, size: EncoderSize) -> int:
    if training.top_layers > size.layers:
        raise InvalidInputError(
            f"the encoder has {size.layers} layers: set training.top_layers to at most so many"
        )
    return size.layers - training.top_layers


def _norm_shapes(size: EncoderSize) -> dict[str, tuple[int, ...]]:
    return {f"{EMBEDDING_NORM}.{part}": (size.hidden,) for part in (WEIGHT, BIAS)}


def _layers_shapes(size: EncoderSize, *, first: int) -> dict[str, tuple[int, ...]]:
    return {
        f"encoder.layer.{layer}.{name}": shape
        for layer in range(first, size.layers)
        for name, shape in _layer_shapes(size).items()
    }


def _layer_shapes(size: EncoderSize) -> dict[str, tuple[int, ...]]:
    """One layer's arrays in the order of a BERT's state dict."""
    hidden, inner = size.hidden, size.intermediate
    linear = {
        **{f"attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")},
        "attention.output.dense": (hidden, hidden),
        "attention.output.LayerNorm": (hidden,),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
        "output.LayerNorm": (hidden,),
    }
    return {
        f"{name}.{part}": shape if part == WEIGHT else shape[:1]
        for name, shape in linear.items()
        for part in (WEIGHT, BIAS)
    }
