import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import InvalidInputError
from hansa.core.privacy.events import (
    Gaussian,
    PoissonGaussian,
    PrivacyEvent,
    covers,
    merge,
    parse_event,
)

rates = st.sampled_from([0.01, 0.1, 1.0]) | st.floats(1e-9, 1.0)
noises = st.sampled_from([0.5, 1.0]) | st.floats(1e-3, 1e3)
counts = st.integers(1, 1000)
events = st.one_of(
    st.builds(PoissonGaussian, sampling_rate=rates, noise_multiplier=noises, steps=counts),
    st.builds(Gaussian, noise_multiplier=noises, releases=counts),
)


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
        {"unit": "record"},
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
