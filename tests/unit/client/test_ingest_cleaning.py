"""The rules of cleaning a cell and a row."""
# ruff: noqa: RUF001  (full-width letters are what is tested)

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hansa.client.ingest.cleaning import (
    MAX_RAW_CHARS,
    DroppedRowError,
    Reason,
    clean_category,
    clean_event,
    clean_item,
    clean_number,
    clean_text,
    clean_time,
)
from hansa.client.ingest.columns import FIELDS, resolve_columns

NOW = datetime(2026, 11, 23, tzinfo=UTC)
CATALOGUE = resolve_columns("catalogue", FIELDS["catalogue"], {})
EVENTS = resolve_columns("events", FIELDS["events"], {})
ITEM = {"item_id": "p1", "title": "Frozen pizza", "price": "2.50"}
EVENT = {"shopper_id": "7", "time": "2026-01-01", "kind": "purchase", "item_id": "p1"}

MARKUP = st.text(
    st.sampled_from(list("ab<>&;/!-\"' \t\n#x3cl tgamp\x00\u200b\u0301\u0338＜＆é全"))
    | st.characters()
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("<b>Pizza</b> &amp; pasta", "Pizza & pasta"),
        ("<p>one</p><p>two</p>", "one two"),
        ("H<sub>2</sub>O", "H2O"),
        ("<script>alert(1)</script>Pizza<style>p{}</style>", "Pizza"),
        ("&lt;script&gt;alert(1)&lt;/script&gt;Pizza", "Pizza"),
        ("&amp;lt;img src=x onerror=alert(1)&amp;gt;Pizza", "Pizza"),
        ("＜script＞alert(1)＜/script＞Pizza", "Pizza"),
        ("<!-- a > b -->Pizza", "Pizza"),
        ("<a title='x > y' href=z>Pizza</a>", "Pizza"),
        ("fish & chips, H&M, 3 < 5", "fish & chips, H&M, 3 < 5"),
        ("ＰＩＺＺＡ\u3000１２", "PIZZA 12"),
        (" a \x00\x1b[31m b\u202e\ufeff\n", "a [31m b"),
        ("速冻披萨　大号", "速冻披萨 大号"),
        ("e\u0301", "é"),
        ("", ""),
    ],
)
def test_text_loses_markup_controls_and_doubled_blanks(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@given(MARKUP)
@example("&amp;" * 40 + "lt;b&gt;")
@example("&" + "amp;" * 40)
@example("e&\u0301")
@example("<\u0338")
@example("a\ud800b")
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert once.isprintable()
    assert once == once.strip()


def test_a_ten_megabyte_title_is_dropped_before_it_costs_anything() -> None:
    with pytest.raises(DroppedRowError) as caught:
        clean_item(ITEM | {"title": "&amp;" * 2_000_000}, CATALOGUE)
    assert caught.value.reason is Reason.TEXT_TOO_LONG


@pytest.mark.parametrize(
    "piece",
    [
        *("<", "<a ", "<!--", "</", "<script>", "<a b='", '<a b="x" ', "&#", "&amp;lt;"),
        *("<![CDATA[", "</script", "<script></script", "<a b='>"),
    ],
)
def test_no_markup_costs_more_than_its_length(piece: str) -> None:
    text = clean_text(piece * (MAX_RAW_CHARS // len(piece)))
    assert clean_text(text) == text


def test_an_unclosed_tag_cannot_come_back_to_life() -> None:
    assert "<img" not in clean_text("Pizza <img src=x onerror=alert(1)")
    assert "<img" not in clean_text("Pizza <im<b>g src=x onerror='a<b'>")


def test_nested_entities_cost_a_bounded_number_of_passes() -> None:
    assert clean_text("&" + "amp;" * 20_000) == "amp;" * 19_992


@pytest.mark.parametrize(
    ("cell", "path"),
    [
        ("Food > Frozen > Pizza", ("Food", "Frozen", "Pizza")),
        ("Food &gt; Meat &amp; fish", ("Food", "Meat & fish")),
        ("Food|Frozen", ("Food", "Frozen")),
        ("Food/Frozen", ("Food/Frozen",)),
        (["Food", " Frozen "], ("Food", "Frozen")),
        ("食品>速冻", ("食品", "速冻")),
        ("", ()),
        (None, ()),
    ],
)
def test_a_category_is_a_path_of_clean_names(cell: object, path: tuple[str, ...]) -> None:
    assert clean_category(cell) == path


def test_a_number_may_be_absent_but_not_a_word() -> None:
    assert clean_number(" 2.5 ") == 2.5
    assert clean_number(Decimal("2.5")) == 2.5
    assert clean_number("") is None
    assert clean_number(None) is None
    assert clean_number("free") != clean_number("free")  # NaN, which every bound refuses


def test_a_time_without_an_offset_is_utc() -> None:
    assert clean_time("2026-01-01 10:00:00") == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert clean_time("2026-01-01T10:00:00.123456789Z").microsecond == 123456
    assert clean_time("2026-01-01T10:00+08:00") == datetime(2026, 1, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"item_id": ""}, Reason.MISSING_ID),
        ({"item_id": None}, Reason.MISSING_ID),
        ({"title": "<br/>"}, Reason.EMPTY_TITLE),
        ({"title": "x" * 501}, Reason.TEXT_TOO_LONG),
        ({"title": {"nested": "json"}}, Reason.EMPTY_TITLE),
        ({"description": "x" * 20_001}, Reason.TEXT_TOO_LONG),
        ({"brand": "x" * 201}, Reason.TEXT_TOO_LONG),
        ({"price": "NaN"}, Reason.IMPOSSIBLE_PRICE),
        ({"price": float("nan")}, Reason.IMPOSSIBLE_PRICE),
        ({"price": "inf"}, Reason.IMPOSSIBLE_PRICE),
        ({"price": "1e7"}, Reason.IMPOSSIBLE_PRICE),
        ({"price": "0"}, Reason.IMPOSSIBLE_PRICE),
        ({"price": "2,50"}, Reason.IMPOSSIBLE_PRICE),
        ({"currency": "euro"}, Reason.IMPOSSIBLE_CURRENCY),
        ({"available": "perhaps"}, Reason.IMPOSSIBLE_AVAILABILITY),
        ({"category_path": "a>" * 9}, Reason.IMPOSSIBLE_CATEGORY),
    ],
)
def test_a_bad_item_is_dropped_for_one_reason(change: dict[str, object], reason: Reason) -> None:
    with pytest.raises(DroppedRowError) as caught:
        clean_item(ITEM | change, CATALOGUE)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shopper_id": " "}, Reason.MISSING_ID),
        ({"item_id": "x" * 129}, Reason.MISSING_ID),
        ({"time": ""}, Reason.IMPOSSIBLE_TIME),
        ({"time": "yesterday"}, Reason.IMPOSSIBLE_TIME),
        ({"time": "9999-12-31T23:59:59-05:00"}, Reason.IMPOSSIBLE_TIME),
        ({"time": "1970-01-01"}, Reason.IMPOSSIBLE_TIME),
        ({"time": "2026-11-24"}, Reason.IMPOSSIBLE_TIME),
        ({"kind": "purchse"}, Reason.UNKNOWN_KIND),
        ({"quantity": "0"}, Reason.IMPOSSIBLE_QUANTITY),
        ({"price": "-1"}, Reason.IMPOSSIBLE_PRICE),
        ({"query": "x" * 501}, Reason.TEXT_TOO_LONG),
    ],
)
def test_a_bad_event_is_dropped_for_one_reason(change: dict[str, object], reason: Reason) -> None:
    with pytest.raises(DroppedRowError) as caught:
        clean_event(EVENT | change, EVENTS, NOW)
    assert caught.value.reason is reason
    assert "7" not in str(caught.value)


