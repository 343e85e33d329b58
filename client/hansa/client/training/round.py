"""One merchant's training in one round, whichever model and on however many devices."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from hansa.client.examples import Examples
from hansa.client.training.encoder import TextData, encoder_learner, train_encoder
from hansa.client.training.learner import Steps
from hansa.client.training.ranks import ALONE, Ranks
from hansa.client.training.round_task import RoundTask
from hansa.client.training.samples import ShopData
from hansa.client.training.tower import TowerLearner, train_tower
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
    plan, mu, shop = task.plan, task.proximal_mu, _shop_data(task, site)
    if plan.training.trains == "tower":
        weights = tower_arrays(task.weights, task.public)
        tower = train_tower(weights, shop, plan, entropy, proximal_mu=mu, ranks=ranks)
        return {name: tower[name] for name in TRAINED}
    data = TextData(shop=shop, texts=site.texts)
    return train_encoder(
        task.weights, data, plan, site.encoder, entropy, proximal_mu=mu, ranks=ranks
    )


def sum_round(
    task: RoundTask, site: SiteData, entropy: Entropy, *, step: int = 0
) -> npt.NDArray[np.float64]:
    """The clipped sum of one step over this merchant's sampled units, WITHOUT any noise.

    It is private: whoever asks for it adds this merchant's share of the noise before it leaves the
    process. Adding or removing one unit moves it by at most the plan's clip norm in L2. It is not
    divided; the model moves against it.

    Args:
        task: what the round asks for.
        site: the merchant's data; private.
        entropy: cryptographic.
        step: its number in the round, from 0.

    Returns:
        Shape ``(numbers,)``: the trained arrays in the order in which they travel, each in C order.

    Raises:
        InvalidInputError: the weights are not those of the plan's model.
    """
    plan, shop = task.plan, _shop_data(task, site)
    if plan.training.trains == "tower":
        tower = TowerLearner(tower_arrays(task.weights, task.public), shop, plan)
        return Steps(learner=tower, data=shop, plan=plan).one_sum(step, entropy).numpy()
    data = TextData(shop=shop, texts=site.texts)
    with encoder_learner(task.weights, data, plan, site.encoder) as encoder:
        return Steps(learner=encoder, data=shop, plan=plan).one_sum(step, entropy).numpy()


def _shop_data(task: RoundTask, site: SiteData) -> ShopData:
    return ShopData(
        shoppers=site.examples.training,
        embeddings=site.embeddings,
        negatives=np.asarray(task.public[NEGATIVES], np.float32),
    )


def tower_arrays(weights: Arrays, public: Arrays) -> Arrays:
    """A tower's arrays, in order, from the trained ones and the run's public record."""
    constants = {name: array for name, array in public.items() if name != NEGATIVES}
    return {**constants, **weights}
