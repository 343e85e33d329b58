"""What is trained, by name and shape: known without torch, so that all may look before joining."""

from typing import Final

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
