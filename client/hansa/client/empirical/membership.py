"""A black-box attack on a model that the plan trained on made-up shoppers: a smoke test.

Who was in the training? The attack sees the model before and after, and guesses those whose loss
fell most. A weak attack that finds nothing shows nothing; one that tells members apart better than
the claim allows would show a fault.

References:
    Yeom et al., "Privacy risk in machine learning", arXiv:1709.01604 (the loss attack).
    Hanley and McNeil, Radiology 143 (1982), 29-36 (the interval of the area under the curve).
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta, rankdata  # type: ignore[import-untyped]

from hansa.client.empirical.attacked import MadeUpSite, moved, released_by_site, seeded, site_of
from hansa.client.empirical.setting import changed, few_shares
from hansa.client.empirical.world import first_task, learner_of, made_encoder, tower_dim, unit_rows
from hansa.client.interruption import check_wanted
from hansa.client.training.round_task import RoundTask
from hansa.client.training.samples import MIN_ITEMS, Integers, Sample
from hansa.client.virtual.synthetic import catalogue, shop
from hansa.core.empirical import MembershipInference
from hansa.core.models.shapes import NEGATIVES
from hansa.core.models.tower import Floats
from hansa.core.plan import RunPlan
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.plan import PrivacyPlan

NON_MEMBERS: Final = 1000
FEWEST_MEMBERS, MOST_MEMBERS = 20, 400
MOST_STEPS: Final = {"tower": 100}
MOST_STEPS_WITHIN_ENCODERS: Final = 20
FALSE_POSITIVES: Final = 0.01

_OWN: Final = 0.5
"""How much of an item's vector is nobody else's."""
_Z: Final = 1.959964
_ERROR: Final = 0.05
_LARGEST_EPSILON: Final = 1e6

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Shoppers of one distribution, half of whom nobody trains on."""

    members: tuple[Integers, ...] = field(repr=False)
    others: tuple[Integers, ...] = field(repr=False)


def infer_membership(plan: RunPlan, seed: int) -> MembershipInference:
    """Trains under the plan's own noise, and attacks the result.

    Where the plan's steps or shoppers are too many for a smoke test, fewer are taken; the claim is
    the one for those.

    Raises:
        InvalidInputError: the plan cannot be trained.
    """
    small, members = smaller(plan)
    task, site, crowd = _world(small, members, seed)
    before = _losses(task, site, [*crowd.members, *crowd.others])
    after = _losses(
        _trained(task, site, crowd.members, seed), site, [*crowd.members, *crowd.others]
    )
    scores = before - after
    privacy = PrivacyPlan.of(small)
    claim = min(epsilon_reference(privacy.training_events(), privacy.delta), _LARGEST_EPSILON)
    steps = privacy.local_steps * privacy.rounds
    return judged(scores[:members], scores[members:], claim, privacy.delta, steps)


