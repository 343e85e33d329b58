"""What one step sees: some units, each with a part of its items to predict from the rest.

A unit is what the plan protects. For ``shopper`` it is all that one shopper bought. For ``record``
it is one purchase, and then no loss may hang on two purchases whose presence is protected singly,
or the sensitivity would be more than the clip norm. So each shopper has ``records_per_shopper``
slots, a public hash that is drawn anew for each round puts each of its items into one of them, and
a slot contributes when it holds exactly two: one is predicted from the other. A purchase more or
less then makes one slot contribute or not, and changes nothing else: the clipped sum moves by at
most the clip norm, and only when that slot is sampled.

All draws come from the cryptographic source that is handed in, and all of this is private.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import Entropy, choose_records
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.privacy.sampling import UnitSampler

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MIN_ITEMS = 2
"""A unit with fewer items has nothing to predict and contributes zero."""

_PAIR = 2


@dataclass(frozen=True, kw_only=True)
class ShopData:
    """What training may read."""

    shoppers: tuple[Integers, ...] = field(repr=False)
    """The distinct known items of each training shopper; ``Examples.training``."""
    embeddings: Floats = field(repr=False)
    """Of all the shop's items, ``(items, dim)``."""
    negatives: Floats = field(repr=False)
    """Of the PUBLIC catalogue's known items, ``(public items, dim)``; never of the shop's sales."""

    def __post_init__(self) -> None:
        """Raises InvalidInputError: the vectors are not finite matrices of one width."""
        for vectors in (self.embeddings, self.negatives):
            if vectors.ndim != 2 or not len(vectors) or not np.isfinite(vectors).all():
                raise InvalidInputError("embeddings must be finite matrices with a row an item")
        if self.embeddings.shape[1] != self.negatives.shape[1]:
            raise InvalidInputError("the shop's and the public embeddings differ in width")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One unit in one step."""

    history: Integers = field(repr=False)
    """A random half of its items, rounded down."""
    targets: Integers = field(repr=False)
    """At most k of the other half: the unit's records."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of one round, and who of them takes part in which step."""

    privacy: PrivacyPlan
    contents: tuple[Integers, ...] = field(repr=False)
    """The items of each unit; those that have too few to predict any contribute zero."""
    sampler: UnitSampler = field(repr=False)

    @classmethod
    def of(cls, data: ShopData, privacy: PrivacyPlan, entropy: Entropy) -> "Units":
        """The units of a shop's data, at the level that the plan protects."""
        contents = data.shoppers
        if privacy.unit == "record":
            contents = tuple(_slots(data.shoppers, privacy.records_per_shopper, entropy))
        return cls(privacy=privacy, contents=contents, sampler=privacy.sampler(entropy))

    def draw(self, step: int, entropy: Entropy) -> list[Sample]:
        """The units of one step of the round, from 0 up; possibly none."""
        return [
            _sample(self.contents[place], self.privacy, entropy)
            for place in self.sampler.sample(len(self.contents), step)
            if len(self.contents[place]) >= MIN_ITEMS
        ]


def draw_negatives(negatives: Floats, count: int, entropy: Entropy) -> Floats:
    """At most ``count`` public items, uniformly, independent of all private data."""
    return negatives[choose_records(len(negatives), count, entropy)]


def _sample(items: Integers, privacy: PrivacyPlan, entropy: Entropy) -> Sample:
    first = choose_records(len(items), len(items) // 2, entropy)
    rest = np.delete(items, first)
    return Sample(history=items[first], targets=rest[privacy.sample_records(len(rest), entropy)])


def _slots(shoppers: Sequence[Integers], count: int, entropy: Entropy) -> Iterator[Integers]:
    """For each shopper so many slots, each with two items or none."""
    salt = np.frombuffer(entropy.random_bytes(8), dtype="<u8").astype(np.uint64)
    for items in shoppers:
        place = _mixed(items.astype(np.uint64) ^ salt) % np.uint64(count)
        for slot in range(count):
            held = items[place == slot]
            yield held if len(held) == _PAIR else held[:0]


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64: each bit of the input moves half of the output's."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words ^ (words >> np.uint64(31))
