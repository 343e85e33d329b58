"""Banded matrix factorisation: noise that later steps partly take back (DP-FTRL).

Independent noise on each step adds up in the model: after n steps its variance is n. The mechanism
here releases ``C G + Z`` instead, for the clipped sums G and independent noise Z, or what is the
same to anybody who knows the public C, ``G + C^-1 Z``: each step's noise takes back a part of what
the steps before it added. C is the banded square root of the prefix-sum matrix, whose coefficients
are known in closed form, so that every machine has the very same matrix; its columns are scaled to
L2 norm 1.

``C^-1 Z`` is drawn row by row: row t needs the ``bands - 1`` rows before it and nothing else. The
stream lives for one round, and is forgotten with it.

References:
    Choquette-Choo et al., "(Amplified) banded matrix factorization", arXiv:2306.08153 (bands and
    participation; algorithm 9 is the stream).
    Fichtenberger, Henzinger, Upadhyay, "Constant matters", arXiv:2202.11205 (the square root).
    Kalinin and Lampert, "Banded square root matrix factorization for differentially private model
    training", arXiv:2405.13763 (cut to bands).
"""

import math

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import AesNormal

Floats = npt.NDArray[np.float64]


def square_root_coefficients(bands: int) -> Floats:
    """The first coefficients of the square root of ``1 / (1 - x)``, scaled to L2 norm 1.

    Coefficient j is ``(1 * 3 * .. * (2j - 1)) / (2 * 4 * .. * 2j)``. As many of them as steps make
    the Toeplitz matrix whose square is the matrix of prefix sums, up to the scale.

    Returns:
        Positive and falling, shape ``(bands,)``.

    Raises:
        InvalidInputError: there is no band.
    """
    if bands < 1:
        raise InvalidInputError("a banded matrix has at least 1 band")
    later = np.arange(1, bands, dtype=np.float64)
    raw = np.concatenate([[1.0], np.cumprod((2.0 * later - 1.0) / (2.0 * later))])
    return np.asarray(raw / np.linalg.norm(raw))


def column_norms(coefficients: Floats, steps: int) -> Floats:
    """The L2 norms of the columns of the ``steps`` x ``steps`` Toeplitz matrix, shape ``(steps,)``.

    They are 1 but for the last columns, which the matrix' lower edge cuts off.
    """
    within = np.minimum(np.arange(steps, 0, -1), len(coefficients))
    return np.asarray(np.sqrt(np.cumsum(coefficients**2))[within - 1])


def strategy_matrix(bands: int, steps: int) -> Floats:
    """C, shape ``(steps, steps)``: lower triangular, banded, columns of norm 1."""
    coefficients = square_root_coefficients(bands)
    padded = np.zeros(max(steps, bands))
    padded[:bands] = coefficients
    rows, columns = np.indices((steps, steps))
    toeplitz = np.where(rows >= columns, padded[np.abs(rows - columns)], 0.0)
    return np.asarray(toeplitz / column_norms(coefficients, steps))


def most_participations(bands: int, steps: int) -> int:
    """How often a unit takes part at most, if its steps lie at least ``bands`` apart."""
    return -(-steps // bands)


def sensitivity(bands: int, steps: int) -> float:
    """How far one unit moves ``C G`` at most, in clip norms: exactly, over all its patterns.

    The columns of C at two of the unit's steps share no row, so their squared norms, which are 1,
    add up.
    """
    return math.sqrt(most_participations(bands, steps))


def prefix_errors(bands: int, steps: int) -> Floats:
    """The standard deviation that the sum of the first t noises has, ``(steps,)``, for unit Z.

    Independent noise gives ``sqrt(t)``. For the price in epsilon multiply by ``sensitivity``.
    """
    sums = np.cumsum(np.linalg.inv(strategy_matrix(bands, steps)), axis=0)
    return np.asarray(np.linalg.norm(sums, axis=1))


class BandedNoise:
    """The noise of one run of the mechanism, step by step; secret, and used up after the run."""

    def __init__(self, stream: AesNormal, *, bands: int, steps: int, std: float) -> None:
        """Begins a run.

        Args:
            stream: fresh, and used for nothing else.
            bands: of the matrix; so many less one rows are kept in memory.
            steps: of the run.
            std: standard deviation of Z, in the unit of the clipped sums.

        Raises:
            InvalidInputError: there are no bands or steps, or more bands than steps.
        """
        if not 1 <= bands <= steps:
            raise InvalidInputError("a banded run needs at least as many steps as bands")
        self._coefficients = square_root_coefficients(bands)
        self._norms = column_norms(self._coefficients, steps)
        self._stream = stream
        self._std = std
        self._step = 0
        self._rows: list[Floats] = []

    def __repr__(self) -> str:
        """Shows nothing of the noise."""
        return "BandedNoise(...)"

    def next(self, size: int) -> Floats:
        """The noise of the next step's clipped sum, shape ``(size,)``.

        Raises:
            InvalidInputError: the run has no further step, or the size is not that of the steps
                before.
        """
        if self._step >= len(self._norms):
            raise InvalidInputError(
                "the round's noise is used up; a further step needs a new round"
            )
        if self._rows and len(self._rows[0]) != size:
            raise InvalidInputError("the steps of one round must have noise of one size")
        row = self._stream.normal(size, std=self._std)
        for coefficient, before in zip(self._coefficients[1:], self._rows, strict=False):
            row -= coefficient * before
        row /= self._coefficients[0]
        self._rows = [row, *self._rows][: len(self._coefficients) - 1]
        scaled = np.asarray(row * self._norms[self._step])
        self._step += 1
        return scaled
