"""The entries of a privacy ledger, and the chain that binds them.

Each entry names its position and the hash of the one before; its own hash is the SHA-256 of the
canonical JSON of all this, and the merchant's Ed25519 key signs that hash. What an entry says is
its body (``hansa.core.privacy.bodies``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.errors import HansaError, InvalidInputError, LedgerError
from hansa.core.ids import Sha256
from hansa.core.privacy.bodies import (
    Accept,
    AnyBody,
    Body,
    Commit,
    Declare,
    Digest,
    Label,
    Open,
    Position,
    RaiseCap,
    Refuse,
    Release,
    Reserve,
)
from hansa.core.signing import SignatureHex, is_signed, sign_bytes

__all__ = [
    "DOMAIN",
    "GENESIS",
    "Accept",
    "AnyBody",
    "Body",
    "Commit",
    "Declare",
    "Digest",
    "Entry",
    "Head",
    "Label",
    "Moment",
    "Open",
    "RaiseCap",
    "Refuse",
    "Release",
    "Reserve",
    "check_head",
    "is_later",
    "make_entry",
    "moment",
    "verify_chain",
    "verify_continuation",
]

DOMAIN: Final = "ledger entry"
GENESIS: Final = Sha256("0" * 64)
"""What stands for the hash before the first entry."""

Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z$")]


class Entry(BaseModel):
    """One line of the book."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        return _canonical(self.model_dump(mode="json"), self.body)

    def true_hash(self) -> Sha256:
        """The hash that this entry must carry."""
        value = self.model_dump(mode="json", exclude={"hash", "signature"})
        return sha256_hex(_canonical(value, self.body))


def _canonical(value: dict[str, Any], body: AnyBody) -> bytes:
    """The canonical JSON of an entry.

    A contract holds fractions, which RFC 8785 writes in a way of its own. All other bodies hold
    ASCII text and whole numbers below 2^53 alone, for which the standard library's form with
    sorted keys is the same, four times as fast.
    """
    if isinstance(body, Accept):
        return canonical_json(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


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


def is_later(one: Moment, other: Moment) -> bool:
    """Whether one moment lies after another; whole seconds are written without a fraction."""
    return one[:-1] > other[:-1]


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
    check_head(entries, expected_head)
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


def check_head(entries: Sequence[Entry], head: Head | None) -> None:
    """Checks that a book still holds what somebody else has seen of it.

    Raises:
        LedgerError: it was truncated or rewritten; the sentence names the position.
    """
    if head is None:
        return
    if len(entries) <= head.position:
        raise LedgerError(
            f"ledger entry {head.position}: it was seen before and is missing: "
            "the book was truncated"
        )
    if entries[head.position].hash != head.hash:
        raise LedgerError(f"ledger entry {head.position}: it is not the entry that was seen before")
