"""The entries of a privacy ledger, and the chain that binds them.

Each entry names its position and the hash of the one before; its own hash is the SHA-256 of the
canonical JSON of all this, and the merchant's Ed25519 key signs that hash. Entries are public: they
hold no count of shoppers or records, no loss, nothing derived from data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, digest, parse_json
from hansa.core.errors import HansaError, InvalidInputError, LedgerError
from hansa.core.ids import Sha256
from hansa.core.privacy.events import NEIGHBOURS, UNIT, DecimalText, PrivacyEvent
from hansa.core.signing import KeyId, SignatureHex, is_signed, sign_bytes

DOMAIN: Final = "ledger entry"
GENESIS: Final = Sha256("0" * 64)
"""What stands for the hash before the first entry."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
Budget = Annotated[DecimalText, Field(gt=0.0)]
Cost = Annotated[DecimalText, Field(ge=0.0)]
Delta = Annotated[DecimalText, Field(gt=0.0, lt=1.0)]
Position = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z$")]


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
    unit: Literal["shopper"] = UNIT
    neighbours: Literal["add_or_remove_one"] = NEIGHBOURS


class Reserve(_Part):
    """A task may begin; from now on its worst case is spent, whatever becomes of it."""

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


class Refuse(_Part):
    """A task was refused, because it would have exceeded the cap; nothing was spent."""

    kind: Literal["refuse"] = "refuse"
    id: Label
    plan_digest: Digest
    epsilon_needed: Cost
    cap_epsilon: Budget


class RaiseCap(_Part):
    """The merchant allows more in total."""

    kind: Literal["raise_cap"] = "raise_cap"
    cap_epsilon: Budget


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


AnyBody = Open | Reserve | Commit | Refuse | RaiseCap | Declare
Body = Annotated[AnyBody, Field(discriminator="kind")]


class Entry(_Part):
    """One line of the book."""

    position: Position
    previous: Digest
    time: Moment
    body: Body
    hash: Digest
    signature: SignatureHex

    @classmethod
    def parse(cls, data: bytes, what: str) -> "Entry":
        """An entry from its canonical JSON; ``what`` names it in the error.

        Raises:
            LedgerError: the bytes are no entry, or not the canonical form of one.
        """
        try:
            entry = cls.model_validate(parse_json(data, what))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise LedgerError(f"{what} is not a ledger entry: {where}: {first['msg']}") from error
        except (HansaError, ValueError, RecursionError) as error:
            raise LedgerError(f"{what} is not a ledger entry: {error}") from error
        if entry.to_bytes() != data:
            raise LedgerError(f"{what} is not in canonical form: it was edited")
        return entry

    def to_bytes(self) -> bytes:
        """The canonical JSON form, without a line end."""
        return canonical_json(self.model_dump(mode="json"))

    def true_hash(self) -> Sha256:
        """The hash that this entry must carry."""
        return digest(self.model_dump(mode="json", exclude={"hash", "signature"}))


@dataclass(frozen=True, kw_only=True)
class Head:
    """Up to where a book was seen; whoever holds one notices when the book is cut short."""

    position: int
    hash: Sha256


def moment(now: datetime) -> Moment:
    """An instant as entries write it.

    Raises:
        InvalidInputError: the time has no zone.
    """
    if now.tzinfo is None:
        raise InvalidInputError("the ledger needs a time with its zone")
    return now.astimezone(UTC).isoformat().replace("+00:00", "Z")


def make_entry(
    body: AnyBody,
    *,
    after: Entry | None,
    now: datetime,
    key: Ed25519PrivateKey,
) -> Entry:
    """The signed entry that follows ``after``.

    Raises:
        InvalidInputError: the time has no zone.
    """
    draft = Entry(
        position=0 if after is None else after.position + 1,
        previous=GENESIS if after is None else after.hash,
        time=moment(now),
        body=body,
        hash=GENESIS,
        signature="0" * 128,
    )
    own = draft.true_hash()
    signature = sign_bytes(own.encode(), key, domain=DOMAIN)
    return draft.model_copy(update={"hash": own, "signature": signature})


def verify_chain(
    entries: Sequence[Entry], *, public_key: str | None = None, expected_head: Head | None = None
) -> Open:
    """Checks that nothing was edited, dropped, reordered, forged or cut off.

    Args:
        entries: the whole book, first entry first.
        public_key: the merchant's ledger key; absent, the key that the first entry names.
        expected_head: the newest entry that somebody else has seen.

    Returns:
        The body of the first entry.

    Raises:
        LedgerError: the book is broken; the sentence names the position and the reason.
    """
    opening = _opening(entries)
    if public_key is not None and public_key != opening.public_key:
        raise LedgerError(
            f"ledger entry 0: the book is kept under key {opening.public_key[:12]}, "
            f"not under {public_key[:12]}"
        )
    _check_links(entries, 0, GENESIS, opening.public_key)
    _check_head(entries, expected_head)
    return opening


def verify_continuation(entries: Sequence[Entry], *, after: Head, public_key: str) -> None:
    """Checks the same of entries that follow a book which was verified up to ``after``.

    Raises:
        LedgerError: the book is broken; the sentence names the position and the reason.
    """
    _check_links(entries, after.position + 1, after.hash, public_key)


def _check_links(entries: Sequence[Entry], first: int, previous: str, key_id: str) -> None:
    """Each of the entries, of which the first stands at position ``first``, follows the last."""
    for index, entry in enumerate(entries):
        fault = _fault(entries, index, first, previous, key_id)
        if fault is not None:
            raise LedgerError(f"ledger entry {first + index}: {fault}")
        previous = Sha256(entry.hash)


def _opening(entries: Sequence[Entry]) -> Open:
    if not entries:
        raise LedgerError("the ledger is empty: even its first entry was dropped")
    body = entries[0].body
    if not isinstance(body, Open):
        raise LedgerError("ledger entry 0: the opening entry is missing: dropped or reordered")
    return body


def _fault(
    entries: Sequence[Entry], index: int, first: int, previous: str, key_id: str
) -> str | None:
    entry = entries[index]
    if entry.true_hash() != entry.hash:
        return "its content does not have its hash: it was edited"
    if not is_signed(entry.hash.encode(), signature=entry.signature, key_id=key_id, domain=DOMAIN):
        return "it is not signed by the ledger's key"
    if entry.position != first + index:
        return f"position {entry.position} stands here: {_disorder(entries, index, first)}"
    if entry.previous != previous:
        return "it does not follow the entry before it: one of them was replaced"
    if first + index > 0 and isinstance(entry.body, Open):
        return "the book is opened a second time"
    return None


def _disorder(entries: Sequence[Entry], index: int, first: int) -> str:
    if entries[index].position < first + index:
        return "it was repeated"
    missing = all(other.position != first + index for other in entries[index + 1 :])
    return "entries were dropped" if missing else "entries were reordered"


def _check_head(entries: Sequence[Entry], head: Head | None) -> None:
    if head is None:
        return
    if len(entries) <= head.position:
        raise LedgerError(
            f"ledger entry {head.position}: it was seen before and is missing: "
            "the book was truncated"
        )
    if entries[head.position].hash != head.hash:
        raise LedgerError(f"ledger entry {head.position}: it is not the entry that was seen before")
