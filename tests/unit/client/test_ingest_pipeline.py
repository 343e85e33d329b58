"""The rules of an ingest as a whole: columns, mapping, reasons, report."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hansa.client.ingest.cleaning import Reason
from hansa.client.ingest.columns import parse_mapping, resolve_columns
from hansa.client.ingest.pipeline import Ingestion
from hansa.client.ingest.report import QualityReport
from hansa.core.catalogue import Event
from hansa.core.errors import InvalidInputError

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CATALOGUE = "item_id,title,price\np1,Pizza,2\np2,Peas,1\n"
EVENTS = "shopper_id,time,kind,item_id\n7,2026-01-01,purchase,p1\n8,2026-01-02,view,p2\n"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One ingest of two small CSV files."""

    folder: Path

    def __call__(
        self,
        *,
        catalogue: str = CATALOGUE,
        events: str = EVENTS,
        mapping: Mapping[str, str] | None = None,
    ) -> tuple[Ingestion, list[Event]]:
        paths = self.folder / "c.csv", self.folder / "e.csv"
        for path, text in zip(paths, (catalogue, events), strict=True):
            path.write_text(text, encoding="utf-8")
        ingestion = Ingestion(*paths, mapping=mapping or {}, now=NOW)
        return ingestion, list(ingestion.events())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(folder=tmp_path)


def test_clean_exports_are_kept_whole(run: Run) -> None:
    ingestion, events = run()
    assert [item.item_id for item in ingestion.items] == ["p1", "p2"]
    assert [event.shopper_id for event in events] == ["7", "8"]
    assert ingestion.event_report.rows_kept == ingestion.event_report.rows_read == 2


def test_a_repeated_item_id_keeps_the_first_row(run: Run) -> None:
    ingestion, _ = run(catalogue=CATALOGUE + "p1,Other,3\n")
    assert ingestion.items[0].title == "Pizza"
    assert ingestion.catalogue_report.duplicates == 1


def test_a_repeated_event_is_kept_once_and_another_time_is_another_event(run: Run) -> None:
    ingestion, events = run(
        events=EVENTS + "7,2026-01-01,purchase,p1\n7,2026-01-01T00:00:01,purchase,p1\n"
    )
    assert len(events) == 3
    assert ingestion.event_report.rows_dropped(Reason.DUPLICATE_EVENT) == 1


def test_an_event_of_an_unknown_item_is_dropped(run: Run) -> None:
    ingestion, events = run(events=EVENTS + "7,2026-01-01,purchase,p9\n")
    assert len(events) == 2
    assert ingestion.event_report.rows_dropped(Reason.UNKNOWN_ITEM) == 1


def test_every_row_is_kept_or_has_one_reason_and_at_most_three_row_numbers(run: Run) -> None:
    ingestion, _ = run(events=EVENTS + "7,2099-01-01,view,p1\n" * 5 + "7,x,view,p9\n,,,\n")
    report = ingestion.event_report
    assert report.rows_read == report.rows_kept + sum(entry.rows for entry in report.dropped) == 9
    first = report.dropped[0]
    assert (first.reason, first.rows) == (Reason.IMPOSSIBLE_TIME, 7)
    assert first.example_rows == (3, 4, 5)


def test_a_missing_column_is_named_with_those_expected_and_found(run: Run) -> None:
    with pytest.raises(InvalidInputError) as caught:
        run(catalogue="sku,title\np1,Pizza\n")
    message = str(caught.value)
    assert "no column 'item_id'" in message
    assert "expected item_id, title" in message
    assert "found sku, title" in message
    assert "--map item_id=THEIRS" in message


def test_a_mapping_reads_the_merchants_own_columns(run: Run) -> None:
    ingestion, events = run(
        catalogue="sku,name\np1,Pizza\n",
        events="card,sold_at,kind,sku\n7,2026-01-01,purchase,p1\n",
        mapping=parse_mapping(
            ["item_id=sku", "title=name", "events.shopper_id=card", "time=sold_at"]
        ),
    )
    assert ingestion.items[0].title == "Pizza"
    assert events[0].shopper_id == "7"


def test_a_plain_mapping_falls_back_to_the_fields_name_in_the_other_file(run: Run) -> None:
    ingestion, events = run(catalogue="sku,title\np1,P\np2,Q\n", mapping={"item_id": "sku"})
    assert len(ingestion.items) == len(events) == 2


def test_a_mapping_to_a_column_that_no_file_has_is_refused(run: Run) -> None:
    with pytest.raises(InvalidInputError, match="neither file has the column 'brnad'"):
        run(mapping={"brand": "brnad"})
    with pytest.raises(InvalidInputError, match="no column 'brnad'"):
        run(mapping={"catalogue.brand": "brnad"})


@pytest.mark.parametrize("words", [["colour=x"], ["title"], ["title="], ["title=a", "title=b"]])
def test_a_mapping_that_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        parse_mapping(words)


def test_a_column_name_that_stands_there_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="more than once; rename"):
        resolve_columns("catalogue", ("item_id", "title", "title"), {})


def test_a_file_without_one_usable_row_is_refused_with_the_usual_reason(run: Run) -> None:
    with pytest.raises(InvalidInputError, match=r"not one of the 1 rows.*impossible time"):
        run(events="shopper_id,time,kind,item_id\n7,yesterday,view,p1\n")
    with pytest.raises(InvalidInputError, match="the catalogue has no rows"):
        run(catalogue="item_id,title\n")


def test_a_shop_without_events_can_be_ingested(run: Run) -> None:
    assert run(events="shopper_id,time,kind,item_id\n")[1] == []


def test_a_naive_present_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="time zone"):
        Ingestion(tmp_path, tmp_path, mapping={}, now=datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    "cell",
    [
        "mail anna@shop.example now",
        "+49 30 1234567",
        "(030) 1234 5678",
        "13800138000",
        "138 0013 8000",
        "call 555-867-5309",
    ],
)
def test_a_column_with_addresses_or_numbers_of_people_is_reported_by_its_name(
    run: Run, cell: object
) -> None:
    ingestion, _ = run(catalogue=f"item_id,title,note\np1,Pizza,{cell}\np2,Peas,x\n")
    assert ingestion.catalogue_report.personal_data_columns == ("note",)
    assert ingestion.catalogue_report.unused_columns == ("note",)


@pytest.mark.parametrize(
    "cell", ["4006381333931", "2026-01-01 10:00:00", "500 g x 12", "1234567", "31198570044", "a@b"]
)
def test_barcodes_times_and_sizes_are_not_taken_for_people(run: Run, cell: object) -> None:
    ingestion, _ = run(catalogue=f"item_id,title,note\np1,Pizza,{cell}\np2,Peas,x\n")
    assert ingestion.catalogue_report.personal_data_columns == ()


def test_the_report_holds_no_contents_of_any_row(run: Run) -> None:
    ingestion, _ = run(
        catalogue=CATALOGUE + "p3,secret-title,-1\n",
        events=EVENTS + "secret-shopper,2099-01-01,view,p1\nx@secret.example,2026-01-01,view,p1\n",
    )
    report = QualityReport(
        catalogue=ingestion.catalogue_report, events=ingestion.event_report, shoppers=2
    )
    text = report.model_dump_json() + "\n".join(report.sentences())
    assert "secret" not in text
    assert "the column 'shopper_id' looks like personal data" in text
    assert "catalogue: 1 dropped, impossible price (such as row 3)" in text
