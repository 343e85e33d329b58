"""The operator's own or public data, dealt out to virtual merchants.

Two sources are read: a folder of exports as ``demo/data.py`` writes it (``merchants.json`` beside
one folder a merchant), or the folder of a site that has ingested. All shoppers are put together and
then divided, each to exactly one virtual merchant.
"""

import datetime as dt
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hansa.client.dataset import MANIFEST, Dataset, ingest
from hansa.client.ingest.pseudonyms import KEY_BYTES, PseudonymKey
from hansa.client.virtual.entropy import SeededEntropy
from hansa.client.virtual.synthetic import Integers
from hansa.core.catalogue import Item
from hansa.core.errors import InvalidInputError

Split = Literal["category", "size"]

_CONCENTRATION = 0.3
"""Of the Dirichlet distributions: the smaller, the more merchants differ."""
_LISTING = "merchants.json"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All shoppers of a source, and all items that any of its merchants sells."""

    items: tuple[Item, ...]
    shoppers: tuple[Integers, ...] = field(repr=False)
    """What each bought, as places in ``items``, oldest first."""


def read_pool(folder: Path, seed: int) -> Pool:
    """The shoppers of a folder of exports or of a site.

    Raises:
        InvalidInputError: the folder is neither, or holds no shoppers.
    """
    if (folder / _LISTING).is_file():
        datasets = _exports(folder, seed)
    elif (folder / "dataset" / MANIFEST).is_file():
        datasets = [Dataset.load(folder / "dataset")]
    else:
        raise InvalidInputError(
            f"{folder} holds neither exports ({_LISTING}) nor an ingested site; name another "
            "folder with --data or leave it out for synthetic shops"
        )
    pool = _pooled(datasets)
    if not pool.shoppers:
        raise InvalidInputError(f"{folder} holds no shopper who bought anything")
    return pool


def deal(
    pool: Pool, merchants: int, split: Split, rng: np.random.Generator
) -> list[list[Integers]]:
    """Every virtual merchant's shoppers; each merchant has one at least.

    ``size``: the merchants' shares of all shoppers are one Dirichlet draw. ``category``: there is
    a draw for each top category, and it divides the shoppers who bought most in that category.

    Raises:
        InvalidInputError: there are fewer shoppers than merchants.
    """
    count = len(pool.shoppers)
    if count < merchants:
        raise InvalidInputError(
            f"{count} shoppers cannot be divided among {merchants} merchants; simulate fewer"
        )
    groups = np.zeros(count, np.int64) if split == "size" else _main_categories(pool)
    shares = {
        int(group): rng.dirichlet(np.full(merchants, _CONCENTRATION)) for group in np.unique(groups)
    }
    dealt: list[list[Integers]] = [[] for _ in range(merchants)]
    for turn, shopper in enumerate(rng.permutation(count).tolist()):
        one = turn if turn < merchants else rng.choice(merchants, p=shares[int(groups[shopper])])
        dealt[int(one)].append(pool.shoppers[shopper])
    return dealt


def _exports(folder: Path, seed: int) -> list[Dataset]:
    key = PseudonymKey(secret=SeededEntropy(seed, "pseudonyms").random_bytes(KEY_BYTES))
    try:
        listed: list[dict[str, Any]] = json.loads((folder / _LISTING).read_text())["merchants"]
        found = [
            (folder / one["catalogue"], folder / one["events"], dict(one.get("mapping", {})))
            for one in listed
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{folder / _LISTING} does not list exports: {error}") from error
    datasets = []
    with tempfile.TemporaryDirectory() as scratch:
        for place, (catalogue, events, mapping) in enumerate(found):
            site = Path(scratch) / str(place)
            ingest(catalogue, events, site, mapping, dt.datetime.now(dt.UTC), key)
            datasets.append(Dataset.load(site))
    return datasets


def _pooled(datasets: list[Dataset]) -> Pool:
    """Items with the same text are one item, as in a federation."""
    places: dict[str, int] = {}
    items: list[Item] = []
    shoppers: list[Integers] = []
    for dataset in datasets:
        own = []
        for item in dataset.items:
            if item.key not in places:
                places[item.key] = len(items)
                items.append(item)
            own.append(places[item.key])
        moved = np.array(own, np.int64)
        shoppers += [moved[list(bought)] for _, bought in dataset.shoppers() if bought]
    return Pool(items=tuple(items), shoppers=tuple(shoppers))


def _main_categories(pool: Pool) -> Integers:
    names = [item.category_path[0] if item.category_path else "" for item in pool.items]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    of_item = [numbers[name] for name in names]
    return np.array(
        [
            Counter(of_item[item] for item in bought.tolist()).most_common(1)[0][0]
            for bought in pool.shoppers
        ],
        np.int64,
    )
