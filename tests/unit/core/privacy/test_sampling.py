import numpy as np
import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.sampling import CyclicSampler, PoissonSampler
from tests.fakes.entropy import SeededEntropy


def test_each_unit_has_its_turn_once_a_cycle_and_its_steps_lie_a_cycle_apart() -> None:
    sampler = CyclicSampler(SeededEntropy(1), groups=4, steps=12)
    drawn = [sampler.sample(500, step) for step in range(12)]
    for first in range(9):
        cycle = np.concatenate(drawn[first : first + 4])
        assert sorted(cycle.tolist()) == list(range(500))
    for step in range(8):
        assert np.array_equal(drawn[step], drawn[step + 4])


def test_groups_are_of_like_size_and_drawn_anew_for_each_round() -> None:
    entropy = SeededEntropy(2)
    rounds = [CyclicSampler(entropy, groups=4, steps=4) for _ in range(40)]
    sizes = [len(one.sample(400, 0)) for one in rounds]
    assert np.mean(sizes) == pytest.approx(100, rel=0.05)
    assert not np.array_equal(rounds[0].sample(400, 0), rounds[1].sample(400, 0))


def test_one_unit_more_changes_nobody_elses_group() -> None:
    # The same draws serve the first 300 units, whatever comes after them.
    fewer = CyclicSampler(_Replay(8 * 301), groups=3, steps=3)
    more = CyclicSampler(_Replay(8 * 301), groups=3, steps=3)
    for step in range(3):
        assert np.array_equal(
            fewer.sample(300, step), [i for i in more.sample(301, step) if i < 300]
        )


class _Replay:
    """Entropy that gives the same bytes again, so that two runs can be coupled."""

    def __init__(self, size: int) -> None:
        self._bytes = SeededEntropy(5).random_bytes(size)

    def random_bytes(self, n: int, /) -> bytes:
        return self._bytes[:n]


def test_a_round_has_its_steps_and_its_units_and_no_others() -> None:
    sampler = CyclicSampler(SeededEntropy(), groups=2, steps=3)
    sampler.sample(10, 0)
    with pytest.raises(InvalidInputError, match="steps 0 to 2"):
        sampler.sample(10, 3)
    with pytest.raises(InvalidInputError, match="fixed"):
        sampler.sample(11, 1)
    with pytest.raises(InvalidInputError, match="at least 0"):
        CyclicSampler(SeededEntropy(), groups=2, steps=3).sample(-1, 0)
    with pytest.raises(InvalidInputError, match="from 0"):
        PoissonSampler(SeededEntropy(), rate=0.5).sample(10, -1)


def test_a_poisson_sampler_draws_anew_for_each_step() -> None:
    sampler = PoissonSampler(SeededEntropy(3), rate=0.1)
    sizes = [len(sampler.sample(1000, 0)) for _ in range(300)]
    assert np.mean(sizes) == pytest.approx(100, rel=0.02)
    assert len(set(sizes)) > 10


def test_nobodys_group_shows() -> None:
    sampler = CyclicSampler(SeededEntropy(), groups=2, steps=3)
    sampler.sample(10, 0)
    assert repr(sampler) == "CyclicSampler(...)"
