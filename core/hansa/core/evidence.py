"""The audit pack: everything an auditor needs about one run, in one file, and nothing private.

A pack is a stored (uncompressed) zip, the same bytes for the same evidence:

* ``index.json``: the SHA-256 of every other member, signed by the plan's key;
* ``plan.json``: the canonical plan with the operator's signature;
* ``run.json``: which merchants' updates went into which aggregate;
* ``merchants.json``: each merchant's ledger key and certificate;
* ``ledgers/MERCHANT.jsonl``: each merchant's whole privacy ledger;
* ``log/checkpoint.txt`` and ``log/leaves.jsonl``: the operator's transparency log up to a signed
  checkpoint, every leaf of it; absent in packs of a server that keeps none;
* ``release/manifest.json`` and ``release/metadata/*.json``: the release and its TUF metadata, as
  the bytes that were signed; absent when the run released nothing;
* ``release/privacy.json``: the release's privacy statement, one of the files that its manifest
  names; absent for releases that were made before there were statements.

Reading checks form, limits and the index; ``hansa.audit.verifier`` judges what the evidence shows.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hansa.core.archive import check_spelling, read_archive, write_archive
from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.errors import AuditFailedError, HansaError, InvalidInputError
from hansa.core.privacy.entries import Digest, Entry, Label
from hansa.core.signing import KeyId, Signed, key_id_of, sign

PLAN_DOMAIN: Final = "plan"
INDEX_DOMAIN: Final = "audit pack"

CHECKPOINT, LEAVES = "log/checkpoint.txt", "log/leaves.jsonl"
INDEX, PLAN, RUN, MERCHANTS = "index.json", "plan.json", "run.json", "merchants.json"
MANIFEST: Final = "release/manifest.json"
STATEMENT: Final = "release/privacy.json"

MAX_PACK_BYTES: Final = 256 << 20
MAX_MEMBERS: Final = 4096

_LEDGER = re.compile(r"ledgers/([a-z0-9][a-z0-9-]{0,62})\.jsonl")
_METADATA = re.compile(r"release/metadata/([a-z0-9][a-z0-9.-]{0,62}\.json)")
_FIXED = frozenset({INDEX, PLAN, RUN, MERCHANTS, MANIFEST, STATEMENT, CHECKPOINT, LEAVES})

MerchantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Reason = Annotated[str, Field(max_length=500)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RoundRecord(_Part):
    """What the server did with one round."""

    round: Annotated[int, Field(ge=0)]
    cohort: tuple[MerchantName, ...]
    """The merchants that were asked."""
    accepted: dict[MerchantName, Digest]
    """Merchant to digest of the update that entered the aggregate."""
    refused: dict[MerchantName, Reason] = {}
    """Merchant to the reason why its update did not."""
    aggregate_sha256: Digest | None = None
    """Absent: the round failed."""
    began: dict[MerchantName, Annotated[int, Field(ge=0)]] = {}
    """Merchant to the round whose model its work began with, where it is an earlier one."""

    def work_round(self, merchant: str) -> int:
        """The round under which the merchant booked its work."""
        return self.began.get(merchant, self.round)


class RunRecord(_Part):
    """What the server did in the run."""

    run: Label
    plan_digest: Digest
    phase: Label = "train"
    """The phase whose reservations the accepted updates need."""
    rounds: tuple[RoundRecord, ...]
    started: AwareDatetime
    finished: AwareDatetime | None = None
    """Absent: the run goes on."""


class MerchantRecord(_Part):
    """Who keeps a ledger."""

    ledger_public_key: KeyId
    certificate_pem: Annotated[str, Field(max_length=20_000)]


class Release(_Part):
    """The release's signed bytes."""

    manifest: bytes
    metadata: dict[str, bytes]
    """TUF metadata by file name: ``root.json``, ``timestamp.json`` and so on."""
    statement: bytes | None = None
    """The file ``privacy.json``; absent: the release has none."""


class LogCopy(_Part):
    """The operator's whole log, as it was when a checkpoint was signed."""

    checkpoint: bytes
    """The signed note."""
    leaves: tuple[bytes, ...]
    """Every leaf's canonical JSON, in order."""


class Evidence(_Part):
    """The content of a pack."""

    plan: Signed
    run: RunRecord
    merchants: dict[MerchantName, MerchantRecord]
    ledgers: dict[MerchantName, tuple[Entry, ...]]
    release: Release | None = None
    log: LogCopy | None = None
    """Absent: the server kept no log."""


_RUN: TypeAdapter[RunRecord] = TypeAdapter(RunRecord)
_MERCHANTS: TypeAdapter[dict[MerchantName, MerchantRecord]] = TypeAdapter(
    dict[MerchantName, MerchantRecord]
)
_T = TypeVar("_T")


def write_pack(evidence: Evidence, key: Ed25519PrivateKey) -> bytes:
    """The pack's bytes, with its index signed by the key that signed the plan.

    Raises:
        InvalidInputError: the key is another one, or a name cannot be a member.
    """
    if key_id_of(key) != evidence.plan.key_id:
        raise InvalidInputError("an audit pack is signed by the key that signed its plan")
    members = _members(evidence)
    foreign = next((name for name in members if not _is_member(name)), None)
    if foreign is not None:
        raise InvalidInputError(f"{foreign!r} cannot be a member of an audit pack")
    digests = {name: sha256_hex(data) for name, data in sorted(members.items())}
    index = sign({"members": digests}, key, domain=INDEX_DOMAIN)
    return write_archive({INDEX: index.to_bytes(), **members})


