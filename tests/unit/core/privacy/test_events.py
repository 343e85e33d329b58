import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.events import (
    BandedGaussian,
    DistributedGaussian,
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    RepeatAndSelect,
    Unit,
    count_of,
    covers,
    merge,
    parse_event,
    times,
    unit_of,
)

rates = st.sampled_from([0.01, 0.1, 1.0]) | st.floats(1e-9, 1.0)
noises = st.sampled_from([0.5, 1.0]) | st.floats(1e-3, 1e3)
counts = st.integers(1, 1000)
trials = st.one_of(
    st.builds(PoissonGaussian, sampling_rate=rates, noise_multiplier=noises, steps=counts),
    st.builds(Gaussian, noise_multiplier=noises, releases=counts),
    st.builds(
        BandedGaussian,
        bands=st.integers(1, 4),
        noise_multiplier=noises,
        steps=st.just(12),
        participations=st.integers(1, 3),
        releases=counts,
    ),
    st.builds(
        DistributedGaussian,
        sampling_rate=rates,
        noise_multiplier=noises,
        steps=counts,
        honest=st.integers(1, 9),
    ),
)
events = trials | st.builds(
    RepeatAndSelect,
    trial=st.lists(trials, min_size=1, max_size=3).map(tuple),
    mean=st.sampled_from([2.0, 10.0]),
    shape=st.sampled_from([0.0, 1.0]),
    releases=counts,
)


def banded(noise: float = 1.0, participations: int = 3, releases: int = 1) -> BandedGaussian:
    return BandedGaussian(
        bands=4,
        noise_multiplier=noise,
        steps=12,
        participations=participations,
        releases=releases,
    )


def shared(noise: float = 1.0, steps: int = 5, honest: int = 3) -> DistributedGaussian:
    return DistributedGaussian(
        sampling_rate=0.1, noise_multiplier=noise, steps=steps, honest=honest
    )


def search(mean: float = 10.0, releases: int = 1, trial: int = 5) -> RepeatAndSelect:
    return RepeatAndSelect(trial=(step(steps=trial),), mean=mean, shape=1.0, releases=releases)


def step(q: float = 0.1, noise: float = 1.0, steps: int = 1) -> PoissonGaussian:
    return PoissonGaussian(sampling_rate=q, noise_multiplier=noise, steps=steps)


@given(events)
def test_an_event_survives_canonical_json_exactly(event: PrivacyEvent) -> None:
    data = canonical_json(event.model_dump(mode="json"))
    assert parse_event(parse_json(data, "event")) == event


def test_numbers_are_written_as_decimal_strings() -> None:
    written = step(0.1, 2, 3).model_dump(mode="json")
    assert written["sampling_rate"] == "0.1"
    assert written["noise_multiplier"] == "2.0"
    assert written["unit"] == "shopper"
    assert written["neighbours"] == "add_or_remove_one"


@pytest.mark.parametrize(
    "change",
    [
        {"mechanism": "laplace"},
        {"sampling_rate": "0.10"},
        {"sampling_rate": "0.0"},
        {"sampling_rate": "1.5"},
        {"noise_multiplier": "nan"},
        {"noise_multiplier": "inf"},
        {"noise_multiplier": "-1.0"},
        {"noise_multiplier": True},
        {"noise_multiplier": "one"},
        {"steps": 0},
        {"steps": "3"},
        {"steps": 2**53},
        {"unit": "session"},
        {"neighbours": "replace_one"},
        {"surprise": 1},
    ],
)
def test_an_event_that_is_not_exactly_understood_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match="privacy event is refused"):
        parse_event({**step().model_dump(mode="json"), **change})


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        step().steps = 5


def test_equal_segments_are_added() -> None:
    merged = merge([step(steps=3), Gaussian(noise_multiplier=5.0, releases=1), step(steps=4)])
    assert merged == (Gaussian(noise_multiplier=5.0, releases=1), step(steps=7))


@given(st.lists(events, max_size=8), st.lists(events, max_size=8))
def test_merging_commutes_and_may_be_done_in_parts(
    left: list[PrivacyEvent], right: list[PrivacyEvent]
) -> None:
    assert merge(left + right) == merge(right + left)
    assert merge([*merge(left), *right]) == merge(left + right)


