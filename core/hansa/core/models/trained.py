"""Which numbers of an encoder a plan trains, and how they get in and out as named arrays.

The set hangs on the plan and the encoder's size alone (``hansa.core.models.shapes``): no data, and
no merchant, changes it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import BertModel

from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import (
    Encoder,
    Floats,
    attach_lora,
    detach_lora,
    lora_parameters,
)
from hansa.core.models.shapes import EncoderSize, encoder_shapes
from hansa.core.plan.training import TrainingSpec

Parameters = Mapping[str, nn.Parameter]
"""By the name under which each one travels, in that order."""


def initial_arrays(encoder: Encoder, training: TrainingSpec) -> dict[str, Floats]:
    """What a run begins with: the encoder that holds these arrays is the public one.

    Raises:
        InvalidInputError: the plan does not fit the encoder.
    """
    with trained_parameters(encoder.model, training) as parameters:
        return arrays_of(parameters)


@contextmanager
def trained_parameters(model: BertModel, training: TrainingSpec) -> Iterator[Parameters]:
    """Within this context the plan's numbers, and no others, can be trained.

    Afterwards the model is the frozen one that it was, adapters and new numbers gone.

    Raises:
        InvalidInputError: the plan does not fit the encoder, or it carries adapters already.
    """
    if training.trains == "lora":
        attach_lora(model, rank=training.rank)
        try:
            yield lora_parameters(model)
        finally:
            detach_lora(model)
        return
    parameters = _own_parameters(model, training)
    before = [one.detach().clone() for one in parameters.values()]
    for one in parameters.values():
        one.requires_grad_(True)
    try:
        yield parameters
    finally:
        _restore(parameters, before)


def load_arrays(parameters: Parameters, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Puts the numbers of ``arrays_of`` into the parameters.

    Raises:
        InvalidInputError: names, order or shapes are not those of the parameters.
    """
    expected = [(name, tuple(one.shape)) for name, one in parameters.items()]
    if [(name, array.shape) for name, array in arrays.items()] != expected:
        raise InvalidInputError("these arrays are not the trained ones of this encoder and plan")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.tensor(arrays[name], dtype=torch.float32))


def arrays_of(parameters: Parameters) -> dict[str, Floats]:
    """Copies of the parameters' numbers, float32."""
    return {name: one.detach().cpu().numpy().copy() for name, one in parameters.items()}


def _own_parameters(model: BertModel, training: TrainingSpec) -> Parameters:
    own = dict(model.named_parameters())
    shapes = encoder_shapes(training, size_of(model))
    if any(name not in own or tuple(own[name].shape) != shape for name, shape in shapes.items()):
        raise InvalidInputError("the encoder is no plain BERT: give another base model")
    return {name: own[name] for name in shapes}


def size_of(model: BertModel) -> EncoderSize:
    """The sizes that decide which arrays an update has."""
    config = model.config
    return EncoderSize(
        hidden=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        intermediate=int(config.intermediate_size),
    )


def _restore(parameters: Parameters, before: list[torch.Tensor]) -> None:
    for one, value in zip(parameters.values(), before, strict=True):
        one.requires_grad_(False)
        one.grad = None
        with torch.no_grad():
            one.copy_(value)
