"""Ranking quality with binary gains, over the full ranking of the candidates.

Ties go to the earlier candidate, so that equal scores never depend on a sort's whim.

References:
    Liang et al., "Variational autoencoders for collaborative filtering", arXiv:1802.05814 (recall
    divided by the smaller of k and the number of relevant items).
    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
"""

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError


def recall_at_k(scores: npt.ArrayLike, relevant: npt.ArrayLike, k: int = 10) -> float:
    """Relevant items among the k best, divided by how many there could be, ``min(k, relevant)``.

    Args:
        scores: one score a candidate, ``(candidates,)``; higher is better.
        relevant: whether each candidate is relevant, ``(candidates,)``.
        k: how many of the best count.

    Returns:
        Between 0 and 1; a perfect ranking has 1 even where more than k items are relevant.

    Raises:
        InvalidInputError: shapes differ, a score is not a number, nothing is relevant, or k < 1.
    """
    hits, possible = _hits(scores, relevant, k)
    return float(hits.sum() / possible)


def ndcg_at_k(scores: npt.ArrayLike, relevant: npt.ArrayLike, k: int = 10) -> float:
    """Discounted gain of the k best, divided by a perfect ranking's: ``1 / log2(rank + 1)`` a hit.

    Arguments, range and errors are those of ``recall_at_k``.
    """
    hits, possible = _hits(scores, relevant, k)
    discounts = 1.0 / np.log2(np.arange(2, max(len(hits), possible) + 2))
    return float(discounts[: len(hits)] @ hits / discounts[:possible].sum())


def _hits(
    scores: npt.ArrayLike, relevant: npt.ArrayLike, k: int
) -> tuple[npt.NDArray[np.bool_], int]:
    """Which of the k best are relevant, and how many could have been."""
    values, marks = np.asarray(scores, np.float64), np.asarray(relevant, np.bool_)
    if values.ndim != 1 or values.shape != marks.shape or k < 1:
        raise InvalidInputError("a ranking needs one score and one mark a candidate, and k >= 1")
    if np.isnan(values).any() or not marks.any():
        raise InvalidInputError("a ranking needs scores that are numbers and a relevant candidate")
    best = np.argsort(-values, kind="stable")[:k]
    return marks[best], min(k, int(marks.sum()))
