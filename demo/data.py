#!/usr/bin/env python3
"""Real purchases of one chain, as the exports of four independent merchants.

A merchant is one store of ``complete_journey`` with the households whose home store it is. Only
their baskets there are kept: every household is at exactly one merchant.

* Stores are ranked by their number of home households (tie: the smaller store id).
* A merchant's catalogue is all that its store sold that year, to whomever, so that it does not
  depend on one home household's being in the data.
* The column ``brand_kind`` (National, Private) is left unused: it names no brand, and in the
  embedded text it lowered zero-shot nDCG@10 from .195 to .184 (12 other stores, ranks 3 to 16, one
  cold fold).

The exports keep what the real data has wrong (quantity 0, sales value 0, lines that repeat,
products without a type) and carry a few rows that are wrong on purpose, listed in the README.txt
beside them. The same package and library versions give the same bytes.
"""

import argparse
import csv
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from complete_journey import (
    Chain,
    ProductType,
    home_stores,
    ranked_stores,
    read_chain,
    read_tables,
)

DEFAULT_RANKS = (1, 21, 22, 83)
"""The largest store, the next two below half its size, and the next below a quarter of it.

With 61, 30, 29 and 15 home households: one large shop, two middle ones, one small one.
"""
NAMES = ("harbour", "market", "station", "village")

FileKind = Literal["csv", "semicolon", "parquet"]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """How one merchant exports."""

    name: str
    rank: int
    catalogue: FileKind
    events: FileKind
    mapping: Mapping[str, str] = field(default_factory=dict)
    """Hansa's field to the merchant's column, where they differ; as in ``--map``."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was written for one merchant."""

    name: str
    store_id: int
    items: int
    events: int
    households: int
    baskets: int
    baskets_elsewhere: int
    """Baskets of the same households at other stores, which were left out."""


_STYLES: tuple[tuple[FileKind, FileKind, dict[str, str]], ...] = (
    ("csv", "csv", {}),
    ("parquet", "parquet", {}),
    (
        "semicolon",
        "parquet",
        {"item_id": "sku", "title": "name", "events.shopper_id": "card", "category_path": "group"},
    ),
    ("parquet", "csv", {"events.time": "sold_at"}),
)


def shops(ranks: Sequence[int] = DEFAULT_RANKS) -> tuple[Shop, ...]:
    """The merchants of the given ranks, with the four ways of exporting in turn."""
    made = []
    for place, rank in enumerate(ranks):
        catalogue, events, mapping = _STYLES[place % len(_STYLES)]
        name = NAMES[place] if place < len(NAMES) else f"shop-{place + 1}"
        made.append(Shop(name=name, rank=rank, catalogue=catalogue, events=events, mapping=mapping))
    return tuple(made)


def build(
    folder: Path, products: pa.Table, transactions: pa.Table, merchants: Sequence[Shop]
) -> tuple[Summary, ...]:
    """Writes every merchant's exports, the public catalogue and ``merchants.json``.

    Raises:
        IndexError: a rank is larger than the number of stores.
    """
    chain = read_chain(products, transactions)
    homes = home_stores(chain)
    ranked = ranked_stores(homes)
    public = [_public_row(item) for item in chain.types]
    _write(folder / "public_catalogue.csv", "csv", public)
    summaries, listed = [], []
    for shop in merchants:
        store = ranked[shop.rank - 1]
        listed.append(_write_shop(folder, chain, homes, shop, store))
        summaries.append(_summary(chain, homes, shop, store))
    text = json.dumps({"merchants": listed, "public_catalogue": "public_catalogue.csv"}, indent=2)
    (folder / "merchants.json").write_text(text + "\n", encoding="utf-8")
    return tuple(summaries)


