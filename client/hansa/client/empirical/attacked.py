"""What the server sees of one merchant's training: the one thing that attacks may look at.

The code that trains is the code that ships, called as a site calls it; only the data and the
entropy are made up. With distributed noise the server sees a sum in which this merchant is the only
one with shoppers, and as many honest merchants as the plan counts on have added their shares.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa.client.examples import Examples
from hansa.client.training.learner import Learner, Steps
from hansa.client.training.round import train_round
from hansa.client.training.round_task import RoundTask
from hansa.client.training.samples import ShopData
from hansa.client.training.share import share_round
from hansa.client.virtual.entropy import SeededEntropy
from hansa.core.models.encoder import Encoder
from hansa.core.models.tower import Floats
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import AesNormal, Entropy
from hansa.core.privacy.noise_share import NOISED_SUM, NoiseShare, mean_step
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.update import Arrays

Movement = npt.NDArray[np.float64]
"""How a release moves the trained numbers, flat, in the order in which they travel."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MadeUpSite:
    """A merchant that does not exist; see ``SiteData``."""

    examples: Examples = field(repr=False)
    embeddings: Floats
    texts: tuple[str, ...] = ()
    made_encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """Made up like all the rest, where the plan trains within one."""
        if self.made_encoder is None:
            raise LookupError("no encoder was made for this plan")
        return self.made_encoder

    def with_shoppers(self, shoppers: tuple[Integers, ...]) -> "MadeUpSite":
        """The same site with other shoppers, by the distinct items that each bought."""
        return dataclasses.replace(
            self, examples=dataclasses.replace(self.examples, training=shoppers)
        )


def site_of(
    embeddings: Floats, texts: tuple[str, ...] = (), encoder: Encoder | None = None
) -> MadeUpSite:
    """A site without shoppers whose items may all be trained on."""
    places = np.arange(len(embeddings), dtype=np.int64)
    examples = Examples(known=places, cold=places[:0], training=(), cases=())
    return MadeUpSite(examples=examples, embeddings=embeddings, texts=texts, made_encoder=encoder)


def released_by_learner(
    learner: Callable[[], Learner], data: ShopData, plan: RunPlan, entropy: Entropy
) -> Movement:
    """What all rounds of a plan release of a learner of its own, added up.

    Args:
        learner: makes it, as a round begins.
        data: made up.
        plan: all constants.
        entropy: seeded, so that it repeats itself.
    """
    if plan.privacy.distributed_noise is None:
        one = learner()
        before = _flat({name: value.detach().numpy() for name, value in one.parameters.items()})
        Steps(learner=one, data=data, plan=plan).train(entropy)
        after = {name: value.detach().numpy() for name, value in one.parameters.items()}
        return _flat(after) - before
    rounds = []
    for _ in range(plan.federation.rounds):
        total = Steps(learner=learner(), data=data, plan=plan).one_sum(0, entropy).numpy()
        share = NoiseShare.of(plan, total.size)
        rounds.append(_shared(plan, share.integers(total, AesNormal.fresh(entropy)), entropy))
    return np.asarray(np.sum(rounds, axis=0))


def released_by_site(task: RoundTask, site: MadeUpSite, entropy: Entropy) -> Movement:
    """What one round of a task's plan releases."""
    if task.plan.privacy.distributed_noise is None:
        return _flat(train_round(task, site, entropy)) - _flat(task.weights)
    own = np.asarray(share_round(task, site, entropy)[NOISED_SUM], np.int64)
    return _shared(task.plan, own, entropy)


def moved(weights: Arrays, movement: Movement) -> dict[str, Floats]:
    """The weights of the next round."""
    found, start = {}, 0
    for name, array in weights.items():
        part = movement[start : start + array.size].reshape(array.shape)
        found[name] = np.asarray(array + part, np.float32)
        start += array.size
    return found


def seeded(seed: int, *label: object) -> SeededEntropy:
    """A stream of its own for each label."""
    return SeededEntropy(seed, "/".join(map(str, ("empirical", *label))))


def _shared(plan: RunPlan, own: Integers, entropy: Entropy) -> Movement:
    """The model's movement by the sum of this merchant's integers and the others' shares."""
    share, total = NoiseShare.of(plan, own.size), own.copy()
    honest = PrivacyPlan.of(plan).honest or 1
    for _ in range(honest - 1):
        total += share.integers(np.zeros(own.size), AesNormal.fresh(entropy))
    return mean_step(plan, total / 2.0**share.fraction_bits, honest)


def _flat(arrays: Arrays) -> Movement:
    return np.concatenate([np.asarray(one, np.float64).ravel() for one in arrays.values()])
