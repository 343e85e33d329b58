"""What is learnt, from which model and records, and by which steps."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hansa.core.plan.part import Fraction, Name, PlanPart


class ModelSpec(PlanPart):
    """Which public, pre-trained encoder is the backbone."""

    base: Name = "minilm"
    """A name that client and server each map to a local Hugging Face folder; never a download."""
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 32
    """Texts are cut after so many tokens."""


class TaskSpec(PlanPart):
    """What is learnt, from which records, and what is kept aside to judge it."""

    kind: Literal["recommend"] = "recommend"
    cold_item_fraction: Fraction = 0.2
    """Share of items, by a public hash of the item's key, that no training ever sees."""
    held_out_shopper_fraction: Fraction = 0.25
    """Share of shoppers, by hash, on whom releases are judged and nothing is trained."""
    min_history_items: Annotated[int, Field(ge=1, le=1000)] = 2
    """A shopper with fewer distinct known items takes no part."""


class TrainingSpec(PlanPart):
    """How a merchant turns its records into an update."""

    later: ClassVar[frozenset[str]] = frozenset({"devices"})

    trains: Literal["tower", "lora"] = "tower"
    """``tower``: a low-rank tower on frozen embeddings; ``lora``: adapters inside the encoder."""
    rank: Annotated[int, Field(ge=1, le=512)] = 64
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimiser steps that each merchant takes in one round."""
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 0.1
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 0.05
    """The softmax divides similarities by this."""
    negatives: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Items of the public catalogue set against each target."""
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    """With more than one, a merchant trains under ``torchrun``, a process for each device."""
