import logging
import time
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.accounting import (
    accountants,
    epsilon_pld,
    epsilon_rdp,
    epsilon_reference,
    exceeding,
    reference_accountant,
    round_up,
)
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
    times,
)

DELTA = 1e-5


def steps(q: float, noise: float, count: int) -> PoissonGaussian:
    return PoissonGaussian(sampling_rate=q, noise_multiplier=noise, steps=count)


@pytest.mark.parametrize(
    ("event", "pld", "rdp"),
    [
        (steps(0.01, 1.0, 1000), 1.829, 2.1014),
        (steps(0.01, 0.6, 1000), 7.434, 8.68),
        (steps(0.1, 1.0, 100), 7.047, 7.91),
        (steps(0.25, 1.5, 60), 7.337, 8.10),
        (steps(1.0, 4.0, 30), 6.326, 6.82),
        (Gaussian(noise_multiplier=4.0, releases=30), 6.326, 6.82),
    ],
)
def test_known_points_of_the_literature_are_met(
    event: PrivacyEvent, pld: float, rdp: float
) -> None:
    assert epsilon_pld([event], DELTA) == pytest.approx(pld, abs=2e-3)
    assert epsilon_rdp([event], DELTA) == pytest.approx(rdp, abs=0.02)


@settings(deadline=None, max_examples=12)
@given(
    st.floats(1e-4, 1.0),
    st.floats(0.6, 50.0),
    st.sampled_from([1, 30, 1000, 100_000]),
)
def test_pld_is_never_above_the_renyi_bound(q: float, noise: float, count: int) -> None:
    events = [steps(q, noise, count)]
    assert epsilon_pld(events, DELTA) <= epsilon_rdp(events, DELTA) * 1.005 + 2e-3


@settings(deadline=None, max_examples=8)
@given(st.floats(0.01, 0.5), st.floats(0.8, 5.0), st.integers(1, 200), st.integers(1, 200))
def test_splitting_a_run_changes_nothing_and_more_steps_never_cost_less(
    q: float, noise: float, first: int, second: int
) -> None:
    whole = epsilon_pld([steps(q, noise, first + second)], DELTA)
    assert epsilon_pld([steps(q, noise, first), steps(q, noise, second)], DELTA) == whole
    assert epsilon_pld([steps(q, noise, first)], DELTA) <= whole


def test_many_small_steps_are_not_blurred_by_the_grid() -> None:
    assert epsilon_pld([steps(0.001, 2.0, 100_000)], DELTA) == pytest.approx(0.6046, abs=2e-3)


def test_nothing_spent_costs_nothing() -> None:
    assert epsilon_pld([], DELTA) == epsilon_rdp([], DELTA) == 0.0


def test_epsilon_is_never_negative() -> None:
    assert epsilon_pld([steps(0.01, 10.0, 1)], 0.5) == 0.0
    assert epsilon_rdp([steps(0.01, 10.0, 1)], 0.5) == 0.0


def test_a_hopeless_plan_is_priced_at_once_and_high() -> None:
    began = time.process_time()
    assert epsilon_pld([steps(0.5, 0.001, 100_000)], DELTA) > 1000
    assert time.process_time() - began < 0.5


def test_a_price_is_known_within_a_fifth_of_a_second() -> None:
    began = time.process_time()
    epsilon_pld([steps(0.013, 1.01, 997), Gaussian(noise_multiplier=20.0, releases=1)], DELTA)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_a_delta_outside_zero_and_one_is_refused(delta: float) -> None:
    with pytest.raises(InvalidInputError, match="delta"):
        epsilon_pld([steps(0.1, 1.0, 1)], delta)
    with pytest.raises(InvalidInputError, match="delta"):
        epsilon_rdp([steps(0.1, 1.0, 1)], delta)


def test_an_unknown_event_is_refused_and_not_counted_as_zero() -> None:
    with pytest.raises(InvalidInputError, match="not a known privacy event"):
        epsilon_pld(["laplace"], DELTA)  # type: ignore[list-item]


