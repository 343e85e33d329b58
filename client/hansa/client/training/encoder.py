"""A merchant's steps inside the encoder: the query tower only.

The user's text is a few titles of its history; item vectors are those of the public base model and
stay frozen, so that the loss of one unit depends on that unit alone.

Adapters and biases are few, and each unit's gradient lies in memory; for whole layers ghost
clipping needs none of them there.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from hansa.client.training.clipping import ClippedGradients, per_record_gradients
from hansa.client.training.ghost import ghost_gradients
from hansa.client.training.learner import Steps
from hansa.client.training.loss import padded_targets, shopper_losses
from hansa.client.training.objective import Loss, UnitLosses
from hansa.client.training.ranks import ALONE, Ranks
from hansa.client.training.samples import Integers, Sample, ShopData
from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import Encoder, Floats
from hansa.core.models.trained import Parameters, arrays_of, load_arrays, trained_parameters
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import Entropy, choose_records
from hansa.core.update import Arrays

TITLES: Final = 8
"""Of a history, in the user's text."""

_PART_SIZE = 32  # units in memory at once
_GHOST = frozenset({"top_layers", "full"})


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


def train_encoder(
    weights: Arrays,
    data: TextData,
    plan: RunPlan,
    encoder: Encoder,
    entropy: Entropy,
    *,
    proximal_mu: float = 0.0,
    ranks: Ranks = ALONE,
    loss: Loss = shopper_losses,
) -> dict[str, Floats]:
    """The round's trained arrays after this merchant's ``local_steps``; worth ``round_event()``.

    Args:
        weights: what is trained, as the round begins; see ``hansa.core.models.trained``.
        data: the shop's data; private.
        plan: all constants, public.
        encoder: the plan's public base model; given back as it was.
        entropy: cryptographic; sampling, choice of records and noise come from it.
        proximal_mu: pulls each step back to the round's arrays; 0 does not.
        ranks: the processes that take the steps together.
        loss: of each unit by itself; tried out before the first step.

    Returns:
        The new arrays, float32; nothing else is returned or logged.

    Raises:
        InvalidInputError: the weights are not those of this encoder and plan, the proximal weight
            is not a number from 0 up, or the loss mixes units.
    """
    with encoder_learner(weights, data, plan, encoder, ranks=ranks, loss=loss) as learner:
        Steps(
            learner=learner, data=data.shop, plan=plan, proximal_mu=proximal_mu, ranks=ranks
        ).train(entropy)
        return arrays_of(learner.parameters)


@contextmanager
def encoder_learner(
    weights: Arrays,
    data: TextData,
    plan: RunPlan,
    encoder: Encoder,
    *,
    ranks: Ranks = ALONE,
    loss: Loss = shopper_losses,
) -> Iterator["EncoderLearner"]:
    """The encoder with the round's weights within this context, and as it was after it.

    Raises:
        InvalidInputError: the weights are not those of this encoder and plan.
    """
    with trained_parameters(encoder.model, plan.training) as parameters:
        load_arrays(parameters, weights)
        nn.Module.to(encoder.model, ranks.device)
        try:
            yield EncoderLearner(encoder, parameters, data, plan, ranks=ranks, loss=loss)
        finally:
            nn.Module.to(encoder.model, "cpu")


class EncoderLearner:
    """An encoder with its loss; see ``Learner``."""

    part_size = _PART_SIZE

    def __init__(
        self,
        encoder: Encoder,
        parameters: Parameters,
        data: TextData,
        plan: RunPlan,
        *,
        ranks: Ranks,
        loss: Loss,
    ) -> None:
        self.module: nn.Module = encoder.model
        self.parameters = parameters
        self._encoder = encoder
        self._texts = data.texts
        self._embeddings = torch.from_numpy(data.shop.embeddings).to(ranks.device)
        self._training = plan.training
        self._loss = loss

    def gradients(self) -> AbstractContextManager[ClippedGradients]:
        """Ghost clipping for layers, a gradient for each unit for adapters and biases."""
        way = ghost_gradients if self._training.trains in _GHOST else per_record_gradients
        return way(self.module, tuple(self.parameters.values()))

    def shown(self, sample: Sample, entropy: Entropy) -> Sample:
        """The sample with so much of its history as its text has room for."""
        places = choose_records(len(sample.history), TITLES, entropy)
        return replace(sample, history=sample.history[places])

    def losses(self, negatives: Floats) -> UnitLosses:
        """The losses of one step."""
        against = torch.from_numpy(negatives).to(self._embeddings.device)
        temperature = self._training.temperature

        def compute(samples: Sequence[Sample]) -> Tensor:
            targets, present = padded_targets(self._embeddings, [one.targets for one in samples])
            return self._loss(self._users(samples), targets, present, against, temperature)

        return compute

    def _users(self, samples: Sequence[Sample]) -> Tensor:
        texts = [user_text(self._texts, one.history) for one in samples]
        ids, mask = self._encoder.tokens(texts)
        device = self._embeddings.device
        return self._encoder.vectors(ids.to(device), mask.to(device))


def user_text(texts: Sequence[str], history: Integers) -> str:
    """What the encoder reads of a user: the titles of so much of its history as was chosen."""
    return ", ".join(texts[place] for place in history)
