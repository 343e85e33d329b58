import math

import numpy as np
import pytest

from hansa.core.privacy.accounting import epsilon_rdp
from hansa.core.privacy.events import Gaussian, PoissonGaussian, PrivacyEvent, RepeatAndSelect
from hansa.core.privacy.renyi import ORDERS, renyi_divergence, renyi_epsilon, stopping_rate

DELTA = 1e-5


def steps(q: float, noise: float, count: int) -> PoissonGaussian:
    return PoissonGaussian(sampling_rate=q, noise_multiplier=noise, steps=count)


def search(mean: float, shape: float = 1.0) -> RepeatAndSelect:
    return RepeatAndSelect(trial=(steps(0.01, 1.0, 1000),), mean=mean, shape=shape, releases=2)


def test_a_gaussian_diverges_by_half_its_order_over_its_variance() -> None:
    found = renyi_divergence(Gaussian(noise_multiplier=2.0, releases=4))
    assert np.allclose(found, ORDERS / 2.0)


def test_the_second_moment_of_a_sampled_gaussian_is_known_by_hand() -> None:
    # E[(mixture / Gaussian)^2] = (1 - q)^2 + 2 q (1 - q) + q^2 e^(1 / z^2)
    by_hand = math.log(0.81 + 0.18 + 0.01 * math.exp(0.25))
    assert renyi_divergence(steps(0.1, 2.0, 1))[0] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize(
    "events",
    [
        [steps(0.01, 1.0, 1000)],
        [steps(0.1, 1.0, 100), Gaussian(noise_multiplier=5.0, releases=1)],
        [search(5.0)],
        [search(10.0, shape=0.0), steps(0.01, 1.0, 10)],
        [search(10.0, shape=0.5)],
    ],
)
def test_the_closed_form_agrees_with_the_library_but_for_its_orders(
    events: list[PrivacyEvent],
) -> None:
    assert renyi_epsilon(events, DELTA) == pytest.approx(epsilon_rdp(events, DELTA), rel=0.01)


@pytest.mark.parametrize("mean", [1.5, 5.0, 50.0])
def test_a_geometric_search_stops_with_one_over_its_mean(mean: float) -> None:
    assert stopping_rate(mean, 1.0) == pytest.approx(1.0 / mean, rel=1e-9)


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0])
def test_the_number_of_trials_has_the_mean_that_was_asked_for(shape: float) -> None:
    gamma = stopping_rate(10.0, shape)
    numbers = np.arange(1, 20_000)
    rise = np.log((numbers[1:] - 1.0 + shape) / numbers[1:])
    logs = np.concatenate([[0.0], np.cumsum(rise)])
    weights = np.exp(logs + numbers * math.log1p(-gamma))
    assert float(weights @ numbers / weights.sum()) == pytest.approx(10.0, rel=1e-6)


def test_a_loss_beyond_all_numbers_is_infinite_and_not_an_error() -> None:
    assert renyi_epsilon([Gaussian(noise_multiplier=1e-300, releases=1)], DELTA) == math.inf
    assert renyi_epsilon([steps(0.5, 1e-300, 1)], DELTA) == math.inf


def test_nothing_spent_costs_nothing() -> None:
    assert renyi_epsilon([], DELTA) == 0.0
