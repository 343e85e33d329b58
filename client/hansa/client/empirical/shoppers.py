"""Canaries that are made-up shoppers, in front of the model that the plan trains.

Each buys two items that nobody else buys. Which one is its history is drawn anew in each step, so
the two are made such that both ways give the same gradient: for a tower the second item is the
mirror image of the first, for an encoder they have the same text and the same vector. What they
bought is loud: their gradients are far longer than the clip norm.

The attack knows the public model and every canary, and so each one's gradient at the beginning. It
looks how far the release went against each of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from hansa.client.empirical.attacked import (
    MadeUpSite,
    Movement,
    moved,
    released_by_site,
    seeded,
    site_of,
)
from hansa.client.empirical.gradients import (
    LOUDNESS,
    canary_items,
    shoppers_of,
)
from hansa.client.empirical.setting import NOISE_PER_STEP, Setting
from hansa.client.empirical.world import (
    first_task,
    learner_of,
    made_encoder,
    tower_dim,
    unit_rows,
)
from hansa.client.interruption import check_wanted
from hansa.client.training.learner import Learner
from hansa.client.training.round_task import RoundTask
from hansa.client.training.samples import Sample
from hansa.core.models.encoder import Encoder
from hansa.core.models.shapes import BASIS, CENTER, NEGATIVES
from hansa.core.models.tower import Floats
from hansa.core.plan import RunPlan

_NEGATIVES: Final = 256
_WORDS: Final = tuple(f"word{number}" for number in range(400))
_WORDS_OF_ONE: Final = 6
_MOST_NUMBERS: Final = 50_000_000
"""Of all canaries' gradients together, that are held in memory (200 MB)."""
_QUIETEST: Final = 10.0
"""Least length of a loud vector; the public ones have length 1."""


@dataclass(frozen=True, kw_only=True)
class CanaryShoppers:
    """The canaries' items, and the round in whose training they may take part."""

    task: RoundTask
    site: MadeUpSite
    count: int = field(repr=False)

    @classmethod
    def of(cls, setting: Setting, count: int, seed: int) -> "CanaryShoppers":
        """Made from the seed for the plan of a setting.

        Raises:
            InvalidInputError: the plan's rank does not fit any catalogue.
        """
        plan, rng = setting.plan, np.random.default_rng([seed, 2])
        encoder = made_encoder(plan, _WORDS, seed)
        dim = tower_dim(plan) if encoder is None else encoder.dim
        negatives = unit_rows(max(_NEGATIVES, 2 * dim), dim, rng)
        if encoder is None:
            task = first_task(plan, negatives, site_of(negatives))
            site = site_of(_mirrored(task, count, rng))
        else:
            site = _same_texts(plan, encoder, count, rng)
            task = first_task(plan, negatives, site)
        return cls(task=task, site=site, count=count)

    def release(self, was_in: npt.NDArray[np.bool_], seed: int) -> Movement:
        """What all rounds release, added up, if these canaries are in."""
        site = self.site.with_shoppers(shoppers_of(was_in.tolist(), self.task.plan.privacy.unit))
        task, total = self.task, np.zeros(sum(one.size for one in self.task.weights.values()))
        for number in range(task.plan.federation.rounds):
            movement = released_by_site(task, site, seeded(seed, "shoppers", number))
            total += movement
            task = replace(task, weights=moved(task.weights, movement))
        return total

    def scores(self, release: Movement) -> npt.NDArray[np.float64]:
        """How much a release looks as if each canary had been in, ``(canaries,)``."""
        with learner_of(self.task, self.site) as learner:
            if self.count * release.size > _MOST_NUMBERS:
                return np.array([-float(one @ release) for one in self._gradients(learner)])
            rows = np.stack([one.astype(np.float32) for one in self._gradients(learner)])
        return decoded(rows, release, NOISE_PER_STEP * self.task.plan.privacy.clip_norm)

    def _gradients(self, learner: Learner) -> Iterator[npt.NDArray[np.float64]]:
        """Each canary's clipped gradient at the beginning."""
        losses = learner.losses(np.asarray(self.task.public[NEGATIVES], np.float32))
        clip_norm = self.task.plan.privacy.clip_norm
        with learner.gradients() as gradients:
            for canary in range(self.count):
                check_wanted()
                items = canary_items(canary)
                alone = [Sample(history=items[:1], targets=items[1:])]
                yield gradients(lambda one=alone: losses(one), clip_norm).numpy()  # type: ignore[misc]


def decoded(rows: Floats, release: Movement, noise: float) -> npt.NDArray[np.float64]:
    """The best linear guess of who was in, where canaries have much in common.

    The release is taken for a multiple of the sum of the rows that are in, each with probability
    1/2, plus noise; the multiple is read off what all rows have in common. It is only an attack: a
    wrong guess of any of these makes it weaker and nothing else.

    Args:
        rows: the canaries' gradients, ``(canaries, numbers)``.
        release: what moved against them, ``(numbers,)``.
        noise: standard deviation of the noise, in the unit of the rows.
    """
    against = -release.astype(np.float32)
    expected = 0.5 * rows.sum(axis=0)
    scale = float(against @ expected) / max(float(expected @ expected), 1e-30)
    rest = np.asarray(rows @ (against - scale * expected), np.float64)
    spread = 0.25 * (rows @ rows.T).astype(np.float64)
    spread[np.diag_indices(len(rows))] += noise**2
    found = np.asarray(np.linalg.solve(spread, rest), np.float64)
    return found if scale > 0 else -found


def _mirrored(task: RoundTask, count: int, rng: np.random.Generator) -> Floats:
    """A random vector among the tower's directions and its mirror image, for each canary."""
    plan, center, basis = task.plan, task.public[CENTER], task.public[BASIS]
    length = max(_QUIETEST, (LOUDNESS * plan.privacy.clip_norm * plan.training.temperature) ** 0.5)
    away = length * unit_rows(count, basis.shape[1], rng) @ basis.T
    pairs = np.stack([center + away, center - away], axis=1)
    return np.asarray(pairs.reshape(2 * count, -1), np.float32)


def _same_texts(
    plan: RunPlan, encoder: Encoder, count: int, rng: np.random.Generator
) -> MadeUpSite:
    """A text of its own for each canary, and a loud vector that is far from what it says now."""
    texts = [" ".join(rng.choice(_WORDS, _WORDS_OF_ONE)) for _ in range(count)]
    length = max(_QUIETEST, 10.0 * LOUDNESS * plan.privacy.clip_norm * plan.training.temperature)
    rows = length * unit_rows(count, encoder.dim, rng)
    near = np.einsum("nd,nd->n", rows, encoder.embed_texts(texts)) > 0.0
    away = np.where(near[:, None], -rows, rows)
    return site_of(
        np.repeat(away, 2, axis=0).astype(np.float32),
        tuple(text for text in texts for _ in range(2)),
        encoder,
    )
