"""The folder that all virtual merchants of a simulation share: one catalogue, all purchases.

A thousand sites of their own would each ingest, check and embed the same catalogue. Here it lies
once, purchases are three flat arrays, and every process maps them into its memory.
"""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hansa.client.virtual.split import Split, deal, read_pool
from hansa.client.virtual.synthetic import DEPARTMENTS, Integers, catalogue, shop
from hansa.core.catalogue import Item, parse_item
from hansa.core.errors import InvalidInputError
from hansa.core.storage import write_atomically

CATALOGUE = "catalogue.csv"
EMBEDDINGS = "embeddings.npy"
"""Of the catalogue's items in its order, ``(items, dim)``, float32; whoever simulates makes it."""
_ITEMS, _SHOPPERS, _MERCHANTS = "items.npy", "shoppers.npy", "merchants.npy"
_SEPARATOR = " > "
_COLUMNS = ("item_id", "title", "category_path")

Row = tuple[str, str, tuple[str, ...]]
"""Item id, title, category path."""


@dataclass(frozen=True, kw_only=True)
class Market:
    """Every virtual merchant's shoppers over one catalogue."""

    items: tuple[Item, ...]
    bought: npt.NDArray[np.int32] = field(repr=False)
    """Places in ``items``; shopper ``i`` bought ``bought[shoppers[i]:shoppers[i + 1]]``."""
    shoppers: Integers = field(repr=False)
    merchants: Integers = field(repr=False)
    """Merchant ``m`` has the shoppers from ``merchants[m]`` to before ``merchants[m + 1]``."""

    @staticmethod
    def open(folder: Path) -> "Market":
        """The market that ``prepare`` left in a folder.

        Raises:
            InvalidInputError: the folder holds none.
        """
        try:
            with (folder / CATALOGUE).open(encoding="utf-8", newline="") as file:
                items = tuple(_item(row) for row in csv.DictReader(file))
            arrays = [
                np.load(folder / name, mmap_mode="r") for name in (_ITEMS, _SHOPPERS, _MERCHANTS)
            ]
        except (OSError, ValueError, KeyError) as error:
            raise InvalidInputError(f"{folder} holds no virtual market: {error}") from error
        return Market(items=items, bought=arrays[0], shoppers=arrays[1], merchants=arrays[2])

    def shoppers_of(self, merchant: int) -> list[tuple[str, list[int]]]:
        """A pseudonym and the purchases, oldest first, of each shopper of a merchant."""
        return [
            (
                f"virtual-{number}",
                self.bought[self.shoppers[number] : self.shoppers[number + 1]].tolist(),
            )
            for number in range(int(self.merchants[merchant]), int(self.merchants[merchant + 1]))
        ]


def prepare(
    folder: str, merchants: int, seed: int, data: str | None, split: Split
) -> dict[str, int | str]:
    """Writes the catalogue and the shoppers of virtual merchants into a folder.

    Args:
        folder: empty, or a folder that an earlier call wrote.
        merchants: how many there are to be.
        seed: public; the same arguments give the same shops.
        data: exports or a site whose shoppers are dealt out; none: synthetic shops.
        split: how they are dealt out, see ``hansa.client.virtual.split.deal``.

    Returns:
        What was made, for the report.

    Raises:
        InvalidInputError: the data cannot be used, or hold fewer shoppers than merchants.
    """
    rng = np.random.default_rng(seed)
    if data is None:
        synthetic = catalogue()
        departments = list(DEPARTMENTS)
        rows: list[Row] = [
            (f"s{place}", item.title, (departments[item.department],))
            for place, item in enumerate(synthetic)
        ]
        dealt = [shop(synthetic, rng) for _ in range(merchants)]
    else:
        pool = read_pool(Path(data), seed)
        rows = [(item.item_id, item.title, item.category_path) for item in pool.items]
        dealt = deal(pool, merchants, split, rng)
    _write(Path(folder), rows, dealt)
    return {
        "source": "synthetic" if data is None else f"{data}, dealt out by {split}",
        "items": len(rows),
        "shoppers": sum(len(shoppers) for shoppers in dealt),
    }


def _write(folder: Path, rows: list[Row], dealt: list[list[Integers]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for place, (_, title, categories) in enumerate(rows):
        # Two shops may use one id for different items, and a name may hold the separator.
        path = _SEPARATOR.join(name.replace(">", "/") for name in categories)
        writer.writerow((f"item-{place}", title, path))
    write_atomically(folder / CATALOGUE, text.getvalue().encode())
    everybody = [bought for shoppers in dealt for bought in shoppers]
    _save(folder / _ITEMS, np.concatenate(everybody).astype(np.int32))
    _save(folder / _SHOPPERS, _pointers([len(bought) for bought in everybody]))
    _save(folder / _MERCHANTS, _pointers([len(shoppers) for shoppers in dealt]))


def _pointers(lengths: list[int]) -> Integers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _save(path: Path, array: npt.NDArray[np.generic]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def _item(row: dict[str, str]) -> Item:
    parts = [part.strip() for part in row["category_path"].split(_SEPARATOR.strip())]
    return parse_item(
        {
            "item_id": row["item_id"],
            "title": row["title"],
            "category_path": [part for part in parts if part],
        }
    )