def test_a_row_that_could_not_be_read_is_dropped_as_unreadable() -> None:
    with pytest.raises(DroppedRowError) as caught:
        clean_item(None, CATALOGUE)
    assert caught.value.reason is Reason.UNREADABLE_ROW


def test_kinds_are_read_in_any_letter_case_and_ids_may_be_numbers() -> None:
    event = clean_event(EVENT | {"shopper_id": 7, "kind": "PURCHASE"}, EVENTS, NOW)
    assert (event.shopper_id, event.kind) == ("7", "purchase")


@pytest.mark.parametrize(
    ("cell", "flag"), [("", True), ("yes", True), ("1", True), (False, False), ("FALSE", False)]
)
def test_availability_is_read_from_usual_words(cell: object, flag: bool) -> None:
    assert clean_item(ITEM | {"available": cell}, CATALOGUE).available is flag


@given(
    st.dictionaries(
        st.sampled_from(FIELDS["events"]),
        st.text() | st.floats() | st.integers() | st.booleans() | st.none() | st.lists(st.text()),
    )
)
def test_any_row_becomes_an_event_or_is_dropped_for_a_reason(cells: dict[str, Any]) -> None:
    with suppress(DroppedRowError):
        assert clean_event(EVENT | cells, EVENTS, NOW).time <= NOW