@given(st.lists(events, max_size=6), st.lists(events, max_size=6))
def test_a_book_covers_itself_and_every_part_of_itself(
    part: list[PrivacyEvent], rest: list[PrivacyEvent]
) -> None:
    assert covers(part, part)
    assert covers(merge(part + rest), part)


@pytest.mark.parametrize(
    ("booked", "enough"),
    [
        (step(0.1, 1.0, 10), True),
        (step(0.2, 0.9, 11), True),
        (step(0.1, 1.0, 9), False),
        (step(0.09, 1.0, 10), False),
        (step(0.1, 1.1, 10), False),
        (Gaussian(noise_multiplier=0.1, releases=99), False),
        (shared(0.1, 99), False),
    ],
)
def test_booked_events_cover_the_plan_only_if_no_part_is_weaker(
    booked: PrivacyEvent, enough: bool
) -> None:
    assert covers([booked], [step(0.1, 1.0, 10)]) is enough


def test_one_booked_event_does_not_cover_two_planned_ones() -> None:
    planned = [step(0.1, 1.0, 5), step(0.1, 2.0, 5)]
    assert not covers([step(0.1, 1.0, 100)], planned)


def test_a_foreign_event_cannot_be_merged() -> None:
    with pytest.raises(InvalidInputError, match="str is not a known privacy event"):
        merge(["laplace"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("booked", "planned", "enough"),
    [
        (banded(0.9, 3, 2), banded(1.0, 2, 2), True),
        (banded(1.1), banded(1.0), False),
        (banded(participations=2), banded(participations=3), False),
        (shared(0.9, 6), shared(1.0, 5), True),
        (shared(honest=2), shared(honest=3), False),
        (shared(honest=4), shared(honest=3), False),
        (search(11.0, trial=6), search(10.0, trial=5), True),
        (search(9.0), search(10.0), False),
        (search(trial=4), search(trial=5), False),
        (search(), step(0.1, 1.0, 5), False),
    ],
)
def test_a_new_mechanism_covers_only_its_own_kind_and_trust(
    booked: PrivacyEvent, planned: PrivacyEvent, enough: bool
) -> None:
    assert covers([booked], [planned]) is enough


RECORD = PoissonGaussian(unit="record", sampling_rate=0.1, noise_multiplier=1.0, steps=1)


def test_records_and_shoppers_are_never_added_up_nor_compared() -> None:
    with pytest.raises(InvalidInputError, match="keep a book for each unit"):
        merge([step(), RECORD])
    with pytest.raises(InvalidInputError, match="keep a book for each unit"):
        covers([step()], [RECORD])


@pytest.mark.parametrize(
    ("some", "unit"), [([], None), ([step()], "shopper"), ([RECORD], "record")]
)
def test_events_have_one_unit(some: list[PrivacyEvent], unit: Unit | None) -> None:
    assert unit_of(some) == unit


def test_a_unit_cannot_take_part_oftener_than_its_distance_lets_it() -> None:
    with pytest.raises(ValidationError, match="more often"):
        banded(participations=4)


def test_a_search_keeps_its_trials_merged_and_of_its_own_unit() -> None:
    twice = RepeatAndSelect(trial=(step(steps=2), step(steps=3)), mean=10.0, shape=1.0, releases=1)
    assert twice == search(trial=5)
    with pytest.raises(ValidationError, match="unit"):
        RepeatAndSelect(trial=(RECORD,), mean=10.0, shape=1.0, releases=1)


def test_a_search_within_a_search_is_refused() -> None:
    body = search().model_dump(mode="json")
    with pytest.raises(InvalidInputError, match="privacy event is refused"):
        parse_event({**body, "trial": [body]})


def test_a_count_beyond_exact_integers_is_refused_and_not_wrapped() -> None:
    whole = times(step(), 2**53 - 1)
    assert count_of(whole) == 2**53 - 1
    with pytest.raises(InvalidInputError, match="2\\^53"):
        merge([whole, step()])
