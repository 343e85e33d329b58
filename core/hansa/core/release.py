"""The release manifest: what a released model is, where it comes from and what privacy it cost.

A manifest holds public facts only. It is itself a TUF target; its files are the other targets of
the release, so that every byte is vouched for twice: by the signed targets metadata and by the
manifest.

References:
    The Update Framework specification, https://theupdateframework.github.io/specification/latest/
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.errors import HansaError, InvalidInputError, UntrustedReleaseError
from hansa.core.ids import ReleaseVersion, RunId, Sha256

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 64

_CHANNEL = re.compile(r"[a-z][a-z0-9-]{0,31}")
_TUF_ROLES = frozenset({"root", "targets", "snapshot", "timestamp"})
_EPSILON_STEP = Decimal("0.0001")


def check_channel(text: str) -> str:
    """The text as a channel name; it is also the name of the channel's TUF role.

    Raises:
        InvalidInputError: it has other characters than a-z, 0-9 and hyphens, or is a role of TUF.
    """
    if not _CHANNEL.fullmatch(text) or text in _TUF_ROLES:
        raise InvalidInputError(
            "a channel is named by at most 32 lower-case letters, digits and hyphens, "
            "and not root, targets, snapshot or timestamp"
        )
    return text


def pointer_path(channel: str) -> str:
    """The target that always holds the manifest of the channel's newest release."""
    return f"{check_channel(channel)}/{MANIFEST_NAME}"


def target_path(channel: str, version: ReleaseVersion, name: str) -> str:
    """The target of one file of one release."""
    return f"{check_channel(channel)}/{version}/{name}"


def epsilon_text(epsilons: Iterable[float]) -> str:
    """The largest of the merchants' epsilons, rounded up to four decimals: never an understatement.

    Raises:
        InvalidInputError: there is none, or one is negative, infinite or not a number.
    """
    values = [Decimal(value) for value in epsilons]
    if not values or not all(value.is_finite() and value >= 0 for value in values):
        raise InvalidInputError("a release needs the finite epsilon of at least one merchant")
    return str(max(values).quantize(_EPSILON_STEP, rounding=ROUND_CEILING))


def _channel(text: str) -> str:
    try:
        return check_channel(text)
    except InvalidInputError as error:
        raise ValueError(str(error)) from error


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _growing(rounds: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(rounds)):
        raise ValueError("rounds must grow strictly")
    return rounds


def _not_the_manifest(name: str) -> str:
    if name == MANIFEST_NAME:
        raise ValueError(f"{MANIFEST_NAME} describes the files and is none of them")
    return name


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
FileName = Annotated[PlainName, AfterValidator(_not_the_manifest)]
VersionNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]
Amount = Annotated[float, Field(allow_inf_nan=False)]


class ManifestPart(BaseModel):
    """A frozen piece of a manifest; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileFacts(ManifestPart):
    """What a file must be, to the byte."""

    sha256: Digest
    size_bytes: Annotated[int, Field(ge=0, le=2**40)]


class BaseModelFacts(ManifestPart):
    """The public, pre-trained encoder under the release."""

    name: PlainName
    digest: Digest
    """SHA-256 over the encoder's files, as the run computed it."""


class ReleaseManifest(ManifestPart):
    """One release of one channel: provenance, privacy, fidelity and files."""

    version: VersionNumber
    """The release's number within its channel; it only grows."""
    channel: Annotated[str, AfterValidator(_channel)]
    run: Annotated[str, Field(min_length=1, max_length=128)]
    plan_name: PlainName
    plan_digest: Digest
    rounds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_growing)
    ]
    """The rounds whose aggregates went into this model."""
    epsilon: Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]
    """The largest epsilon over the merchants, rounded up (see ``epsilon_text``)."""
    delta: Annotated[float, Field(gt=0.0, lt=0.01)]
    unit: Annotated[str, Field(pattern=r"^[a-z][a-z_-]{0,62}$")]
    """Who is protected, for example "shopper"."""
    neighbouring_relation: Annotated[str, Field(pattern=r"^[a-z][a-z_-]{0,62}$")]
    """For example "add_or_remove_one"."""
    accountants: Annotated[dict[PlainName, str], Field(min_length=1)]
    """Name to version of each accountant that computed epsilon."""
    base_model: BaseModelFacts
    aggregate_sha256: Digest
    """The aggregate from which the released files were built."""
    files: Annotated[dict[FileName, FileFacts], Field(min_length=1, max_length=MAX_FILES)]
    fidelity: dict[PlainName, Amount]
    """Figures of the release gate, for example "min_cosine"."""
    created: Annotated[AwareDatetime, AfterValidator(_utc)]
    restores: VersionNumber | None = None
    """The earlier version whose files this one serves again; absent: the files are new."""
    parent: VersionNumber | None = None
    """The release from whose model the run went on; absent: it began with the base model."""

    @model_serializer(mode="wrap")
    def _leave_out_an_absent_parent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A client of version 1.0 does not know the field, and need not."""
        body: dict[str, Any] = handler(self)
        if self.parent is None:
            del body["parent"]
        return body

    @classmethod
    def parse(cls, data: bytes) -> "ReleaseManifest":
        """A manifest from its canonical bytes.

        Raises:
            UntrustedReleaseError: the bytes are no manifest, or not the canonical form of one.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise UntrustedReleaseError("the release manifest is larger than 1 MiB; refuse it")
        manifest = cls._validated(data)
        if manifest.to_bytes() != data:
            raise UntrustedReleaseError("the release manifest is not in canonical form; refuse it")
        return manifest

    @classmethod
    def _validated(cls, data: bytes) -> "ReleaseManifest":
        try:
            return cls.model_validate(parse_json(data, "the release manifest"))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "its shape"
            raise UntrustedReleaseError(
                f"the release manifest is not valid: {where}: {first['msg']}"
            ) from error
        except (HansaError, ValueError, RecursionError) as error:
            raise UntrustedReleaseError(f"the release manifest is not valid: {error}") from error

    def to_bytes(self) -> bytes:
        """The canonical JSON form, which is what is signed and compared."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> Sha256:
        """The SHA-256 digest of the canonical form."""
        return sha256_hex(self.to_bytes())

    @property
    def release_version(self) -> ReleaseVersion:
        """The version as a type of its own."""
        return ReleaseVersion(self.version)

    @property
    def run_id(self) -> RunId:
        """The run as a type of its own."""
        return RunId(self.run)

    def target_facts(self) -> dict[str, Any]:
        """The facts that the signed targets metadata repeats in its custom field."""
        return {
            "version": self.version,
            "channel": self.channel,
            "base": self.base_model.model_dump(mode="json"),
        }

    def verify_file(self, name: str, sha: str, size_bytes: int) -> None:
        """Checks a file's digest and length (bytes) against the manifest.

        Raises:
            UntrustedReleaseError: the manifest lacks the name, or promises something else.
        """
        expected = self.files.get(name)
        if expected is None:
            raise UntrustedReleaseError(f"file {name!r} is not part of release {self.version}")
        if (expected.sha256, expected.size_bytes) != (sha, size_bytes):
            raise UntrustedReleaseError(
                f"file {name!r} of release {self.version} is not what the manifest promises: "
                f"{size_bytes} bytes with digest {sha[:12]}, "
                f"not {expected.size_bytes} bytes with {expected.sha256[:12]}"
            )
