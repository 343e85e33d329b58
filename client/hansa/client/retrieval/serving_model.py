"""A released model as the merchant runs it: ONNX Runtime and ``tokenizers``, no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hansa.compression.artifact import ENCODER, TOKENIZER, TOWER, Artifact, read_artifact
from hansa.compression.onnx_encoder import OnnxEncoder, OnnxGraph
from hansa.core.errors import InvalidInputError, UntrustedReleaseError
from hansa.core.ids import Sha256

Floats = npt.NDArray[np.float32]

_ROWS_PER_RUN = 1024


class ServingModel:
    """The encoder and the tower of one release; safe to call from many threads at once."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        """``threads`` is how many CPU threads one call may use.

        Raises:
            UntrustedReleaseError: a file is not the one that was released, or contradicts
                ``model.json``.
            InvalidInputError: a file cannot be loaded.
        """
        card = artifact.card
        self._encoder = OnnxEncoder(
            artifact.read(ENCODER),
            artifact.read(TOKENIZER),
            max_tokens=card.max_tokens,
            threads=threads,
        )
        self._tower = OnnxGraph(artifact.read(TOWER), threads=threads, what="the tower")
        self._artifact = artifact
        widths = [self._tower.width(name) for name in ("user_vector", "item_vector")]
        if self._encoder.dim != card.embedding_dim or widths != [card.vector_dim] * 2:
            raise UntrustedReleaseError("model.json and the graphs disagree about dimensions")

    @staticmethod
    def load(folder: Path, *, threads: int = 1, expected: Sha256 | None = None) -> "ServingModel":
        """The model in an artifact's folder; ``expected`` is the trusted digest of ``model.json``.

        Raises:
            UntrustedReleaseError: the folder does not hold the released files.
            InvalidInputError: a file cannot be loaded.
        """
        return ServingModel(read_artifact(folder, expected=expected), threads=threads)

    @property
    def digest(self) -> Sha256:
        """The artifact's digest: which release this is."""
        return self._artifact.digest

    @property
    def embedding_dim(self) -> int:
        """Length of a sentence embedding."""
        return self._artifact.card.embedding_dim

    @property
    def vector_dim(self) -> int:
        """Length of a user or item vector."""
        return self._artifact.card.vector_dim

    @property
    def dense_weight(self) -> float:
        """Weight of the cosine beside the lexical score in search."""
        return self._artifact.card.dense_weight

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors ``(n, embedding_dim)`` in the texts' order.

        Raises:
            ModelAnswerError: the model answers with numbers that are not finite.
        """
        return self._encoder.embed(texts)

    def user_vector(self, history: Floats) -> Floats:
        """The user vector ``(vector_dim,)`` of a history's item embeddings ``(items, dim)``.

        Raises:
            InvalidInputError: the history is empty, of another width, or not finite.
        """
        self._check(history)
        if not len(history):
            raise InvalidInputError("a history holds one item or more")
        mean = history.mean(axis=0, keepdims=True, dtype=np.float32)
        return np.asarray(self._run("user_vector", history=mean)[0], np.float32)

    def item_vectors(self, embeddings: Floats) -> Floats:
        """The item vectors ``(n, vector_dim)`` of item embeddings ``(n, embedding_dim)``.

        Raises:
            InvalidInputError: the embeddings are of another width, or not finite.
        """
        self._check(embeddings)
        vectors = np.zeros((len(embeddings), self.vector_dim), np.float32)
        for start in range(0, len(embeddings), _ROWS_PER_RUN):
            rows = slice(start, start + _ROWS_PER_RUN)
            vectors[rows] = self._run("item_vector", item=embeddings[rows])
        return vectors

    def _run(self, output: str, **given: Floats) -> Floats:
        """One side of the tower; the other side gets no rows."""
        nothing = np.zeros((0, self.embedding_dim), np.float32)
        feeds = {"history": nothing, "item": nothing} | {
            name: np.ascontiguousarray(value, np.float32) for name, value in given.items()
        }
        return self._tower.run([output], feeds)[0]

    def _check(self, embeddings: Floats) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim:
            raise InvalidInputError(f"embeddings have {self.embedding_dim} numbers each")
        if not np.isfinite(embeddings).all():
            raise InvalidInputError("embeddings must be finite numbers")
