"""What one step sees: some shoppers, each with a part of its items to predict from the rest.

All draws come from the cryptographic source that is handed in, and all of this is private.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import Entropy, choose_records
from hansa.core.privacy.plan import PrivacyPlan

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MIN_ITEMS = 2
"""A shopper with fewer items has nothing to predict and contributes zero."""


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
    """One shopper in one step."""

    history: Integers = field(repr=False)
    """A random half of its items, rounded down."""
    targets: Integers = field(repr=False)
    """At most k of the other half: the shopper's records."""


def draw_samples(
    shoppers: Sequence[Integers], privacy: PrivacyPlan, entropy: Entropy
) -> list[Sample]:
    """The shoppers of one step, by Poisson sampling; possibly none."""
    chosen = privacy.sample_shoppers(len(shoppers), entropy)
    return [
        _sample(shoppers[place], privacy, entropy)
        for place in chosen
        if len(shoppers[place]) >= MIN_ITEMS
    ]


def draw_negatives(negatives: Floats, count: int, entropy: Entropy) -> Floats:
    """At most ``count`` public items, uniformly, independent of all private data."""
    return negatives[choose_records(len(negatives), count, entropy)]


def _sample(items: Integers, privacy: PrivacyPlan, entropy: Entropy) -> Sample:
    first = choose_records(len(items), len(items) // 2, entropy)
    rest = np.delete(items, first)
    return Sample(history=items[first], targets=rest[privacy.sample_records(len(rest), entropy)])
