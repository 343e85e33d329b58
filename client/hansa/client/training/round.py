"""One merchant's training in one round, whichever model and on however many devices."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from hansa.client.examples import Examples
from hansa.client.training.lora import TextData, train_lora
from hansa.client.training.ranks import ALONE, Ranks
from hansa.client.training.round_task import RoundTask
from hansa.client.training.samples import ShopData
from hansa.client.training.tower import train_tower
from hansa.core.models.encoder import Encoder
from hansa.core.models.shapes import NEGATIVES, TRAINED
from hansa.core.privacy.mechanism import Entropy
from hansa.core.update import Arrays

Floats = npt.NDArray[np.float32]


class SiteData(Protocol):
    """What training and evaluation read of one merchant; ``Workshop`` is a real site's."""

    @property
    def examples(self) -> Examples:
        """The merchant's split data; private."""
        ...

    @property
    def embeddings(self) -> Floats:
        """Of all its items, ``(items, dim)``."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """Of all its items."""
        ...

    @property
    def encoder(self) -> Encoder:
        """The public base model."""
        ...


def train_round(
    task: RoundTask, site: SiteData, entropy: Entropy, ranks: Ranks = ALONE
) -> dict[str, Floats]:
    """The round's trained arrays after this merchant's noised steps.

    Args:
        task: what the round asks for.
        site: the merchant's data; private.
        entropy: cryptographic.
        ranks: the processes that train together.

    Raises:
        InvalidInputError: the weights are not those of the plan's model.
    """
    plan, mu = task.plan, task.proximal_mu
    shop = ShopData(
        shoppers=site.examples.training,
        embeddings=site.embeddings,
        negatives=np.asarray(task.public[NEGATIVES], np.float32),
    )
    if plan.training.trains == "lora":
        data = TextData(shop=shop, texts=site.texts)
        return train_lora(
            task.weights, data, plan, site.encoder, entropy, proximal_mu=mu, ranks=ranks
        )
    weights = tower_arrays(task.weights, task.public)
    tower = train_tower(weights, shop, plan, entropy, proximal_mu=mu, ranks=ranks)
    return {name: tower[name] for name in TRAINED}


def tower_arrays(weights: Arrays, public: Arrays) -> Arrays:
    """A tower's arrays, in order, from the trained ones and the run's public record."""
    constants = {name: array for name, array in public.items() if name != NEGATIVES}
    return {**constants, **weights}
