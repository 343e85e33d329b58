"""From a shop's purchases to what may be trained on and what is kept aside to judge it.

* An item is **cold** by a public hash of its key, so all merchants agree: no training sees it, not
  even inside a history. The cold items are what recommendations of new products are judged on.
* A shopper is **held out** by a hash of its pseudonym: it is only judged on, never trained on.

Both rules look at one item or one shopper alone, so that adding or removing a shopper changes
nothing for the others. Everything here is private and stays on the site.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hansa.core.cold import is_cold, is_held_out
from hansa.core.plan import TaskSpec

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One held-out shopper: what it bought of the known items, and the cold ones to find."""

    history: Integers = field(repr=False)
    """Distinct known items, ascending."""
    targets: Integers = field(repr=False)
    """Distinct cold items, ascending; never empty."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A shop's data, split by the task's rules; items are places in the shop's catalogue."""

    known: Integers
    """The catalogue's items that may be trained on, ascending."""
    cold: Integers
    """The catalogue's other items, ascending: the candidates of the full ranking."""
    training: tuple[Integers, ...] = field(repr=False)
    """The distinct known items of each training shopper, ascending."""
    cases: tuple[Case, ...] = field(repr=False)


def known_items(keys: Sequence[str], task: TaskSpec) -> Integers:
    """The places of the items that may be trained on, ascending; negatives are drawn from these."""
    return np.flatnonzero([not is_cold(key, task) for key in keys])


def make_examples(
    shoppers: Iterable[tuple[str, Sequence[int]]], keys: Sequence[str], task: TaskSpec
) -> Examples:
    """Splits a data set by the task's rules.

    Args:
        shoppers: each shopper's pseudonym and the places of what it bought, repetitions allowed;
            ``Dataset.shoppers()``.
        keys: the public key of every item of the shop's catalogue, by place; ``Item.key``.
        task: the plan's rules.
    """
    cold = np.array([is_cold(key, task) for key in keys], np.bool_)
    training, cases = [], []
    for pseudonym, bought in shoppers:
        items = np.unique(np.asarray(bought, np.int64))
        known, targets = items[~cold[items]], items[cold[items]]
        if len(known) < task.min_history_items:
            continue
        if not is_held_out(pseudonym, task):
            training.append(known)
        elif len(targets):
            cases.append(Case(history=known, targets=targets))
    return Examples(
        known=np.flatnonzero(~cold),
        cold=np.flatnonzero(cold),
        training=tuple(training),
        cases=tuple(cases),
    )
