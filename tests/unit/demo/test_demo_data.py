"""The rules of the demo's exports, on a chain of four stores and six households."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hansa.client.dataset import Dataset, ingest
from hansa.client.ingest.cleaning import Reason, clean_item
from hansa.client.ingest.columns import resolve_columns
from hansa.client.ingest.pseudonyms import PseudonymKey
from hansa.client.ingest.reader import Export
from hansa.client.ingest.report import QualityReport

sys.path.insert(0, str(Path(__file__).parents[3] / "demo"))
import complete_journey
import data

Row = dict[str, Any]
Built = tuple[Path, tuple[data.Summary, ...]]

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KEY = PseudonymKey(secret=bytes(32))

PRODUCTS = pa.Table.from_pylist(
    [
        {
            "product_id": number,
            "department": department,
            "brand": brand,
            "product_category": category,
            "product_type": kind,
        }
        for number, department, brand, category, kind in [
            (1, "GROCERY", "National", "FRZN PIZZA", "PIZZA/PREMIUM"),
            (2, "GROCERY", "Private", "FRZN PIZZA", "PIZZA/PREMIUM"),
            (3, "GROCERY", "Private", "FRZN PIZZA", "PIZZA/PREMIUM"),
            (4, "NUTRITION", "National", "FITNESS&DIET", "BARS"),
            (5, "MISCELLANEOUS", "National", None, None),
        ]
    ]
)


def line(
    household: int,
    store: int,
    basket: int,
    product: int,
    quantity: int = 1,
    value: float = 2.0,
    day: int = 1,
) -> Row:
    return {
        "household_id": household,
        "store_id": store,
        "basket_id": basket,
        "product_id": product,
        "quantity": quantity,
        "sales_value": value,
        "transaction_timestamp": datetime(2017, 1, day),  # noqa: DTZ001
    }


TRANSACTIONS = pa.Table.from_pylist(
    [
        line(1, 10, 100, 1),
        line(1, 10, 101, 4, quantity=2, day=2),
        line(1, 20, 102, 4),
        line(2, 10, 103, 2, value=4.0),
        line(2, 10, 103, 2, value=4.0),
        line(2, 10, 103, 5),
        line(2, 10, 103, 4, quantity=0, value=0.0),
        line(3, 30, 104, 4),
        line(3, 20, 105, 1),
        line(4, 30, 106, 4),
        line(5, 40, 107, 1),
    ]
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("demo")
    return folder, data.build(folder, PRODUCTS, TRANSACTIONS, data.shops((1, 2, 3, 4)))


def test_a_household_is_at_home_in_the_store_of_most_baskets_then_the_smaller_id() -> None:
    chain = complete_journey.read_chain(PRODUCTS, TRANSACTIONS)
    homes = complete_journey.home_stores(chain)
    assert homes == {1: 10, 2: 10, 3: 20, 4: 30, 5: 40}
    assert complete_journey.ranked_stores(homes) == [10, 20, 30, 40]


def test_an_item_is_a_product_type_with_median_price_and_most_common_brand() -> None:
    pizza, bars = complete_journey.read_chain(PRODUCTS, TRANSACTIONS).types
    assert pizza.title == "Pizza/premium (frozen pizza)"
    assert pizza.category_path == ("grocery", "frozen pizza")
    assert (pizza.price, pizza.brand) == (2.0, "Private")
    assert (bars.price, bars.brand) == (2.0, "National")


def test_only_the_home_stores_baskets_are_exported(built: Built) -> None:
    harbour = built[1][0]
    assert (harbour.households, harbour.baskets, harbour.baskets_elsewhere) == (2, 3, 1)
    assert (harbour.items, harbour.events) == (2, 6)


def test_no_household_is_at_two_merchants(built: Built) -> None:
    folder, _ = built
    seen = []
    for entry in merchants(folder):
        column = mapped(entry, "shopper_id")
        rows = [row.cells for row in Export(folder / entry["events"]).rows() if row.cells]
        seen.append({str(cells[column]) for cells in rows if cells[column]})
    assert [sorted(ids) for ids in seen] == [["1", "2"], ["3"], ["4"], ["5"]]


def test_every_merchants_exports_can_be_ingested_with_its_mapping(
    built: Built, tmp_path: Path
) -> None:
    folder, _ = built
    for entry in merchants(folder):
        report = ingest_one(folder, entry, tmp_path)
        wrong = {reason.reason for reason in report.events.dropped}
        assert {Reason.IMPOSSIBLE_TIME, Reason.UNKNOWN_KIND, Reason.UNKNOWN_ITEM} <= wrong
        assert {Reason.DUPLICATE_EVENT, Reason.MISSING_ID, Reason.IMPOSSIBLE_QUANTITY} <= wrong
        assert {reason.reason for reason in report.catalogue.dropped} == {
            Reason.EMPTY_TITLE,
            Reason.TEXT_TOO_LONG,
            Reason.IMPOSSIBLE_PRICE,
            Reason.MISSING_ID,
            Reason.DUPLICATE_ITEM,
        }
        assert report.catalogue.personal_data_columns == ("supplier_contact",)


def test_the_merchants_items_have_the_public_catalogues_keys(built: Built, tmp_path: Path) -> None:
    folder, _ = built
    export = Export(folder / "public_catalogue.csv")
    columns = resolve_columns("catalogue", export.columns, {})
    public = {
        item.item_id: item.key for item in (clean_item(r.cells, columns) for r in export.rows())
    }
    for entry in merchants(folder):
        ingest_one(folder, entry, tmp_path)
        for item in Dataset.load(tmp_path / entry["name"]).items:
            assert public[item.item_id] == item.key
            assert "&amp;" not in item.text


def test_the_same_tables_give_the_same_bytes(built: Built, tmp_path: Path) -> None:
    folder, _ = built
    data.build(tmp_path, PRODUCTS, TRANSACTIONS, data.shops((1, 2, 3, 4)))
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 2 + 4 * 3
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


def test_more_ranks_than_names_get_numbered_names() -> None:
    assert [shop.name for shop in data.shops(range(1, 6))][-1] == "shop-5"


def merchants(folder: Path) -> list[Row]:
    listed: list[Row] = json.loads((folder / "merchants.json").read_text())["merchants"]
    return listed


def mapped(entry: Row, field: str) -> str:
    mapping: dict[str, str] = entry["mapping"]
    return mapping.get(f"events.{field}", mapping.get(field, field))


def ingest_one(folder: Path, entry: Row, sites: Path) -> QualityReport:
    return ingest(
        folder / entry["catalogue"],
        folder / entry["events"],
        sites / entry["name"],
        entry["mapping"],
        NOW,
        KEY,
    )