def test_a_grid_must_be_positive() -> None:
    with pytest.raises(InvalidInputError, match="grid"):
        epsilon_pld([], DELTA, grid=0.0)


def test_the_library_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for q in (0.1, 0.5, 0.9):
        epsilon_rdp([steps(q, 1.0, 10)], DELTA)
    assert not caplog.records


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(1.821, "1.83"), (1.82, "1.82"), (0.0, "0.00"), (1e-9, "0.01")]
)
def test_people_see_epsilon_rounded_up(epsilon: float, shown: str) -> None:
    assert round_up(epsilon) == Decimal(shown)


@pytest.mark.parametrize("epsilon", [-0.1, float("inf"), float("nan")])
def test_what_is_no_epsilon_is_not_shown(epsilon: float) -> None:
    with pytest.raises(InvalidInputError):
        round_up(epsilon)


def test_the_accountants_are_named_with_their_versions() -> None:
    assert accountants().keys() == {"google-pld", "google-rdp"}


def banded(noise: float, participations: int, releases: int) -> BandedGaussian:
    return BandedGaussian(
        bands=4,
        noise_multiplier=noise,
        steps=4 * participations,
        participations=participations,
        releases=releases,
    )


def shared(q: float, noise: float, count: int) -> DistributedGaussian:
    return DistributedGaussian(sampling_rate=q, noise_multiplier=noise, steps=count, honest=3)


def search(mean: float) -> RepeatAndSelect:
    return RepeatAndSelect(trial=(steps(0.01, 1.0, 1000),), mean=mean, shape=1.0, releases=1)


@pytest.mark.parametrize(
    ("events", "single"),
    [
        ([banded(2.0, 4, 1)], 1.0),
        ([banded(4.0, 4, 3), Gaussian(noise_multiplier=2.0, releases=1)], 1.0),
        ([Gaussian(noise_multiplier=3.0, releases=9)], 1.0),
        ([steps(1.0, 2.0, 3), Gaussian(noise_multiplier=2.0, releases=1)], 1.0),
    ],
)
def test_releases_without_sampling_are_one_gaussian_of_their_added_precision(
    events: list[PrivacyEvent], single: float
) -> None:
    # precisions: 4 / 2^2 = 1;  12 / 4^2 + 1 / 2^2 = 1;  9 / 3^2 = 1;  3 / 2^2 + 1 / 2^2 = 1
    one = [Gaussian(noise_multiplier=single, releases=1)]
    assert epsilon_pld(events, DELTA) == pytest.approx(epsilon_pld(one, DELTA), abs=1e-6)
    assert epsilon_rdp(events, DELTA) == pytest.approx(epsilon_rdp(one, DELTA), abs=1e-6)


def test_one_draw_for_all_merchants_costs_what_the_honest_noise_costs() -> None:
    own, together = steps(0.1, 1.0, 100), shared(0.1, 1.0, 100)
    assert epsilon_pld([together], DELTA) == epsilon_pld([own], DELTA)
    assert epsilon_rdp([together], DELTA) == epsilon_rdp([own], DELTA)
    half = [steps(0.1, 1.0, 50), shared(0.1, 1.0, 50)]
    assert epsilon_pld(half, DELTA) == pytest.approx(epsilon_pld([own], DELTA), abs=1e-9)


@pytest.mark.parametrize(("mean", "epsilon"), [(5.0, 3.69), (10.0, 4.10), (50.0, 4.94)])
def test_a_search_on_private_data_has_its_recorded_price(mean: float, epsilon: float) -> None:
    assert epsilon_rdp([search(mean)], DELTA) == pytest.approx(epsilon, abs=0.01)


def test_a_search_is_priced_by_rdp_together_with_all_else_and_pld_refuses_it() -> None:
    book = [search(5.0), steps(0.01, 1.0, 1000)]
    with pytest.raises(InvalidInputError, match="no privacy loss distribution"):
        epsilon_pld(book, DELTA)
    assert reference_accountant(book) == "google-rdp"
    assert epsilon_reference(book, DELTA) == epsilon_rdp(book, DELTA) > epsilon_rdp(book[:1], DELTA)
    assert reference_accountant(book[1:]) == "google-pld"
    assert epsilon_reference(book[1:], DELTA) == epsilon_pld(book[1:], DELTA)


