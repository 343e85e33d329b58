"""The rules of an item and of an event."""
# ruff: noqa: RUF001  (full-width letters are what is tested)

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.catalogue import (
    Event,
    InvalidFieldError,
    Item,
    normalise,
    parse_event,
    parse_item,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ITEM = {"item_id": "p1", "title": "Frozen pizza"}
EVENT = {"shopper_id": "s-secret", "time": NOW, "kind": "purchase", "item_id": "p1"}


def test_an_item_needs_only_an_id_and_a_title() -> None:
    assert parse_item(ITEM) == Item(item_id="p1", title="Frozen pizza")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("title", ""),
        ("title", "x" * 501),
        ("title", "a\x00b"),
        ("title", "a\u202eb"),
        ("title", " a"),
        ("item_id", ""),
        ("item_id", "x" * 129),
        ("description", "x" * 20_001),
        ("price", 0.0),
        ("price", -1.0),
        ("price", 1_000_000.01),
        ("price", float("nan")),
        ("price", float("inf")),
        ("currency", "usd"),
        ("category_path", ("",)),
        ("category_path", ("a",) * 9),
        ("colour", "red"),
    ],
)
def test_an_item_out_of_bounds_is_refused_by_the_fields_name(field: str, value: object) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        parse_item(ITEM | {field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("price", [0.0001, 1_000_000.0])
def test_prices_up_to_a_million_are_possible(price: float) -> None:
    assert parse_item(ITEM | {"price": price}).price == price


def test_an_item_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_item(ITEM).title = "other"


def test_the_text_is_title_then_brand_then_the_narrowest_category_in_lower_case() -> None:
    item = parse_item(
        ITEM | {"brand": "Otto", "category_path": ("Grocery", "Ready meals"), "description": "d"}
    )
    assert item.text == "frozen pizza, otto, ready meals, grocery"


def test_the_text_does_not_say_twice_what_the_title_says() -> None:
    item = parse_item(ITEM | {"brand": "PIZZA", "category_path": ("Grocery", "Pizza frozen")})
    assert item.text == "frozen pizza, grocery"


def test_a_brand_that_is_only_part_of_a_word_is_still_said() -> None:
    assert parse_item({"item_id": "1", "title": "Orange", "brand": "GE"}).text == "orange, ge"


def test_chinese_items_have_a_text_and_a_key() -> None:
    item = parse_item(
        {"item_id": "1", "title": "速冻披萨", "brand": "三全", "category_path": ("食品",)}
    )
    assert item.text == "速冻披萨, 三全, 食品"
    assert len(item.key) == 64


def test_the_key_is_the_same_at_every_shop_whatever_its_ids_prices_and_letter_case() -> None:
    one = parse_item(ITEM | {"price": 1.0})
    other = parse_item({"item_id": "other", "title": "FROZEN  Pizza", "description": "d"})
    assert one.key == other.key
    assert one.key != parse_item(ITEM | {"title": "Frozen peas"}).key


def test_fullwidth_and_plain_letters_have_the_same_key() -> None:
    assert (
        parse_item(ITEM | {"title": "ＰＩＺＺＡ"}).key == parse_item(ITEM | {"title": "pizza"}).key
    )


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


def test_an_events_time_is_turned_into_utc() -> None:
    beijing = timezone(timedelta(hours=8))
    event = parse_event(EVENT | {"time": datetime(2026, 1, 1, 8, tzinfo=beijing)}, NOW)
    assert event.time == datetime(2026, 1, 1, tzinfo=UTC)
    assert event.time.tzinfo is UTC


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time", NOW + timedelta(microseconds=1)),
        ("time", datetime(1989, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("time", datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))),
        ("time", datetime(2026, 1, 1)),  # noqa: DTZ001
        ("kind", "refund"),
        ("shopper_id", ""),
        ("item_id", ""),
        ("query", "x" * 501),
        ("quantity", 0.0),
        ("quantity", float("nan")),
        ("price", 0.0),
    ],
)
def test_an_event_out_of_bounds_is_refused_by_the_fields_name(field: str, value: object) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        parse_event(EVENT | {field: value}, NOW)
    assert caught.value.field == field


def test_an_event_of_this_very_moment_is_possible() -> None:
    assert parse_event(EVENT, NOW).time == NOW


def test_an_event_shows_neither_shopper_nor_query_nor_session() -> None:
    shown = repr(Event.model_validate(EVENT | {"query": "q-secret", "session_id": "t-secret"}))
    assert "secret" not in shown


def test_a_refusal_repeats_nothing_of_the_row() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        parse_event(EVENT | {"query": "secret" * 100}, NOW)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
