"""Which units take part in which step of a round.

Whatever decides it is independent from unit to unit and of all data: adding or removing one unit
changes nobody else's part. (Neither a unit's place in a list nor the number of units may decide.)
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import Entropy, poisson_sample

Indices = npt.NDArray[np.int64]


class UnitSampler(Protocol):
    """The draws of one round; private, and forgotten with the round."""

    def sample(self, count: int, step: int, /) -> Indices:
        """Which of ``count`` units take part in a step; possibly none.

        Args:
            count: number of units; private.
            step: from 0 up, within the round.

        Returns:
            Ascending indices below ``count``, shape ``(taking part,)``.

        Raises:
            InvalidInputError: the step is none of the round's, or the count differs from before.
        """
        ...


class PoissonSampler:
    """Each unit takes part in each step with probability ``rate``, by an independent draw."""

    def __init__(self, entropy: Entropy, *, rate: float) -> None:
        """Takes the cryptographic source, and the public rate."""
        self._entropy = entropy
        self._rate = rate

    def sample(self, count: int, step: int, /) -> Indices:
        """A fresh draw, whatever the step; see ``UnitSampler.sample``."""
        if step < 0:
            raise InvalidInputError("the steps of a round are counted from 0")
        return poisson_sample(count, self._rate, self._entropy)


class CyclicSampler:
    """Each unit belongs to one of ``groups``, and takes part when its group's turn comes.

    Step t is the turn of group ``t mod groups``, so that a unit's steps lie ``groups`` apart. The
    cycle is public. Which group a unit is in is drawn once a round, uniformly, for each unit by
    itself, and is never shown.
    """

    def __init__(self, entropy: Entropy, *, groups: int, steps: int) -> None:
        """Takes the cryptographic source, and the public cycle of a round of ``steps``."""
        self._entropy = entropy
        self._groups = groups
        self._steps = steps
        self._group_of: npt.NDArray[np.uint64] | None = None

    def __repr__(self) -> str:
        """Shows nobody's group."""
        return "CyclicSampler(...)"

    def sample(self, count: int, step: int, /) -> Indices:
        """The units whose turn it is; see ``UnitSampler.sample``."""
        if not 0 <= step < self._steps:
            raise InvalidInputError(f"a round has the steps 0 to {self._steps - 1}, not {step}")
        if self._group_of is None:
            self._group_of = self._drawn(count)
        if len(self._group_of) != count:
            raise InvalidInputError("the units of a round are fixed: their groups are drawn once")
        return np.flatnonzero(self._group_of == step % self._groups).astype(np.int64)

    def _drawn(self, count: int) -> npt.NDArray[np.uint64]:
        if count < 0:
            raise InvalidInputError("a number of units is at least 0")
        words = np.frombuffer(self._entropy.random_bytes(8 * count), dtype="<u8")
        return words.astype(np.uint64) % np.uint64(self._groups)
