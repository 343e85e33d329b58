"""A merchant's steps on adapters inside the encoder: the query tower only.

The user's text is a few titles of its history; item vectors are those of the public base model and
stay frozen, so that the loss of one shopper depends on that shopper alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from hansa.client.training.loss import padded_targets, shopper_losses
from hansa.client.training.optimizer import ShopperDPOptimizer, per_record_gradients
from hansa.client.training.samples import Sample, ShopData, draw_negatives, draw_samples
from hansa.client.training.step import take_step
from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import (
    Encoder,
    Floats,
    attach_lora,
    detach_lora,
    load_lora_arrays,
    lora_arrays,
)
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import AesNormal, Entropy, choose_records
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.update import Arrays

_TITLES = 8  # of a history, in the user's text
_PART_SIZE = 32  # shoppers in memory at once


@dataclass(frozen=True, kw_only=True)
class TextData:
    """What training of the encoder may read."""

    shop: ShopData
    texts: tuple[str, ...]
    """Of all the shop's items, in the order of ``shop.embeddings``; public."""

    def __post_init__(self) -> None:
        """Raises InvalidInputError: there is not one text an embedding."""
        if len(self.texts) != len(self.shop.embeddings):
            raise InvalidInputError("every item needs one text and one embedding")


def train_lora(
    weights: Arrays, data: TextData, plan: RunPlan, encoder: Encoder, entropy: Entropy
) -> dict[str, Floats]:
    """The round's adapters after this merchant's ``local_steps``; worth ``round_event()``.

    Args:
        weights: the round's adapters; see ``hansa.core.models.encoder.lora_arrays``.
        data: the shop's data; private.
        plan: all constants, public.
        encoder: the plan's public base model; given back without adapters.
        entropy: cryptographic; sampling, choice of records and noise come from it.

    Returns:
        The new arrays, float32; nothing else is returned or logged.

    Raises:
        InvalidInputError: the weights are not adapters of this encoder and rank.
    """
    rank = plan.training.rank
    attach_lora(encoder.model, rank=rank)
    try:
        load_lora_arrays(encoder.model, weights)
        _train(data, plan, encoder, entropy)
        return lora_arrays(encoder.model)
    finally:
        detach_lora(encoder.model)


def _train(data: TextData, plan: RunPlan, encoder: Encoder, entropy: Entropy) -> None:
    privacy = PrivacyPlan.of(plan)
    trained = [one for one in encoder.model.parameters() if one.requires_grad]
    inner = torch.optim.SGD(trained, lr=plan.training.learning_rate)
    optimizer = ShopperDPOptimizer(inner, privacy, AesNormal.fresh(entropy))
    with _differentiable_inputs(encoder), per_record_gradients(encoder.model):
        for _ in range(privacy.local_steps):
            objective = _Objective(encoder, data, plan, entropy)
            samples = draw_samples(data.shop.shoppers, privacy, entropy)
            take_step(optimizer, samples, objective, _PART_SIZE)


@contextmanager
def _differentiable_inputs(encoder: Encoder) -> Iterator[None]:
    """Lets gradients reach the first layer's inputs; without them torch's backward hooks warn."""
    encoder.model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        encoder.model.disable_input_require_grads()  # type: ignore[no-untyped-call]


class _Objective:
    """The losses of one step, against the step's public negatives."""

    def __init__(self, encoder: Encoder, data: TextData, plan: RunPlan, entropy: Entropy) -> None:
        drawn = draw_negatives(data.shop.negatives, plan.training.negatives, entropy)
        self._encoder = encoder
        self._texts = data.texts
        self._entropy = entropy
        self._embeddings = torch.from_numpy(data.shop.embeddings)
        self._negatives = torch.from_numpy(drawn)
        self._temperature = plan.training.temperature

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        users = self._encoder.vectors(*self._encoder.tokens([self._text(one) for one in samples]))
        targets, present = padded_targets(self._embeddings, [one.targets for one in samples])
        return shopper_losses(users, targets, present, self._negatives, self._temperature)

    def _text(self, sample: Sample) -> str:
        places = sample.history[choose_records(len(sample.history), _TITLES, self._entropy)]
        return ", ".join(self._texts[place] for place in places)