def read_pack(
    data: bytes, *, max_size_bytes: int = MAX_PACK_BYTES, max_members: int = MAX_MEMBERS
) -> Evidence:
    """The evidence in a pack from anybody.

    Args:
        data: the zip file.
        max_size_bytes: the pack and the sum of its members may be no larger.
        max_members: the pack may hold no more members.

    Raises:
        InvalidInputError: the bytes are no zip file, or larger than allowed.
        AuditFailedError: a member is foreign, repeated, compressed, damaged, missing, malformed or
            not what the signed index says (the sentence names it), or the zip file is not written
            as ``write_pack`` writes it.
    """
    members = read_archive(
        data, is_member=_is_member, max_size_bytes=max_size_bytes, max_members=max_members
    )
    index = _checked_index(members)
    plan = _signed(members, PLAN)
    if plan.key_id != index.key_id:
        raise AuditFailedError(f"{INDEX} is signed by another key than {PLAN}")
    check_spelling(members, data)
    return Evidence(
        plan=plan,
        run=_parsed(members, RUN, _RUN),
        merchants=_parsed(members, MERCHANTS, _MERCHANTS),
        ledgers={
            match[1]: _ledger(name, members[name])
            for name in members
            if (match := _LEDGER.fullmatch(name))
        },
        release=_release(members),
        log=_log(members),
    )


def _members(evidence: Evidence) -> dict[str, bytes]:
    merchants = {name: one.model_dump(mode="json") for name, one in evidence.merchants.items()}
    members = {
        PLAN: evidence.plan.to_bytes(),
        RUN: canonical_json(evidence.run.model_dump(mode="json")),
        MERCHANTS: canonical_json(merchants),
    }
    for merchant, entries in evidence.ledgers.items():
        lines = [entry.to_bytes() + b"\n" for entry in entries]
        members[f"ledgers/{merchant}.jsonl"] = b"".join(lines)
    if evidence.release is not None:
        members[MANIFEST] = evidence.release.manifest
        for name, metadata in evidence.release.metadata.items():
            members[f"release/metadata/{name}"] = metadata
        if evidence.release.statement is not None:
            members[STATEMENT] = evidence.release.statement
    if evidence.log is not None:
        members[CHECKPOINT] = evidence.log.checkpoint
        members[LEAVES] = b"".join(leaf + b"\n" for leaf in evidence.log.leaves)
    return members


def _is_member(name: str) -> bool:
    return name in _FIXED or bool(_LEDGER.fullmatch(name) or _METADATA.fullmatch(name))


def _member(members: Mapping[str, bytes], name: str) -> bytes:
    data = members.get(name)
    if data is None:
        raise AuditFailedError(f"{name} is missing from the audit pack")
    return data


def _signed(members: Mapping[str, bytes], name: str) -> Signed:
    data = _member(members, name)
    try:
        signed = Signed.parse(data, name)
        if signed.to_bytes() != data:
            raise AuditFailedError(f"{name} is not in canonical form: it was edited")
        return signed
    except (InvalidInputError, RecursionError) as error:
        raise AuditFailedError(f"{name} is malformed: {error}") from error


def _checked_index(members: Mapping[str, bytes]) -> Signed:
    """The index, once every member is what it says and nothing is missing."""
    index = _signed(members, INDEX)
    try:
        promised = index.verify(INDEX_DOMAIN).get("members")
    except HansaError as error:
        raise AuditFailedError(f"{INDEX}: {error}") from error
    if not isinstance(promised, dict):
        raise AuditFailedError(f"{INDEX} lists no members")
    for name in sorted(promised.keys() | members.keys() - {INDEX}):
        if name not in members:
            raise AuditFailedError(f"{name} is missing from the audit pack")
        if promised.get(name) != sha256_hex(members[name]):
            raise AuditFailedError(f"{name} is not what the pack's signed index says")
    return index


def _parsed(members: Mapping[str, bytes], name: str, form: TypeAdapter[_T]) -> _T:
    data = _member(members, name)
    try:
        value = parse_json(data, name)
        if canonical_json(value) != data:
            raise AuditFailedError(f"{name} is not in canonical form: it was edited")
        return form.validate_python(value)
    except (ValidationError, InvalidInputError, RecursionError) as error:
        raise AuditFailedError(f"{name} is malformed: {error}") from error


def _ledger(name: str, data: bytes) -> tuple[Entry, ...]:
    if data and not data.endswith(b"\n"):
        raise AuditFailedError(f"{name} ends within a line: it was cut off")
    try:
        return tuple(
            Entry.parse(line, f"entry {index}") for index, line in enumerate(data.split(b"\n")[:-1])
        )
    except HansaError as error:
        raise AuditFailedError(f"{name}: {error}") from error


def _release(members: Mapping[str, bytes]) -> Release | None:
    metadata = {
        match[1]: data for name, data in members.items() if (match := _METADATA.fullmatch(name))
    }
    statement = members.get(STATEMENT)
    if MANIFEST not in members and not metadata and statement is None:
        return None
    return Release(manifest=_member(members, MANIFEST), metadata=metadata, statement=statement)


def _log(members: Mapping[str, bytes]) -> LogCopy | None:
    if CHECKPOINT not in members and LEAVES not in members:
        return None
    data = _member(members, LEAVES)
    if data and not data.endswith(b"\n"):
        raise AuditFailedError(f"{LEAVES} ends within a line: it was cut off")
    leaves = tuple(data.split(b"\n")[:-1])
    return LogCopy(checkpoint=_member(members, CHECKPOINT), leaves=leaves)
