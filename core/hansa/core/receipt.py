"""Leaving a federation: the merchant's notice, and the operator's receipt for it.

Both are signed JSON under domains of their own: the notice by the key of the merchant's ledger, the
receipt by the operator's plan key. Each says what its signer knew when it signed. An update that is
in a model cannot be taken out of it; the remedy says what is done instead.
"""

from datetime import datetime
from typing import Annotated, Final, Literal, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.errors import InvalidInputError, SignatureError
from hansa.core.privacy.bodies import Digest
from hansa.core.signing import KeyId, Signed, sign
from hansa.core.transparency.checkpoint import MAX_NOTE_BYTES, Checkpoint, SignedCheckpoint
from hansa.core.transparency.holdings import Holding, UnreleasedRun
from hansa.core.transparency.leaves import Count, Instant, Merchant, Word, instant

NOTICE_DOMAIN: Final = "leave notice"
RECEIPT_DOMAIN: Final = "leave receipt"

MAX_NOTICE_BYTES: Final = 16 << 10
MAX_RECEIPT_BYTES: Final = 3 << 20

Remedy = Literal["retrain-without", "roll-back", "stated-bound"]
"""What is done about releases that hold the merchant's updates: a new run from the base model
without it, an earlier release that does not hold it, or nothing beyond the bound by epsilon."""

REMEDIES: Final[tuple[Remedy, ...]] = ("retrain-without", "roll-back", "stated-bound")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LedgerPlace(_Part):
    """How far somebody holds a ledger."""

    entries: Annotated[int, Field(strict=True, ge=1, le=2**53 - 1)]
    head: Digest
    """Hash of the last of these entries."""


class Notice(_Part):
    """A merchant says that it leaves."""

    format: Literal["hansa-leave-notice 1"] = "hansa-leave-notice 1"
    merchant: Merchant
    remedy: Remedy
    time: Instant
    certificate_sha256: Digest | None = None
    """Of the certificate (DER) that is to end; absent where the site cannot read it any more."""
    ledger: LedgerPlace
    """The merchant's own book."""

    def signed(self, key: Ed25519PrivateKey) -> bytes:
        """The notice under the key of the merchant's ledger."""
        return sign(_plain(self), key, domain=NOTICE_DOMAIN).to_bytes()


class Spent(_Part):
    """What the server's copy of the merchant's ledger says."""

    place: LedgerPlace
    epsilon: Annotated[str, Field(pattern=r"^\d{1,9}\.\d{2}$")] | None
    """Of everything in it, rounded up to two decimals; absent: the copy breaks a rule of the
    ledger, and no figure is stated."""
    delta: Annotated[float, Field(gt=0.0, lt=1.0)]
    unit: Word
    """Whom epsilon protects."""


class ChannelRelease(_Part):
    """One release of a channel."""

    channel: Word
    version: Count


class Receipt(_Part):
    """The operator says that a merchant has left, and what holds its updates."""

    format: Literal["hansa-leave-receipt 1"] = "hansa-leave-receipt 1"
    merchant: Merchant
    remedy: Remedy
    time: Instant
    """When the membership ended."""
    certificates: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=2)]
    """Digests of the certificates (DER) that counted: the newest, and one it was to replace."""
    ledger_key: KeyId | None
    """The public key of the merchant's ledger."""
    notice: Annotated[str, Field(max_length=MAX_NOTICE_BYTES)] | None
    """The merchant's own signed words, where its site could still sign."""
    spent: Spent | None
    """Absent: the server never got an entry of its ledger."""
    releases: Annotated[tuple[Holding, ...], Field(max_length=20_000)]
    """Every release that holds updates of the merchant, by channel, oldest first."""
    runs: Annotated[tuple[UnreleasedRun, ...], Field(max_length=20_000)]
    """Every run that holds updates of it and was not released."""
    newest_without: Annotated[tuple[ChannelRelease, ...], Field(max_length=64)]
    """Of each channel the newest release that does not hold it, where there is one."""
    checkpoint: Annotated[str, Field(max_length=MAX_NOTE_BYTES)]
    """The signed checkpoint of the log that all this was read from; its log says ``left``."""

    def signed(self, key: Ed25519PrivateKey) -> bytes:
        """The receipt under the operator's plan key.

        Raises:
            InvalidInputError: it is larger than a receipt may be.
        """
        data = sign(_plain(self), key, domain=RECEIPT_DOMAIN).to_bytes()
        if len(data) > MAX_RECEIPT_BYTES:
            raise InvalidInputError(
                f"the receipt of {self.merchant} has {len(data)} bytes, more than a reply may have"
            )
        return data

    def log(self, *, key_id: str) -> Checkpoint:
        """The checkpoint, once the key has signed it.

        Raises:
            TransparencyError: another key signed, or it was changed.
            InvalidInputError: it is none.
        """
        what = "the receipt's checkpoint"
        return SignedCheckpoint.parse(self.checkpoint.encode(), what).verify(key_id=key_id)

    def statement(self) -> Notice | None:
        """The merchant's own notice, once it is known to be that of this ledger and to say this.

        Raises:
            SignatureError: it is signed by another key, or says something else.
            InvalidInputError: it is none.
        """
        if self.notice is None:
            return None
        notice = read_notice(self.notice.encode(), key_id=self.ledger_key)
        if (notice.merchant, notice.remedy) != (self.merchant, self.remedy):
            raise SignatureError("the merchant's notice within the receipt says something else")
        return notice


def read_notice(data: bytes, *, key_id: str | None) -> Notice:
    """A notice that the ledger's key has signed.

    Raises:
        SignatureError: another key signed, or the notice was changed.
        InvalidInputError: the bytes are none.
    """
    return _read(Notice, data, MAX_NOTICE_BYTES, NOTICE_DOMAIN, key_id)


def read_receipt(data: bytes, *, key_id: str | None) -> Receipt:
    """A receipt that the operator's plan key has signed.

    Args:
        data: the receipt, to the byte.
        key_id: the plan key that is trusted; absent, the key that the receipt itself names.

    Raises:
        SignatureError: another key signed, or the receipt was changed.
        InvalidInputError: the bytes are none.
    """
    return _read(Receipt, data, MAX_RECEIPT_BYTES, RECEIPT_DOMAIN, key_id)


def moment_of(now: datetime) -> Instant:
    """A moment as notices and receipts write it."""
    return instant(now)


_Kind = TypeVar("_Kind", Notice, Receipt)


def _plain(part: Notice | Receipt) -> dict[str, object]:
    return part.model_dump(mode="json")


def _read(kind: type[_Kind], data: bytes, most: int, domain: str, key_id: str | None) -> _Kind:
    what = f"the {domain}"
    if len(data) > most:
        raise InvalidInputError(f"{what} has more than {most} bytes; it is none")
    signed = Signed.parse(data, what)
    if signed.to_bytes() != data:
        raise SignatureError(f"{what} is not in canonical form: it was edited")
    try:
        return kind.model_validate(signed.verify(domain, key_id=key_id))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(f"{what}: {where}: {first['msg']}") from error
