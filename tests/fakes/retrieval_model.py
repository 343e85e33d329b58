"""A release that needs no model: a text's vector is the sum of its words' fixed random vectors.

Use ``FakeRetrievalModel()`` wherever an index wants a model, and ``Product("id", "a title")``
wherever it wants an item. Words that two texts share make their vectors alike.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.core.canonical import sha256_hex
from hansa.core.ids import Sha256

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    item_id: str
    title: str
    price: float | None = 1.0
    available: bool = True

    @property
    def text(self) -> str:
        return self.title.lower()


class FakeRetrievalModel:
    dense_weight = 1.0

    def __init__(self, dim: int = 64, name: str = "fake") -> None:
        self._dim = dim
        self._name = name
        self.embedded = 0
        """How many texts were embedded so far."""

    @property
    def digest(self) -> Sha256:
        return sha256_hex(self._name.encode())

    def embed(self, texts: Sequence[str]) -> Floats:
        self.embedded += len(texts)
        return np.stack([self._embed(text) for text in texts])

    def user_vector(self, history: Floats) -> Floats:
        return history.mean(axis=0)

    def item_vectors(self, embeddings: Floats) -> Floats:
        return embeddings

    def _embed(self, text: str) -> Floats:
        vectors = [self._word(word) for word in text.lower().split()] or [np.ones(self._dim)]
        total = np.sum(vectors, axis=0)
        return (total / np.linalg.norm(total)).astype(np.float32)

    def _word(self, word: str) -> npt.NDArray[np.float64]:
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self._dim)
