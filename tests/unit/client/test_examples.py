import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.client.examples import is_cold, is_held_out, known_items, make_examples
from hansa.core.plan import TaskSpec

TASK = TaskSpec(cold_item_fraction=0.3, held_out_shopper_fraction=0.4)
KEYS = [f"item {number}" for number in range(60)]
Shoppers = list[tuple[str, list[int]]]

_shoppers = st.dictionaries(
    st.text(min_size=1, max_size=4), st.lists(st.integers(0, 59), max_size=30), max_size=20
).map(lambda made: list(made.items()))


@given(_shoppers)
def test_a_cold_item_never_appears_in_training_or_in_a_history(shoppers: Shoppers) -> None:
    examples = make_examples(shoppers, KEYS, TASK)
    seen = [*examples.training, *(case.history for case in examples.cases)]
    assert not any(is_cold(KEYS[place], TASK) for items in seen for place in items)
    assert all(is_cold(KEYS[place], TASK) for case in examples.cases for place in case.targets)


@given(_shoppers)
def test_a_held_out_shopper_never_appears_in_training(shoppers: Shoppers) -> None:
    examples = make_examples(shoppers, KEYS, TASK)
    trained = make_examples([s for s in shoppers if not is_held_out(s[0], TASK)], KEYS, TASK)
    judged = make_examples([s for s in shoppers if is_held_out(s[0], TASK)], KEYS, TASK)
    assert _same(examples.training, trained.training)
    assert not judged.training
    assert not trained.cases
    assert len(examples.cases) == len(judged.cases)


@given(_shoppers, st.integers(0, 19))
def test_removing_a_shopper_changes_nothing_for_the_others(shoppers: Shoppers, place: int) -> None:
    others = [one for number, one in enumerate(shoppers) if number != place]
    whole, rest = (make_examples(given_, KEYS, TASK) for given_ in (shoppers, others))
    assert np.array_equal(whole.cold, rest.cold)
    assert len(whole.training) + len(whole.cases) - len(rest.training) - len(rest.cases) in (0, 1)


def test_known_and_cold_items_are_the_whole_catalogue() -> None:
    examples = make_examples([], KEYS, TASK)
    assert sorted([*examples.known, *examples.cold]) == list(range(60))
    assert np.array_equal(examples.known, known_items(KEYS, TASK))


def test_a_shopper_with_too_short_a_history_takes_no_part() -> None:
    known = known_items(KEYS, TASK)[:2].tolist()
    name = next(str(n) for n in range(99) if not is_held_out(str(n), TASK))
    assert not make_examples([(name, [known[0]] * 5)], KEYS, TASK).training
    assert make_examples([(name, [known[1], known[0], known[1]])], KEYS, TASK).training[
        0
    ].tolist() == sorted(known)


@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.0])
def test_the_shares_are_those_of_the_plan(fraction: float) -> None:
    task = TaskSpec(cold_item_fraction=fraction, held_out_shopper_fraction=fraction)
    names = [f"name {number}" for number in range(4000)]
    for rule in (is_cold, is_held_out):
        assert np.mean([rule(name, task) for name in names]) == pytest.approx(fraction, abs=0.02)


def test_nothing_private_shows() -> None:
    shoppers = [(str(number), list(range(60))) for number in range(20)]
    examples = make_examples(shoppers, KEYS, TASK)
    assert "training" not in repr(examples)
    assert repr(examples.cases[0]) == "Case()"


def _same(first: tuple[np.ndarray, ...], second: tuple[np.ndarray, ...]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))
