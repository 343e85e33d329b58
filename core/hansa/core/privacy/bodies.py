"""What the entries of a privacy ledger say: the kinds of body, and their fields.

A kind and its fields mean the same for ever, for books are kept for ever: a new statement gets a
new kind or a field of its own, which is written only where it says something (see ``PlanPart``).
Bodies are public: they hold no count of shoppers or records, no loss, nothing derived from data.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from hansa.core.contract import Contract
from hansa.core.plan.part import PlanPart
from hansa.core.privacy.events import NEIGHBOURS, UNIT, DecimalText, PrivacyEvent, Unit
from hansa.core.signing import KeyId

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
Budget = Annotated[DecimalText, Field(gt=0.0)]
Cost = Annotated[DecimalText, Field(ge=0.0)]
Delta = Annotated[DecimalText, Field(gt=0.0, lt=1.0)]
Position = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]

Scope = Literal["lifetime", "plan", "month", "metrics"]
"""Over what a cap counts: all of the book, one plan, one calendar month (UTC), or what is no
training."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Open(_Part):
    """The book begins: for which data set, under whose key, with which budget."""

    kind: Literal["open"] = "open"
    dataset_id: Digest
    """Random; says nothing about the data."""
    public_key: KeyId
    cap_epsilon: Budget
    delta: Delta
    unit: Unit = UNIT
    """Whom the book protects, for its whole life; events of another unit cannot be booked."""
    neighbours: Literal["add_or_remove_one"] = NEIGHBOURS


class Reserve(_Part):
    """A task may begin; from now on its worst case is spent, unless it is released."""

    kind: Literal["reserve"] = "reserve"
    id: Label
    plan_digest: Digest
    run: Label
    round: Position
    phase: Label
    events: Annotated[tuple[PrivacyEvent, ...], Field(min_length=1, max_length=64)]


class Commit(_Part):
    """The reserved task's result: these very bytes were released, and may be sent again."""

    kind: Literal["commit"] = "commit"
    id: Label
    sha256: Digest


class Release(_Part):
    """A reserved task came to nothing before data were touched: it is not spent any more.

    The task can never be reserved, committed or sent again.
    """

    kind: Literal["release"] = "release"
    id: Label


class Refuse(PlanPart):
    """A task was refused, because it would have exceeded a cap; nothing was spent."""

    later: ClassVar[frozenset[str]] = frozenset({"scope"})

    kind: Literal["refuse"] = "refuse"
    id: Label
    plan_digest: Digest
    epsilon_needed: Cost
    """Of what ``scope`` counts, with the task."""
    cap_epsilon: Cost
    """The cap that it would have exceeded."""
    scope: Scope = "lifetime"


class RaiseCap(_Part):
    """The merchant allows more in total."""

    kind: Literal["raise_cap"] = "raise_cap"
    cap_epsilon: Budget


class Accept(_Part):
    """The merchant accepts these terms; they hold from here on, until it accepts others."""

    kind: Literal["accept"] = "accept"
    contract: Contract
    """All terms, so that whoever reads the book can check it against them."""
    offer: Position = 0
    """The number of the operator's offer that it answers; 0: the merchant's own terms."""


class Declare(_Part):
    """A foreign app released these very bytes, under the merchant's own responsibility.

    Nobody knows what they say about a shopper: the ledger's epsilon does not count them.
    """

    kind: Literal["declare"] = "declare"
    id: Label
    app: Label
    """The app as ``module:object``, as the merchant allowed it."""
    plan_digest: Digest
    run: Label
    round: Position
    phase: Label
    sha256: Digest


AnyBody = Open | Reserve | Commit | Release | Refuse | RaiseCap | Accept | Declare
Body = Annotated[AnyBody, Field(discriminator="kind")]
