"""What is learnt, from which model and records, and by which steps."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

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


class AdamWSpec(PlanPart):
    """What AdamW remembers of the noised gradients, within one round.

    References:
        Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv:1711.05101.
    """

    momentum_decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    """How much of the mean gradient each step keeps (beta 1)."""
    variance_decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """How much of the mean squared gradient each step keeps (beta 2)."""
    epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-8
    """Added to the root of the mean square before it divides; no privacy parameter."""


class TrainingSpec(PlanPart):
    """How a merchant turns its records into an update."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"devices", "top_layers", "optimizer", "adamw", "weight_decay", "average_tail"}
    )

    trains: Literal["tower", "lora", "bitfit", "top_layers", "full"] = "tower"
    """``tower``: a low-rank tower on frozen embeddings; all others are numbers of the encoder:
    ``lora``: adapters beside the attention's maps; ``bitfit``: all biases; ``top_layers``: the last
    layers; ``full``: all layers. Its tables of embeddings are never trained: most of their rows
    belong to tokens that nobody sees, and would gather nothing but noise."""
    rank: Annotated[int, Field(ge=1, le=512)] = 64
    top_layers: Annotated[int, Field(ge=1, le=100)] = 2
    """How many of the last layers ``top_layers`` trains."""
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Optimiser steps that each merchant takes in one round."""
    learning_rate: Annotated[float, Field(gt=0.0, le=100.0)] = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """What follows a noised gradient. Both are post-processing; AdamW begins each round anew."""
    adamw: AdamWSpec = AdamWSpec()
    weight_decay: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Each step shrinks the trained numbers by the learning rate times this (decoupled)."""
    average_tail: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Absent: a round ends with its last step; else with the mean over this last share of them."""
    temperature: Annotated[float, Field(gt=0.0, le=10.0)] = 0.05
    """The softmax divides similarities by this."""
    negatives: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Items of the public catalogue set against each target."""
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    """With more than one, a merchant trains under ``torchrun``, a process for each device."""

    @model_validator(mode="after")
    def _fields_belong_to_what_is_trained(self) -> "TrainingSpec":
        if self.trains != "top_layers" and "top_layers" in self.model_fields_set:
            raise ValueError(
                f"top_layers says nothing where {self.trains} is trained; leave it out"
            )
        if self.optimizer != "adamw" and "adamw" in self.model_fields_set:
            raise ValueError("adamw says nothing to sgd: leave it out, or set 'optimizer: adamw'")
        return self