def smaller(plan: RunPlan) -> tuple[RunPlan, int]:
    """The plan with as many steps as a smoke test has time for, and how many members it has.

    As many members as the plan's public constants stand for, within limits; beyond these the
    divisor follows.
    """
    privacy = plan.privacy
    bands = None if privacy.banded_noise is None else privacy.banded_noise.bands
    share = privacy.sampling_rate if bands is None else 1.0 / bands
    members = round(min(max(privacy.expected_shoppers / share, FEWEST_MEMBERS), MOST_MEMBERS))
    most = MOST_STEPS.get(plan.training.trains, MOST_STEPS_WITHIN_ENCODERS)
    steps = max(min(plan.training.local_steps, most), bands or 1)
    federation: dict[str, Any] = {"rounds": max(1, min(plan.federation.rounds, most // steps))}
    if privacy.distributed_noise is not None:
        federation |= few_shares(plan, privacy.noise_multiplier)
    return (
        changed(
            plan,
            privacy={"expected_shoppers": max(1, round(members * share))},
            training={"local_steps": steps, "devices": 1},
            federation=federation,
        ),
        members,
    )


def judged(
    members: Scores, others: Scores, claim: float, delta: float, steps: int
) -> MembershipInference:
    """What scores say: members are guessed where they are high."""
    caught, false = _at_one_percent(members, others)
    auc = _area(members, others)
    error = _area_error(auc, len(members), len(others))
    tpr_low, tpr_high = _interval(caught, len(members))
    most_false = _interval(false, len(others))[1]
    return MembershipInference(
        members=len(members),
        non_members=len(others),
        steps=steps,
        auc=auc,
        auc_low=max(0.0, auc - _Z * error),
        auc_high=min(1.0, auc + _Z * error),
        tpr_at_1_percent_fpr=caught / len(members),
        tpr_low=tpr_low,
        tpr_high=tpr_high,
        claimed_epsilon=claim,
        tpr_allowed=min(1.0, math.exp(min(claim, 100.0)) * most_false + delta),
    )


def _world(plan: RunPlan, members: int, seed: int) -> tuple[RoundTask, MadeUpSite, Crowd]:
    rng = np.random.default_rng([seed, 3])
    titles = tuple(item.title for item in catalogue())
    words = sorted({word for title in titles for word in title.split()})
    encoder = made_encoder(plan, words, seed)
    vectors = _vectors(titles, words, tower_dim(plan), rng)
    if encoder is not None:
        vectors = encoder.embed_texts(titles)
    site = site_of(vectors, titles, encoder)
    return first_task(plan, vectors, site), site, _crowd(members, rng)


def _vectors(
    titles: tuple[str, ...], words: list[str], dim: int, rng: np.random.Generator
) -> Floats:
    """Alike for items with the same words, and a little of each one's own."""
    of_word = dict(zip(words, unit_rows(len(words), dim, rng), strict=True))
    sums = np.array([sum(of_word[word] for word in title.split()) for title in titles])
    mixed = sums + _OWN * unit_rows(len(titles), dim, rng)
    return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)


def _crowd(members: int, rng: np.random.Generator) -> Crowd:
    """Shoppers of several made-up shops in a random order, so that members are like the others."""
    items, everybody = catalogue(), list[Integers]()
    while len(everybody) < members + NON_MEMBERS:
        everybody += [np.unique(one) for one in shop(items, rng)]
    drawn = [everybody[place] for place in rng.permutation(len(everybody))]
    return Crowd(
        members=tuple(drawn[:members]), others=tuple(drawn[members : members + NON_MEMBERS])
    )


def _trained(
    task: RoundTask, site: MadeUpSite, members: tuple[Integers, ...], seed: int
) -> RoundTask:
    """The model after all rounds, with the members as the only merchant's shoppers."""
    shops = site.with_shoppers(members)
    for number in range(task.plan.federation.rounds):
        movement = released_by_site(task, shops, seeded(seed, "membership", number))
        task = dataclasses.replace(task, weights=moved(task.weights, movement))
    return task


def _losses(task: RoundTask, site: MadeUpSite, shoppers: list[Integers]) -> Scores:
    """Each shopper's loss, the mean over two ways to split what it bought."""
    with learner_of(task, site) as learner, torch.no_grad():
        losses = learner.losses(np.asarray(task.public[NEGATIVES], np.float32))
        found, entropy = np.zeros(len(shoppers)), seeded(0, "shown")
        for turn in (0, 1):
            samples = [learner.shown(_split(one, turn), entropy) for one in shoppers]
            for start in range(0, len(samples), learner.part_size):
                check_wanted()
                part = samples[start : start + learner.part_size]
                found[start : start + len(part)] += losses(part).double().numpy() / MIN_ITEMS
    return found


def _split(items: Integers, turn: int) -> Sample:
    return Sample(history=items[turn::2], targets=items[1 - turn :: 2])


def _at_one_percent(members: Scores, others: Scores) -> tuple[int, int]:
    """Members and others above the score that 1 % of the others exceed."""
    allowed = int(FALSE_POSITIVES * len(others))
    threshold = np.sort(others)[len(others) - allowed - 1]
    return int((members > threshold).sum()), int((others > threshold).sum())


def _area(members: Scores, others: Scores) -> float:
    """The chance that a member scores higher than another shopper; ties count half."""
    ranks = rankdata(np.concatenate([members, others]))
    above = ranks[: len(members)].sum() - len(members) * (len(members) + 1) / 2
    return float(above / (len(members) * len(others)))


def _area_error(auc: float, members: int, others: int) -> float:
    """Standard error of the area by Hanley and McNeil."""
    first, second = auc / (2.0 - auc), 2.0 * auc**2 / (1.0 + auc)
    spread = auc * (1.0 - auc)
    spread += (members - 1) * (first - auc**2) + (others - 1) * (second - auc**2)
    return math.sqrt(max(0.0, spread) / (members * others))


def _interval(hits: int, count: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share."""
    low = 0.0 if hits == 0 else float(beta.ppf(_ERROR / 2, hits, count - hits + 1))
    high = 1.0 if hits == count else float(beta.ppf(1 - _ERROR / 2, hits + 1, count - hits))
    return low, high
