"""Pure functions from a raw cell to a clean value, and from a clean row to an item or an event.

Cleaning a text twice is the same as cleaning it once. A row that cannot be mended is dropped for
exactly one reason, the first that applies.
"""

import html
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from hansa.client.ingest.columns import Columns
from hansa.core.catalogue import Event, InvalidFieldError, Item, parse_event, parse_item
from hansa.core.errors import HansaError

MAX_RAW_CHARS = 100_000
"""A longer cell is refused before any work is done on it."""

_PASSES = 8
_BLOCKS = frozenset(
    {"br", "dd", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p"}
    | {"pre", "section", "table", "td", "th", "tr", "ul"}
)
# Each pattern reads a text once from left to right, so that no text costs more than its length;
# html.parser takes minutes over 100 kB of "<a <a <a".
_TAG = re.compile(
    r"""<(?=[a-z/!?])/?([a-z][a-z0-9]*+)?[^<>"']*+(?:(?:"[^"<]*+"|'[^'<]*+')[^<>"']*+)*+>""", re.I
)
_UNCLOSED_TAG = re.compile(r"<(?=[a-z/!?])", re.I)
_HIDDEN = re.compile(r"<!--|<(script|style)\b", re.I)
_HIDDEN_END = {
    "": re.compile(r"-->"),
    "script": re.compile(r"</script\b[^<>]*+>", re.I),
    "style": re.compile(r"</style\b[^<>]*+>", re.I),
}
_NO_MARKUP = str.maketrans("", "", "&<>")
_TRUE = frozenset({"1", "true", "yes", "y", "t"})
_FALSE = frozenset({"0", "false", "no", "n", "f"})


class Reason(StrEnum):
    """Why a row was dropped."""

    UNREADABLE_ROW = "unreadable row"
    MISSING_ID = "missing or impossible id"
    EMPTY_TITLE = "empty title"
    TEXT_TOO_LONG = "text too long"
    IMPOSSIBLE_CATEGORY = "impossible category"
    IMPOSSIBLE_PRICE = "impossible price"
    IMPOSSIBLE_CURRENCY = "impossible currency"
    IMPOSSIBLE_AVAILABILITY = "impossible availability"
    IMPOSSIBLE_QUANTITY = "impossible quantity"
    IMPOSSIBLE_TIME = "impossible time"
    UNKNOWN_KIND = "unknown kind of event"
    UNKNOWN_ITEM = "item not in the catalogue"
    DUPLICATE_ITEM = "item id seen before"
    DUPLICATE_EVENT = "event seen before"


_REASON_OF_FIELD: Mapping[str, Reason] = {
    "item_id": Reason.MISSING_ID,
    "shopper_id": Reason.MISSING_ID,
    "session_id": Reason.MISSING_ID,
    "title": Reason.EMPTY_TITLE,
    "category_path": Reason.IMPOSSIBLE_CATEGORY,
    "price": Reason.IMPOSSIBLE_PRICE,
    "currency": Reason.IMPOSSIBLE_CURRENCY,
    "available": Reason.IMPOSSIBLE_AVAILABILITY,
    "quantity": Reason.IMPOSSIBLE_QUANTITY,
    "time": Reason.IMPOSSIBLE_TIME,
    "kind": Reason.UNKNOWN_KIND,
}


class DroppedRowError(HansaError):
    """The row cannot be used; it is counted and left out."""

    def __init__(self, reason: Reason) -> None:
        """``reason`` is all that is ever told of the row."""
        super().__init__(f"the row is dropped: {reason}")
        self.reason = reason


def clean_text(text: str) -> str:
    """Text without tags, entities, control characters and doubled blanks, in NFKC form.

    Raises:
        DroppedRowError: the text is longer than any field may be.
    """
    if len(text) > MAX_RAW_CHARS:
        raise DroppedRowError(Reason.TEXT_TOO_LONG)
    for _ in range(_PASSES):
        cleaned = _clean_once(text)
        if cleaned == text:
            return text
        text = cleaned
    return _fold(text.translate(_NO_MARKUP))


def clean_category(cell: object) -> tuple[str, ...]:
    """A category path from a list, or from text such as ``Food > Frozen`` or ``Food|Frozen``."""
    if isinstance(cell, list):
        parts = [_text(part) for part in cell]
    else:
        text = _text(cell)
        parts = text.split(">" if ">" in text else "|")
    return tuple(part.strip() for part in parts if part.strip())


def clean_number(cell: object) -> float | None:
    """A number with a decimal point; an empty cell is absent, and what is no number is NaN."""
    text = _text(cell)
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return float("nan")


def clean_time(cell: object) -> datetime:
    """A time from ISO 8601 text; a time without an offset is taken as UTC.

    Raises:
        DroppedRowError: it is no such time.
    """
    try:
        time = datetime.fromisoformat(_text(cell))
    except ValueError as error:
        raise DroppedRowError(Reason.IMPOSSIBLE_TIME) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def clean_item(cells: Mapping[str, Any] | None, columns: Columns) -> Item:
    """An item from one row of the catalogue.

    Raises:
        DroppedRowError: the row cannot be used.
    """
    row = _fields(cells, columns)
    values = {
        "item_id": _text(row.get("item_id")),
        "title": _text(row.get("title")),
        "description": _text(row.get("description")),
        "brand": _text(row.get("brand")),
        "category_path": clean_category(row.get("category_path")),
        "price": clean_number(row.get("price")),
        "currency": _text(row.get("currency")).upper() or None,
        "available": _flag(row.get("available")),
    }
    try:
        return parse_item(values)
    except InvalidFieldError as error:
        raise DroppedRowError(_reason(error)) from None


def clean_event(cells: Mapping[str, Any] | None, columns: Columns, now: datetime) -> Event:
    """An event from one row; ``now`` is the latest time that it may have.

    Raises:
        DroppedRowError: the row cannot be used.
    """
    row = _fields(cells, columns)
    values = {
        "shopper_id": _text(row.get("shopper_id")),
        "time": clean_time(row.get("time")),
        "kind": _text(row.get("kind")).lower(),
        "item_id": _text(row.get("item_id")),
        "query": _text(row.get("query")) or None,
        "session_id": _text(row.get("session_id")) or None,
        "quantity": clean_number(row.get("quantity")),
        "price": clean_number(row.get("price")),
    }
    try:
        return parse_event(values, now)
    except InvalidFieldError as error:
        raise DroppedRowError(_reason(error)) from None


def _clean_once(text: str) -> str:
    folded = _fold(text)
    if "<" not in folded and "&" not in folded:
        return folded
    visible = _TAG.sub(_blank_or_nothing, _without_hidden(folded))
    return _fold(html.unescape(_UNCLOSED_TAG.sub(" ", visible)))


def _without_hidden(text: str) -> str:
    """The text without comments, scripts and styles; an unclosed one hides the rest."""
    pieces, start = [], 0
    while start < len(text) and (opening := _HIDDEN.search(text, start)):
        pieces.append(text[start : opening.start()])
        closing = _HIDDEN_END[(opening[1] or "").lower()].search(text, opening.end())
        start = closing.end() if closing else len(text)
    return "".join([*pieces, text[start:]])


def _blank_or_nothing(tag: re.Match[str]) -> str:
    return " " if (tag[1] or "").lower() in _BLOCKS else ""


def _fold(text: str) -> str:
    """Blanks folded, control and format characters removed, NFKC."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = unicodedata.normalize("NFKC", _without_controls(" ".join(text.split())))
    return " ".join(_without_controls(text).split())


def _without_controls(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter for letter in text if unicodedata.category(letter)[0] != "C")


def _text(cell: object) -> str:
    """A scalar cell as clean text; an absent or nested one is empty."""
    match cell:
        case str():
            return clean_text(cell)
        case bytes():
            return clean_text(cell.decode("utf-8", "replace"))
        case int() | float() | Decimal():
            return str(cell)
        case _:
            return ""


def _flag(cell: object) -> bool | str:
    word = _text(cell).lower()
    if word in _TRUE or not word:
        return True
    return False if word in _FALSE else word


def _fields(cells: Mapping[str, Any] | None, columns: Columns) -> dict[str, Any]:
    if cells is None:
        raise DroppedRowError(Reason.UNREADABLE_ROW)
    return {field: cells.get(column) for field, column in columns.by_field.items()}


def _reason(error: InvalidFieldError) -> Reason:
    if error.rule == "string_too_long" and error.field not in ("item_id", "shopper_id"):
        return Reason.TEXT_TOO_LONG
    return _REASON_OF_FIELD.get(error.field, Reason.TEXT_TOO_LONG)