def test_units_are_never_mixed_in_one_figure() -> None:
    record = PoissonGaussian(unit="record", sampling_rate=0.1, noise_multiplier=1.0, steps=1)
    for figure in (epsilon_pld, epsilon_rdp, epsilon_reference):
        with pytest.raises(InvalidInputError, match="unit"):
            figure([steps(0.1, 1.0, 1), record], DELTA)
    assert epsilon_pld([record], DELTA) == epsilon_pld([steps(0.1, 1.0, 1)], DELTA)


any_event = st.one_of(
    st.builds(steps, st.floats(0.01, 0.9), st.floats(0.8, 8.0), st.integers(1, 300)),
    st.builds(shared, st.floats(0.01, 0.9), st.floats(0.8, 8.0), st.integers(1, 300)),
    st.builds(banded, st.floats(0.8, 8.0), st.integers(1, 6), st.integers(1, 20)),
    st.builds(
        lambda z, n: Gaussian(noise_multiplier=z, releases=n),
        st.floats(0.8, 8.0),
        st.integers(1, 20),
    ),
)


@settings(deadline=None, max_examples=10)
@given(any_event, st.integers(2, 4), st.floats(1.05, 2.0))
def test_every_event_costs_more_when_repeated_and_less_with_more_noise(
    event: PrivacyEvent, more: int, louder: float
) -> None:
    cost = epsilon_pld([event], DELTA)
    quiet = event.model_copy(update={"noise_multiplier": event.noise_multiplier * louder})
    assert epsilon_pld([quiet], DELTA) <= cost + 1e-3
    assert cost <= epsilon_pld([event] * more, DELTA) + 1e-9
    assert epsilon_rdp([event], DELTA) <= epsilon_rdp([event] * more, DELTA)


@settings(deadline=None, max_examples=6)
@given(st.floats(0.02, 0.4), st.floats(1.1, 2.0), st.floats(1.0, 4.0), st.integers(1, 200))
def test_epsilon_grows_with_the_sampling_rate(q: float, wider: float, noise: float, n: int) -> None:
    for build in (steps, shared):
        low, high = [build(q, noise, n)], [build(q * wider, noise, n)]
        assert epsilon_pld(low, DELTA) <= epsilon_pld(high, DELTA) + 1e-3
        assert epsilon_rdp(low, DELTA) <= epsilon_rdp(high, DELTA) + 1e-9


def test_a_search_costs_more_the_more_trials_it_makes_and_the_dearer_they_are() -> None:
    costs = [epsilon_rdp([search(mean)], DELTA) for mean in (2.0, 5.0, 10.0, 50.0)]
    assert costs == sorted(costs)
    dearer = RepeatAndSelect(trial=(steps(0.01, 0.9, 1000),), mean=2.0, shape=1.0, releases=1)
    assert epsilon_rdp([dearer], DELTA) > costs[0]
    assert epsilon_rdp([times(search(2.0), 2)], DELTA) > costs[0]


@settings(deadline=None, max_examples=10)
@given(st.lists(any_event, max_size=3), any_event, st.floats(0.1, 20.0))
def test_the_short_cut_decides_exactly_as_the_reference_does(
    booked: list[PrivacyEvent], new: PrivacyEvent, cap: float
) -> None:
    true = epsilon_reference([*booked, new], DELTA)
    assert exceeding(booked, [new], DELTA, cap) == (true if true > cap else None)
    assert exceeding(booked, [new], DELTA, true) is None


def test_what_is_remembered_never_changes_a_figure() -> None:
    from hansa.core.privacy import accounting, pld

    book = [steps(0.01 + i / 100, 1.0 + i / 10, 20) for i in range(5)]
    for size in range(1, 6):
        warm = epsilon_pld(book[:size], DELTA)
        accounting._epsilon_pld.cache_clear()
        pld._composed.cache_clear()
        pld._single.cache_clear()
        assert epsilon_pld(book[:size], DELTA) == warm
