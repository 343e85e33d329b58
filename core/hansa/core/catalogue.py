"""What a shop sells and what its shoppers did: the checked form of a row of its exports.

Every bound on a field stands here and nowhere else; ``hansa.client.ingest`` cleans raw rows until
they fit, or drops them. Texts may be in any language; they carry no control characters and no
surrounding blanks.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""No shop's event is older; a time before it is a till's unset clock."""

MAX_TITLE = 500  # characters
MAX_DESCRIPTION = 20_000  # characters

EventKind = Literal["view", "click", "cart", "purchase", "rating"]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)

_WORD = re.compile(r"\w+")


def _clean(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("remove control characters and surrounding blanks")
    return text


def _utc(time: datetime) -> datetime:
    try:
        moved = time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time lies outside the calendar") from error
    if moved < EARLIEST:
        raise ValueError("the time lies before 1990")
    return moved


Identifier = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_clean)]
ShortText = Annotated[str, StringConstraints(max_length=200), AfterValidator(_clean)]
Price = Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)]
UtcTime = Annotated[AwareDatetime, AfterValidator(_utc)]


class InvalidFieldError(InvalidInputError):
    """A row breaks the bound of one field; the message holds nothing of the row's contents."""

    def __init__(self, field: str, rule: str, message: str) -> None:
        """``rule`` is pydantic's short name of what was broken, such as ``string_too_long``."""
        super().__init__(f"the field '{field}' is not usable: {message}; mend it in the export")
        self.field = field
        self.rule = rule


class _Row(BaseModel):
    """A frozen row; unknown fields are refused, and an error never repeats the row's contents."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Item(_Row):
    """One thing that a shop sells; its texts are public."""

    item_id: Identifier
    title: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_TITLE), AfterValidator(_clean)
    ]
    description: Annotated[
        str, StringConstraints(max_length=MAX_DESCRIPTION), AfterValidator(_clean)
    ] = ""
    brand: ShortText = ""
    category_path: Annotated[tuple[Identifier, ...], Field(max_length=8)] = ()
    """From the widest category to the narrowest."""
    price: Price | None = None
    """What one piece costs; absent where the shop gives no price."""
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    """An ISO 4217 code."""
    available: bool = True

    @property
    def text(self) -> str:
        """The text that is embedded: title, brand, categories (narrowest first), in lower case.

        The title comes first because encoders cut long texts at their end. A brand or category
        whose words were all said before is left out. The description is left out: it outgrows the
        encoder's token limit and is more often about delivery than about the item.
        """
        parts = [self.title]
        said = _words(self.title)
        for part in (self.brand, *reversed(self.category_path)):
            if not _words(part) <= said:
                parts.append(part)
                said |= _words(part)
        return ", ".join(parts).lower()

    @property
    def key(self) -> Sha256:
        """A public name that every shop gives to the same text; the cold split is drawn by it."""
        return sha256_hex(normalise(self.text).encode())


class Event(_Row):
    """One thing that one shopper did; private, and it never leaves the site."""

    shopper_id: Identifier = Field(repr=False)
    time: UtcTime
    kind: EventKind
    item_id: Identifier
    query: Annotated[str, StringConstraints(max_length=500), AfterValidator(_clean)] | None = Field(
        default=None, repr=False
    )
    session_id: Identifier | None = Field(default=None, repr=False)
    quantity: Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False)] | None = None
    """Pieces, or kilograms, litres and the like."""
    price: Price | None = None
    """What one piece cost the shopper."""

    @field_validator("time")
    @classmethod
    def _not_in_the_future(cls, time: datetime, info: ValidationInfo) -> datetime:
        if info.context is not None and time > info.context["now"]:
            raise ValueError("the time lies in the future")
        return time


def normalise(text: str) -> str:
    """The text without differences that do not matter: NFKC, case folded, blanks folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).casefold().split())


def parse_item(values: Mapping[str, Any]) -> Item:
    """An item from cleaned values.

    Raises:
        InvalidFieldError: a field is missing, unknown or out of bounds.
    """
    try:
        return Item.model_validate(values)
    except ValidationError as error:
        raise _invalid_field(error) from None


def parse_event(values: Mapping[str, Any], now: datetime) -> Event:
    """An event from cleaned values; ``now`` (aware) is the latest time that it may have.

    Raises:
        InvalidFieldError: a field is missing, unknown or out of bounds.
    """
    try:
        return Event.model_validate(values, context={"now": now})
    except ValidationError as error:
        raise _invalid_field(error) from None


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _invalid_field(error: ValidationError) -> InvalidFieldError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return InvalidFieldError(str(first["loc"][0]), first["type"], first["msg"])
