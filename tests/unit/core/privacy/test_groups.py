import math

import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import epsilon_pld
from hansa.core.privacy.events import (
    BandedGaussian,
    Gaussian,
    PoissonGaussian,
    RepeatAndSelect,
)
from hansa.core.privacy.groups import MAX_GROUP, epsilon_of_group

DELTA = 1e-5
RUN = PoissonGaussian(unit="record", sampling_rate=0.01, noise_multiplier=1.0, steps=1000)


@pytest.mark.parametrize(("records", "epsilon"), [(1, 1.829), (2, 3.979), (4, 8.899)])
def test_a_shopper_of_k_records_has_its_recorded_figure(records: int, epsilon: float) -> None:
    assert epsilon_of_group([RUN], records, DELTA) == pytest.approx(epsilon, abs=0.01)


def test_without_sampling_k_units_move_the_sum_k_times_as_far() -> None:
    alone = Gaussian(unit="record", noise_multiplier=6.0, releases=2)
    near = Gaussian(unit="record", noise_multiplier=2.0, releases=2)
    assert epsilon_of_group([alone], 3, DELTA) == pytest.approx(epsilon_pld([near], DELTA))
    everybody = PoissonGaussian(unit="record", sampling_rate=1.0, noise_multiplier=6.0, steps=2)
    assert epsilon_of_group([everybody], 3, DELTA) == pytest.approx(epsilon_pld([near], DELTA))
    banded = BandedGaussian(
        unit="record", bands=2, noise_multiplier=12.0, steps=8, participations=4, releases=2
    )
    assert epsilon_of_group([banded], 3, DELTA) == pytest.approx(epsilon_pld([near], DELTA))


def test_what_is_bounded_for_the_person_is_not_multiplied() -> None:
    report = Gaussian(unit="record", noise_multiplier=4.0, releases=1)
    training = PoissonGaussian(unit="record", sampling_rate=0.1, noise_multiplier=8.0, steps=10)
    bounded = epsilon_of_group([training], 3, DELTA, besides=[report])
    assert epsilon_of_group([training], 3, DELTA) < bounded
    assert bounded < epsilon_of_group([training, report], 3, DELTA)
    assert epsilon_of_group([], 3, DELTA, besides=[report]) == epsilon_pld([report], DELTA)


def test_a_larger_group_never_costs_less() -> None:
    training = PoissonGaussian(unit="record", sampling_rate=0.1, noise_multiplier=6.0, steps=20)
    costs = [epsilon_of_group([training], size, DELTA) for size in (1, 2, 3, 5)]
    assert costs == sorted(costs)


def test_a_hopeless_group_is_infinite_at_once() -> None:
    assert (
        epsilon_of_group([RUN.model_copy(update={"noise_multiplier": 0.2})], 60, DELTA) == math.inf
    )


def test_a_group_has_at_least_one_unit_and_beyond_64_no_figure() -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        epsilon_of_group([RUN], 0, DELTA)
    assert epsilon_of_group([RUN], MAX_GROUP + 1, DELTA) == math.inf


def test_a_search_has_no_figure_for_a_group() -> None:
    search = RepeatAndSelect(unit="record", trial=(RUN,), mean=2.0, shape=1.0, releases=1)
    with pytest.raises(InvalidInputError, match="search"):
        epsilon_of_group([search], 2, DELTA)
