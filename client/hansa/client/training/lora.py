"""A merchant's steps on adapters inside the encoder: the query tower only.

The user's text is a few titles of its history; item vectors are those of the public base model and
stay frozen, so that the loss of one shopper depends on that shopper alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hansa.client.training.loss import padded_targets, shopper_losses
from hansa.client.training.optimizer import ShopperDPOptimizer, per_record_gradients
from hansa.client.training.ranks import ALONE, Ranks
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
from hansa.core.privacy.mechanism import Entropy, choose_records
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
    weights: Arrays,
    data: TextData,
    plan: RunPlan,
    encoder: Encoder,
    entropy: Entropy,
    *,
    proximal_mu: float = 0.0,
    ranks: Ranks = ALONE,
) -> dict[str, Floats]:
    """The round's adapters after this merchant's ``local_steps``; worth ``round_event()``.

    Args:
        weights: the round's adapters; see ``hansa.core.models.encoder.lora_arrays``.
        data: the shop's data; private.
        plan: all constants, public.
        encoder: the plan's public base model; given back without adapters.
        entropy: cryptographic; sampling, choice of records and noise come from it.
        proximal_mu: pulls each step back to the round's adapters; 0 does not.
        ranks: the processes that take the steps together.

    Returns:
        The new arrays, float32; nothing else is returned or logged.

    Raises:
        InvalidInputError: the weights are not adapters of this encoder and rank, or the
            proximal weight is not a number from 0 up.
    """
    rank = plan.training.rank
    attach_lora(encoder.model, rank=rank)
    try:
        load_lora_arrays(encoder.model, weights)
        nn.Module.to(encoder.model, ranks.device)
        _train(data, plan, encoder, entropy, proximal_mu, ranks)
        return lora_arrays(encoder.model)
    finally:
        nn.Module.to(encoder.model, "cpu")
        detach_lora(encoder.model)


def _train(
    data: TextData,
    plan: RunPlan,
    encoder: Encoder,
    entropy: Entropy,
    proximal_mu: float,
    ranks: Ranks,
) -> None:
    privacy = PrivacyPlan.of(plan)
    trained = [one for one in encoder.model.parameters() if one.requires_grad]
    inner = torch.optim.SGD(trained, lr=plan.training.learning_rate)
    optimizer = ShopperDPOptimizer(
        inner, privacy, ranks.noise(entropy), proximal_mu=proximal_mu, ranks=ranks
    )
    shared = ranks.entropy(entropy)
    embeddings = torch.from_numpy(data.shop.embeddings).to(ranks.device)
    with _differentiable_inputs(encoder), per_record_gradients(encoder.model):
        for _ in range(privacy.local_steps):
            negatives = draw_negatives(data.shop.negatives, plan.training.negatives, shared)
            objective = _Objective(encoder, data.texts, embeddings, negatives, plan)
            samples = draw_samples(data.shop.shoppers, privacy, shared)
            shown = [_shown(sample, shared) for sample in samples]
            take_step(optimizer, ranks.share(shown), objective, _PART_SIZE)


def _shown(sample: Sample, entropy: Entropy) -> Sample:
    """The sample with so much of its history as its text has room for."""
    places = choose_records(len(sample.history), _TITLES, entropy)
    return replace(sample, history=sample.history[places])


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

    def __init__(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        embeddings: Tensor,
        negatives: Floats,
        plan: RunPlan,
    ) -> None:
        self._encoder = encoder
        self._texts = texts
        self._embeddings = embeddings
        self._negatives = torch.from_numpy(negatives).to(embeddings.device)
        self._temperature = plan.training.temperature

    def __call__(self, samples: Sequence[Sample]) -> Tensor:
        ids, mask = self._encoder.tokens([self._text(one) for one in samples])
        device = self._embeddings.device
        users = self._encoder.vectors(ids.to(device), mask.to(device))
        targets, present = padded_targets(self._embeddings, [one.targets for one in samples])
        return shopper_losses(users, targets, present, self._negatives, self._temperature)

    def _text(self, sample: Sample) -> str:
        return ", ".join(self._texts[place] for place in sample.history)