def _write_shop(
    folder: Path, chain: Chain, homes: Mapping[int, int], shop: Shop, store: int
) -> Row:
    catalogue, wrong_items = _with_wrong_items(_catalogue_rows(chain, store))
    lines = _home_lines(chain, homes, store)
    events, wrong_events = _with_wrong_events(_event_rows(chain, lines))
    suffix = {"csv": "csv", "semicolon": "csv", "parquet": "parquet"}
    files = {
        "catalogue": f"{shop.name}/catalogue.{suffix[shop.catalogue]}",
        "events": f"{shop.name}/events.{suffix[shop.events]}",
    }
    _write(folder / files["catalogue"], shop.catalogue, _renamed(catalogue, "catalogue", shop))
    _write(folder / files["events"], shop.events, _renamed(events, "events", shop))
    if shop.events == "csv":
        with (folder / files["events"]).open("a", encoding="utf-8") as file:
            file.write("this line was cut\n")
        wrong_events.append("the last line is cut off (unreadable row)")
    readme = _readme(shop, wrong_items, wrong_events)
    (folder / shop.name / "README.txt").write_text(readme, encoding="utf-8")
    return {"name": shop.name, "store_id": store, **files, "mapping": dict(shop.mapping)}


def _home_lines(chain: Chain, homes: Mapping[int, int], store: int) -> npt.NDArray[np.int64]:
    members = np.array([house for house, home in homes.items() if home == store], np.int64)
    lines = np.flatnonzero((chain.store == store) & np.isin(chain.household, members))
    order = np.lexsort((chain.product[lines], chain.basket[lines], chain.time[lines]))
    return np.asarray(lines[order], np.int64)


def _catalogue_rows(chain: Chain, store: int) -> list[Row]:
    sold = np.unique(chain.type[chain.store == store])
    return [_catalogue_row(chain.types[place]) for place in sold.tolist() if place >= 0]


def _catalogue_row(item: ProductType) -> Row:
    """As a web shop exports: names escaped, a description in HTML, a contact that is not needed."""
    department = html.escape(item.category_path[0])
    return {
        "item_id": item.item_id,
        "title": html.escape(item.title),
        "description": f"<p>{html.escape(item.title)}<br>Find it in <b>{department}</b>.</p>",
        "brand_kind": item.brand,
        "category_path": [html.escape(name) for name in item.category_path],
        "price": item.price,
        "currency": "USD",
        "available": True,
        "supplier_contact": "orders@supplier.example",
    }


def _public_row(item: ProductType) -> Row:
    return {
        "item_id": item.item_id,
        "title": item.title,
        "category_path": list(item.category_path),
    }


def _event_rows(chain: Chain, lines: npt.NDArray[np.int64]) -> list[Row]:
    return [_event_row(chain, line) for line in lines.tolist()]


def _event_row(chain: Chain, line: int) -> Row:
    place, quantity = int(chain.type[line]), int(chain.quantity[line])
    unit = float(chain.value[line]) / quantity if quantity else 0.0
    return {
        "shopper_id": str(chain.household[line]),
        "time": int(chain.time[line]),
        "kind": "purchase",
        "item_id": chain.types[place].item_id if place >= 0 else f"x{chain.product[line]}",
        "session_id": str(chain.basket[line]),
        "quantity": quantity,
        "price": round(unit, 4),
    }


def _with_wrong_items(rows: list[Row]) -> tuple[list[Row], list[str]]:
    first = rows[0]
    wrong: dict[str, Row] = {
        "one title is only a tag (empty title)": {"item_id": "wrong-1", "title": "<br/>"},
        "one title has 600 letters (text too long)": {"item_id": "wrong-2", "title": "x" * 600},
        "one price is -1 (impossible price)": {"item_id": "wrong-3", "price": -1.0},
        "one row has no item id (missing id)": {"item_id": ""},
        "one row repeats the first item (item id seen before)": {},
    }
    return [*rows, *({**first, **change} for change in wrong.values())], list(wrong)


