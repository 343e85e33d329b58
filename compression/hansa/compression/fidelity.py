"""How much a candidate lost against its fp32 teacher, on public texts.

The figures say how faithful a candidate is, not how relevant its answers are: the teacher's own
ranking is taken for the truth.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from hansa.core.errors import InvalidInputError

Floats = npt.NDArray[np.float32]

DEPTH = 10
"""Ranks that nDCG@10 looks at."""

MIN_TEXTS = DEPTH + 1
"""A query has at least ten other texts to rank."""

_BLOCK = 256
"""Queries whose scores are held at once."""


class TextEncoder(Protocol):
    """Anything that turns texts into unit vectors."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors ``(n, dim)`` in the texts' order."""
        ...


class Fidelity(BaseModel):
    """A candidate's figures; all numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    texts: Annotated[int, Field(ge=MIN_TEXTS)]
    """Distinct texts on which the figures stand."""
    mean_cosine: float
    """Mean cosine between the candidate's and the teacher's embedding of the same text."""
    p1_cosine: float
    """The 1st percentile of these cosines: the texts that suffer most."""
    ndcg_loss: float
    """1 - nDCG@10 of the candidate's ranking against the teacher's; 0 is the same ranking."""
    size_bytes: Annotated[int, Field(ge=0)]
    """All files of the candidate together."""
    teacher_size_bytes: Annotated[int, Field(ge=0)]
    """The fp32 teacher's graph."""


def measure(
    teacher: TextEncoder,
    candidate: TextEncoder,
    texts: Sequence[str],
    *,
    size_bytes: int,
    teacher_size_bytes: int,
) -> Fidelity:
    """The candidate's figures on the distinct ones of ``texts``, beside both sizes.

    Raises:
        InvalidInputError: fewer than 11 distinct texts, embeddings of unlike shape, or numbers
            that are not finite.
    """
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < MIN_TEXTS:
        raise InvalidInputError(f"fidelity needs {MIN_TEXTS} distinct texts or more; give more")
    expected, actual = teacher.embed(distinct), candidate.embed(distinct)
    if expected.shape != actual.shape or not np.isfinite(expected + actual).all():
        raise InvalidInputError("teacher and candidate must give finite vectors of one shape")
    cosines = np.sum(_unit(expected) * _unit(actual), axis=1)
    return Fidelity(
        texts=len(distinct),
        mean_cosine=float(cosines.mean()),
        p1_cosine=float(np.percentile(cosines, 1)),
        ndcg_loss=ndcg_loss(expected, actual),
        size_bytes=size_bytes,
        teacher_size_bytes=teacher_size_bytes,
    )


def ndcg_loss(teacher: Floats, candidate: Floats) -> float:
    """What nDCG@10 loses when the candidate ranks in the teacher's place.

    Every text is once the query; the corpus is all other texts; both models rank it by cosine,
    ties by position. The teacher's first text is worth 10, its second 9, ... its tenth 1, all
    others 0. The candidate's first ten earn these gains divided by ``log2(1 + rank)``; the sum
    is divided by what the teacher's own order earns, and averaged over the queries. The loss is
    1 minus this mean: 0 for the same first ten in the same order, 1 for none of them.

    Args:
        teacher: Vectors ``(n, dim)``, n >= 11.
        candidate: Vectors ``(n, any dim)`` of the same texts.

    References:
        Jarvelin and Kekalainen, Cumulated gain-based evaluation of IR techniques, 2002.
    """
    left, right = _unit(teacher), _unit(candidate)
    discount = 1.0 / np.log2(2.0 + np.arange(DEPTH))
    grades = np.arange(DEPTH, 0, -1, dtype=np.float64)
    earned = 0.0
    for start in range(0, len(left), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(left)))
        truth, ranked = _first_ten(left, rows), _first_ten(right, rows)
        gains = ((ranked[:, :, None] == truth[:, None, :]) * grades).sum(axis=2)
        earned += float((gains @ discount).sum())
    return max(0.0, 1.0 - earned / (len(left) * float(grades @ discount)))


def _first_ten(vectors: Floats, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The ten nearest other texts ``(len(rows), 10)`` of each row, best first."""
    scores = vectors[rows] @ vectors.T
    scores[np.arange(len(rows)), rows] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, np.maximum(lengths, 1e-12), dtype=np.float32)
