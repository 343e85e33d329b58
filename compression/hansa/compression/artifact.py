"""A release's files, and the proof that they are these: ``model.json`` names and hashes the rest.

The digest of ``model.json`` therefore stands for the whole artifact. Reading one needs neither
torch nor transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.errors import InvalidInputError, UntrustedReleaseError
from hansa.core.ids import Sha256

MODEL = "model.json"
ENCODER = "encoder.onnx"
TOWER = "tower.onnx"
TOKENIZER = "tokenizer.json"
HASHED = (ENCODER, TOWER, TOKENIZER)
"""The files that ``model.json`` vouches for."""

MAX_MODEL_JSON_BYTES = 64 * 1024

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArtifactFile(_Part):
    """One file's digest and length."""

    sha256: Digest
    size_bytes: Annotated[int, Field(ge=1)]


class ModelCard(_Part):
    """``model.json``: what is in the artifact and how its numbers become scores."""

    format: Literal["hansa-artifact-1"] = "hansa-artifact-1"
    base: str
    """The name of the public backbone."""
    plan_digest: Digest | None = None
    """The run plan that trained it; absent for the public base model."""
    max_tokens: Annotated[int, Field(ge=8, le=512)]
    """Texts are cut after so many tokens."""
    embedding_dim: Annotated[int, Field(ge=1)]
    """Length of a sentence embedding."""
    vector_dim: Annotated[int, Field(ge=1)]
    """Length of the tower's user and item vectors."""
    search_score: Literal["bm25/max + dense_weight * cosine"] = "bm25/max + dense_weight * cosine"
    dense_weight: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    history: Literal["mean of embeddings"] = "mean of embeddings"
    """What the tower's user side receives."""
    recommend_score: Literal["dot(user_vector, item_vector)"] = "dot(user_vector, item_vector)"
    files: Mapping[str, ArtifactFile]

    def to_bytes(self) -> bytes:
        """The canonical JSON that is shipped."""
        return canonical_json(self.model_dump(mode="json"))


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A folder whose ``model.json`` was read; the other files are checked as they are read."""

    folder: Path
    card: ModelCard
    digest: Sha256
    """The SHA-256 digest of ``model.json``, and so of everything."""
    files: Mapping[str, ArtifactFile]
    """All files of the release, ``model.json`` included: its targets."""

    @property
    def size_bytes(self) -> int:
        """What a merchant downloads."""
        return sum(file.size_bytes for file in self.files.values())

    def read(self, name: str) -> bytes:
        """The bytes of one of the hashed files, checked; use them and not the path again.

        Raises:
            UntrustedReleaseError: the file is missing, or not the one that was released.
        """
        expected = self.card.files[name]
        data = _read(self.folder / name, expected.size_bytes)
        if len(data) != expected.size_bytes or sha256_hex(data) != expected.sha256:
            raise UntrustedReleaseError(
                f"{name} is not the file that was released; fetch the release again"
            )
        return data


def describe(data: bytes) -> ArtifactFile:
    """The digest and length of a file's bytes."""
    return ArtifactFile(sha256=sha256_hex(data), size_bytes=len(data))


def read_artifact(folder: Path, *, expected: Sha256 | None = None) -> Artifact:
    """The artifact in a folder; ``expected`` is the digest of ``model.json`` that is trusted.

    Raises:
        UntrustedReleaseError: ``model.json`` is missing, malformed, or not the expected one.
    """
    data = _read(folder / MODEL, MAX_MODEL_JSON_BYTES)
    digest = sha256_hex(data)
    if expected is not None and digest != expected:
        raise UntrustedReleaseError(f"{MODEL} is not the one that was released; fetch it again")
    card = _parse(data)
    files = {**card.files, MODEL: describe(data)}
    return Artifact(folder=folder, card=card, digest=digest, files=files)


def _parse(data: bytes) -> ModelCard:
    try:
        card = ModelCard.model_validate(parse_json(data, MODEL))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UntrustedReleaseError(f"{MODEL}: {where}: {first['msg']}") from error
    except (InvalidInputError, RecursionError) as error:
        raise UntrustedReleaseError(f"{MODEL} is not JSON that can be read") from error
    if set(card.files) != set(HASHED):
        raise UntrustedReleaseError(f"{MODEL} must name exactly {', '.join(HASHED)}")
    return card


def _read(path: Path, limit: int) -> bytes:
    """At most one byte more than ``limit``, so that a file which is too long shows as such."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UntrustedReleaseError(f"{path.name} cannot be read: {error.strerror}") from error
    return data
