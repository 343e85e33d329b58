"""A release's contents: the int8 encoder, the tower, the tokenizer and ``model.json``.

Building needs torch; serving does not. The same model gives the same bytes, hence the same digest.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from hansa.compression.artifact import (
    ENCODER,
    HASHED,
    MODEL,
    TOKENIZER,
    TOWER,
    Artifact,
    ModelCard,
    describe,
    read_artifact,
)
from hansa.compression.export import export_encoder, export_tower
from hansa.compression.fidelity import Fidelity, measure
from hansa.compression.gate import gate
from hansa.compression.onnx_encoder import OnnxEncoder, load_tokenizer
from hansa.compression.quantise import quantise_int8
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.plan import CompressionSpec, ModelSpec
from hansa.core.storage import fsync_directory, write_atomically

HISTORY_INPUT, ITEM_INPUT = "history", "item"
USER_OUTPUT, ITEM_OUTPUT = "user_vector", "item_vector"

_TEACHER = "teacher.onnx"
_RELEASE = "release"


@dataclass(frozen=True, kw_only=True)
class BaseInfo:
    """What ``model.json`` says about the model beside its dimensions."""

    model: ModelSpec
    plan_digest: Sha256 | None = None
    dense_weight: float = 1.0
    """Weight of the cosine beside the lexical score in search."""


class ZeroShotTower(nn.Module):
    """The tower of the public base model: both sides are the embeddings themselves."""

    def forward(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Mean history ``(n, dim)`` and items ``(m, dim)``, unchanged."""
        return history * 1.0, item * 1.0


def build_artifact(
    encoder: nn.Module, tokenizer_folder: Path, tower: nn.Module, base: BaseInfo, out: Path
) -> Artifact:
    """Writes a release's files into the new folder ``out``; it appears whole or not at all.

    Args:
        encoder: A BERT-like module with a ``last_hidden_state``; stays as it is.
        tokenizer_folder: The local Hugging Face folder with ``tokenizer.json``.
        tower: ``forward(history (n, dim), item (m, dim))`` gives the user vectors ``(n, k)`` and
            the item vectors ``(m, k)``; ``history`` is the mean of a shopper's item embeddings.
        base: What else ``model.json`` says.
        out: Must not exist yet.

    Raises:
        ConflictError: ``out`` exists.
        InvalidInputError: the tokenizer cannot be read, the model cannot be exported faithfully,
            or the tower's two sides are not of one width.
    """
    with _work_beside(out) as work:
        _stage(encoder, tokenizer_folder, tower, base, Path(work))
        return _publish(Path(work), out)


def build_gated_artifact(
    encoder: nn.Module,
    tokenizer_folder: Path,
    tower: nn.Module,
    base: BaseInfo,
    out: Path,
    *,
    texts: Sequence[str],
    limits: CompressionSpec,
) -> tuple[Artifact, Fidelity]:
    """``build_artifact``, but ``out`` appears only if the candidate passes the plan's gate.

    The int8 encoder is compared with the fp32 one on public ``texts`` (at least 11 distinct
    ones), both in ONNX Runtime; the size limit counts the whole artifact.

    Raises:
        ReleaseGateError: a limit is broken; nothing was written.
        ConflictError: ``out`` exists.
        InvalidInputError: as for ``build_artifact``, or too few texts.
    """
    with _work_beside(out) as work:
        staged = _stage(encoder, tokenizer_folder, tower, base, Path(work))
        figures = _fidelity(Path(work) / _TEACHER, staged, texts)
        gate(figures, limits)
        return _publish(Path(work), out), figures


def _work_beside(out: Path) -> tempfile.TemporaryDirectory[str]:
    if out.exists():
        raise ConflictError(f"{out} exists already; a release is written once, to a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")


def _stage(
    encoder: nn.Module, tokenizer_folder: Path, tower: nn.Module, base: BaseInfo, work: Path
) -> Artifact:
    """Writes the fp32 teacher into ``work`` and the release's files into a folder below it."""
    tokenizer = _tokenizer_bytes(tokenizer_folder)
    release = work / _RELEASE
    embedding_dim = export_encoder(
        encoder,
        work / _TEACHER,
        vocabulary=load_tokenizer(tokenizer).get_vocab_size(),
        max_tokens=base.model.max_tokens,
    )
    release.mkdir()
    quantise_int8(work / _TEACHER, release / ENCODER)
    write_atomically(release / TOKENIZER, tokenizer)
    vector_dim = _export_tower(tower, release / TOWER, embedding_dim)
    card = ModelCard(
        base=base.model.base,
        plan_digest=base.plan_digest,
        max_tokens=base.model.max_tokens,
        embedding_dim=embedding_dim,
        vector_dim=vector_dim,
        dense_weight=base.dense_weight,
        files={name: describe((release / name).read_bytes()) for name in HASHED},
    )
    write_atomically(release / MODEL, card.to_bytes())
    return read_artifact(release)


def _tokenizer_bytes(folder: Path) -> bytes:
    try:
        return (folder / TOKENIZER).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{folder} holds no readable {TOKENIZER}") from error


def _export_tower(tower: nn.Module, path: Path, embedding_dim: int) -> int:
    inputs = {HISTORY_INPUT: embedding_dim, ITEM_INPUT: embedding_dim}
    user, item = export_tower(tower, path, inputs=inputs, outputs=(USER_OUTPUT, ITEM_OUTPUT))
    if user != item:
        raise InvalidInputError(f"user vectors have {user} numbers, item vectors {item}")
    return user


def _fidelity(teacher: Path, staged: Artifact, texts: Sequence[str]) -> Fidelity:
    tokenizer, max_tokens = staged.read(TOKENIZER), staged.card.max_tokens
    models = [
        OnnxEncoder(model, tokenizer, max_tokens=max_tokens, threads=1)
        for model in (teacher.read_bytes(), staged.read(ENCODER))
    ]
    return measure(
        models[0],
        models[1],
        texts,
        size_bytes=staged.size_bytes,
        teacher_size_bytes=teacher.stat().st_size,
    )


def _publish(work: Path, out: Path) -> Artifact:
    (work / _RELEASE).rename(out)
    fsync_directory(out.parent)
    return read_artifact(out)