def _with_wrong_events(rows: list[Row]) -> tuple[list[Row], list[str]]:
    first, year = rows[0], 31_556_952_000_000
    wrong: dict[str, Row] = {
        "one event lies in the year 2099 (impossible time)": {"time": 129 * year + year // 2},
        "one event lies in 1970 (impossible time)": {"time": 0},
        "one event is of the kind 'purchse' (unknown kind)": {"kind": "purchse"},
        "one event is of an item that is not sold (unknown item)": {"item_id": "discontinued"},
        "one event has no shopper id (missing id)": {"shopper_id": ""},
        "one event has the quantity -1 (impossible quantity)": {"quantity": -1},
        "one event repeats the first (event seen before)": {},
    }
    return [*rows, *({**first, **change} for change in wrong.values())], list(wrong)


def _renamed(rows: list[Row], source: str, shop: Shop) -> list[Row]:
    names = {
        name: shop.mapping.get(f"{source}.{name}", shop.mapping.get(name, name)) for name in rows[0]
    }
    return [{names[name]: value for name, value in row.items()} for row in rows]


def _write(path: Path, kind: FileKind, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        pq.write_table(_typed(pa.Table.from_pylist(rows)), path, compression="zstd")
        return
    encoding, delimiter = ("utf-8-sig", ";") if kind == "semicolon" else ("utf-8", ",")
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_cell(name, value) for name, value in row.items()] for row in rows)


def _typed(table: pa.Table) -> pa.Table:
    for place, name in enumerate(table.column_names):
        if name in ("time", "sold_at"):
            table = table.set_column(place, name, table[name].cast(pa.timestamp("us")))
    return table


def _cell(name: str, value: Any) -> str:
    match value:
        case None:
            return ""
        case list():
            return " > ".join(value)
        case int() if name in ("time", "sold_at"):
            return str(np.datetime64(value, "us").astype("datetime64[s]"))
        case _:
            return str(value)


def _readme(shop: Shop, wrong_items: Sequence[str], wrong_events: Sequence[str]) -> str:
    mapping = " ".join(f"--map {ours}={theirs}" for ours, theirs in shop.mapping.items())
    lines = [
        f"The exports of the merchant '{shop.name}', made from The Complete Journey (84.51).",
        f"Ingest them with the mapping: {mapping or '(none is needed)'}",
        "",
        "Wrong in the real data, and kept: quantity 0, sales value 0, products without a type,",
        "lines of one receipt that do not differ. Names are escaped as in a web shop's export.",
        "",
        "Wrong on purpose, at the end of the files (copies of the first row with one change):",
        *(f"* catalogue: {sentence}" for sentence in wrong_items),
        *(f"* events: {sentence}" for sentence in wrong_events),
        "* catalogue: the column supplier_contact holds an e-mail address (personal data)",
    ]
    return "\n".join(lines) + "\n"


def _summary(chain: Chain, homes: Mapping[int, int], shop: Shop, store: int) -> Summary:
    members = np.array([house for house, home in homes.items() if home == store], np.int64)
    theirs = np.isin(chain.household, members)
    here = theirs & (chain.store == store)
    baskets = len(np.unique(chain.basket[here]))
    return Summary(
        name=shop.name,
        store_id=store,
        items=int(np.sum(np.unique(chain.type[chain.store == store]) >= 0)),
        events=int(here.sum()),
        households=len(members),
        baskets=baskets,
        baskets_elsewhere=len(np.unique(chain.basket[theirs])) - baskets,
    )


def main(arguments: Sequence[str] | None = None) -> tuple[Summary, ...]:
    """The command line: ``python demo/data.py OUT_DIR --stores 4``."""
    parser = argparse.ArgumentParser(description="Write the demo merchants' exports.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stores", type=int, default=len(DEFAULT_RANKS), choices=range(1, 5))
    parser.add_argument("--ranks", type=int, nargs="+", help="instead of --stores: stores by size")
    options = parser.parse_args(arguments)
    ranks = options.ranks or DEFAULT_RANKS[: options.stores]
    return build(options.folder, *read_tables(), shops(ranks))


if __name__ == "__main__":
    main()
