"""The leaves of the transparency log: one public fact each, in canonical JSON.

Ledger entries stand here by their hash alone, and sentences for people by their digest: a leaf
holds who, when, which round and which bytes, and nothing else. A leaf never changes once it is in
the log, and its bytes are its identity: the same fact is not logged twice.

A reader of an earlier version meets kinds that it does not know; it keeps them as they are, because
the tree is over bytes.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hansa.core.canonical import canonical_json, digest, parse_json
from hansa.core.errors import HansaError, TransparencyError
from hansa.core.ids import Sha256
from hansa.core.privacy.bodies import Digest, Label, Position
from hansa.core.transparency.merkle import leaf_hash

MAX_LEAF_BYTES: Final = 1 << 20

Merchant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Word = Annotated[str, Field(max_length=64)]
Instant = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
Count = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]


class _Leaf(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        """The canonical JSON form, which is what is hashed; what is absent is left out."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True))

    def hash(self) -> bytes:
        """The Merkle leaf hash."""
        return leaf_hash(self.to_bytes())


class BeginLeaf(_Leaf):
    """The log begins. What was there before follows, in the order of its tables, not of time."""

    kind: Literal["begin"] = "begin"
    origin: Annotated[str, Field(max_length=80)]
    time: Instant
    merchants: Count
    """How many merchants the server knew then."""
    runs: Count
    entries: Count
    """How many ledger entries it held then."""


class EntryLeaf(_Leaf):
    """A merchant's signed ledger entry."""

    kind: Literal["entry"] = "entry"
    merchant: Merchant
    position: Position
    hash_: Annotated[Digest, Field(alias="hash")]
    """The entry's own hash, which its merchant has signed."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        return entry_leaf(self.merchant, self.position, self.hash_)


class PlanLeaf(_Leaf):
    """A run was queued with a signed plan."""

    kind: Literal["plan"] = "plan"
    run: Label
    plan_digest: Digest
    started: Instant


class CodeLeaf(_Leaf):
    """Which code somebody says that it runs."""

    kind: Literal["code"] = "code"
    role: Literal["server", "client"]
    software: Word
    code_digest: Digest


class CohortLeaf(_Leaf):
    """Whom a round asked, and why somebody's answer does not count."""

    kind: Literal["cohort"] = "cohort"
    run: Label
    round: Count
    phase: Word = "train"
    asked: tuple[Merchant, ...]
    refused: dict[Merchant, Word]
    """Merchant to the rule that its answer broke, such as ``deadline`` or ``budget``."""
    sentences_sha256: Digest
    """Digest of the sentences beside the rules; they are in the pack."""


class AggregateLeaf(_Leaf):
    """What went into an aggregate, and what came of it."""

    kind: Literal["aggregate"] = "aggregate"
    run: Label
    round: Count
    inputs: dict[Merchant, Digest]
    """Merchant to digest of its update."""
    began: dict[Merchant, Count]
    """Merchant to the round whose model its work began with, where it is an earlier one."""
    output: Digest | None = None
    """Digest of the aggregate; absent where a foreign app keeps it to itself."""


class EndLeaf(_Leaf):
    """A run has ended."""

    kind: Literal["ended"] = "ended"
    run: Label
    state: Word
    finished: Instant | None = None
    release: Count
    """The release's number; 0: it released nothing."""


class ReleaseLeaf(_Leaf):
    """A release was published."""

    kind: Literal["release"] = "release"
    channel: Word
    version: Count
    run: Label
    manifest_sha256: Digest
    created: Instant
    parent: Count | None = None
    """The release from whose model the run went on."""
    restores: Count | None = None
    """The earlier release whose files this one serves again."""


class MemberLeaf(_Leaf):
    """A membership changed."""

    kind: Literal["member"] = "member"
    merchant: Merchant
    change: Literal["joined", "renewed", "revoked", "left"]
    certificate_sha256: Digest
    """Of the certificate (DER) that counts from now on, or counted until now."""
    ledger_key: Digest | None = None
    """The merchant's public ledger key."""


class AuditorLeaf(_Leaf):
    """Somebody may read the log and the packs, or may no longer."""

    kind: Literal["auditor"] = "auditor"
    name: Merchant
    change: Literal["admitted", "dismissed"]
    certificate_sha256: Digest


class UnknownLeaf(_Leaf):
    """A fact of a kind that came later than this program."""

    kind: Label
    body: bytes

    def to_bytes(self) -> bytes:
        """The bytes as they came."""
        return self.body


KnownLeaf = (
    BeginLeaf
    | EntryLeaf
    | PlanLeaf
    | CodeLeaf
    | CohortLeaf
    | AggregateLeaf
    | EndLeaf
    | ReleaseLeaf
    | MemberLeaf
    | AuditorLeaf
)
Leaf = KnownLeaf | UnknownLeaf

_KNOWN: Final[TypeAdapter[KnownLeaf]] = TypeAdapter(
    Annotated[KnownLeaf, Field(discriminator="kind")]
)
_KINDS: Final = frozenset(
    {
        "begin", "entry", "plan", "code", "cohort",
        "aggregate", "ended", "release", "member", "auditor",
    }
)  # fmt: skip


def parse_leaf(data: bytes, what: str) -> Leaf:
    """A leaf from its canonical JSON; ``what`` names it in the error.

    Raises:
        TransparencyError: the bytes are no leaf, or not the canonical form of one.
    """
    try:
        leaf = _leaf(data, what)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TransparencyError(
            f"{what} is not a fact of a log: {where}: {first['msg']}"
        ) from error
    except (HansaError, ValueError, RecursionError) as error:
        raise TransparencyError(f"{what} is not a fact of a log: {error}") from error
    if leaf.to_bytes() != data:
        raise TransparencyError(f"{what} is not in canonical form: it was edited")
    return leaf


def _leaf(data: bytes, what: str) -> Leaf:
    if len(data) > MAX_LEAF_BYTES:
        raise TransparencyError(f"{what} is larger than a fact may be")
    value: Any = parse_json(data, what)
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise TransparencyError(f"{what} names no kind")
    if kind in _KINDS:
        return _KNOWN.validate_python(value)
    if canonical_json(value) != data:
        raise TransparencyError(f"{what} is not in canonical form: it was edited")
    return UnknownLeaf(kind=kind, body=data)


def entry_leaf(merchant: str, position: int, entry_hash: str) -> bytes:
    """The leaf of a ledger entry, in canonical JSON; there are many, and nothing needs escaping."""
    return (
        f'{{"hash":"{entry_hash}","kind":"entry","merchant":"{merchant}","position":{position}}}'
    ).encode()


def instant(moment: datetime) -> Instant:
    """A moment as leaves write it, to the microsecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sentences_digest(refused: dict[str, str]) -> Sha256:
    """The digest of a round's refusals with their sentences, by merchant."""
    return digest(refused)
