"""The whole protocol between honest members: exact sums, drop-outs, and what hides what."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.core.content import Content
from hansa.core.errors import QuorumNotMetError
from hansa.core.secure import collector
from hansa.core.secure.fixed_point import FixedPoint
from hansa.core.secure.protocol import LIGHT_STAGES, STAGES
from tests.fakes.secure_round import (
    SecureWorld,
    exact_sum,
    name_of,
    random_values,
    setting,
)

SIZE = 50


def test_the_sum_is_that_of_the_fixed_point_numbers_to_the_last_bit() -> None:
    world = SecureWorld(members=5)
    values = random_values(world.names, SIZE)
    assert np.array_equal(world.run(values), exact_sum(world.setting, values, world.names))


def test_it_works_in_the_narrow_ring_too() -> None:
    coding = FixedPoint(fraction_bits=12, max_abs=2.0, largest_group=8)
    world = SecureWorld(members=3, where=setting(coding=coding))
    values = random_values(world.names, SIZE)
    assert coding.bits == 32
    assert np.array_equal(world.run(values), exact_sum(world.setting, values, world.names))


@settings(max_examples=12, deadline=None)
@given(st.integers(4, 10), st.randoms(), st.integers(0, 100))
def test_up_to_thirty_percent_may_drop_out_at_any_stages(members: int, random, seed: int) -> None:
    """Whoever sent its masked update is in the sum, exactly, and nobody else."""
    world = SecureWorld(members=members, seed=seed)
    spare = members - world.setting.threshold(members)
    lost: dict[str, set[str]] = {}
    for name in random.sample(world.names, min(spare, round(0.3 * members))):
        lost.setdefault(random.choice(STAGES[1:]), set()).add(name)
    values = random_values(world.names, SIZE, seed)
    early = {name for stage in ("shares", "train") for name in lost.get(stage, set())}
    counted = [name for name in world.names if name not in early]
    assert np.array_equal(world.run(values, lost), exact_sum(world.setting, values, counted))


def test_whoever_drops_out_before_the_keys_shrinks_the_roster_only() -> None:
    world = SecureWorld(members=5)
    values = random_values(world.names, SIZE)
    total = world.run(values, {"keys": {"m00", "m04"}})
    assert np.array_equal(total, exact_sum(world.setting, values, world.names[1:4]))


@pytest.mark.parametrize("stage", STAGES)
def test_with_one_message_fewer_than_the_threshold_nothing_is_revealed(stage: str) -> None:
    """Ten members, threshold seven: four gone leave six, and every stage refuses them."""
    world = SecureWorld(members=10 if stage != "keys" else 2)
    gone = {name_of(at) for at in range(4)} if stage != "keys" else set()
    with pytest.raises(QuorumNotMetError):
        world.run(random_values(world.names, SIZE), {stage: gone})


def test_exactly_the_threshold_suffices_at_the_last_stage() -> None:
    world = SecureWorld(members=10)
    values = random_values(world.names, SIZE)
    agreed = world.agreed(values)
    answers = world.reveal(agreed, world.names[:7])
    total, _ = collector.unmask(agreed, answers)
    assert np.array_equal(total, exact_sum(world.setting, values, world.names))
    del answers[world.names[0]]
    with pytest.raises(QuorumNotMetError, match=r"6 of 10 .* threshold is 7; nothing is revealed"):
        collector.unmask(agreed, answers)


@pytest.mark.parametrize(
    ("members", "fraction", "quorum", "threshold"),
    [
        (10, 0.67, 3, 7),
        (100, 0.67, 3, 67),
        (100, 0.51, 3, 51),
        (4, 0.5001, 3, 3),
        (10, 0.51, 3, 6),
        (10, 0.67, 9, 9),
        (3, 1.0, 3, 3),
    ],
)
def test_the_threshold_is_the_plans_share_more_than_half_and_at_least_the_quorum(
    members: int, fraction: float, quorum: int, threshold: int
) -> None:
    where = setting(threshold_fraction=fraction, quorum=quorum)
    assert where.threshold(members) == threshold
    assert 2 * threshold > members


def masked_bytes(value: float, seed: int) -> np.ndarray:
    world = SecureWorld(members=3, seed=seed)
    values = {name: np.full(8000, value, np.float32) for name in world.names}
    dealt = world.dealt()
    answers = world.mask(dealt.sharers, world.names, values)
    array = answers[world.names[0]].arrays["masked"]["values"]
    return np.frombuffer(array.tobytes(), np.uint8)


@pytest.mark.parametrize("value", [0.0, 1.0, -8.0])
def test_a_masked_update_is_uniform_whatever_it_hides(value: float) -> None:
    """Chi-square over 64,000 bytes, 255 degrees of freedom: above 340 in 3 of 10,000 seeds."""
    counts = np.bincount(masked_bytes(value, seed=5), minlength=256)
    assert float(np.sum((counts - 250.0) ** 2 / 250.0)) < 340.0


def test_all_masked_updates_together_still_hide_their_sum() -> None:
    """The pair masks cancel, the members' own masks do not."""
    world = SecureWorld(members=4)
    values = {name: np.zeros(8000, np.float32) for name in world.names}
    masked = world.masked(values)
    counts = np.bincount(np.frombuffer(masked.total.tobytes(), np.uint8), minlength=256)
    assert float(np.sum((counts - 250.0) ** 2 / 250.0)) < 340.0


def test_the_masks_of_two_rounds_have_nothing_in_common() -> None:
    first, second = masked_bytes(0.0, seed=6), masked_bytes(0.0, seed=7)
    assert 150 < int(np.sum(first == second)) < 350  # 1 of 256 by chance: 250


def test_the_same_answers_in_any_order_lead_to_the_same_requests() -> None:
    """A server that was killed reads them again, in whatever order the disk gives."""
    world = SecureWorld(members=5)
    answers = world.advertise()
    roster = world.roster(answers)
    again = world.roster(dict(reversed(answers.items())))
    assert again.to_content().to_bytes() == roster.to_content().to_bytes()
    deals = world.share(roster, world.names)
    dealt, _ = collector.collect_shares(roster, dict(reversed(deals.items())))
    assert dealt.sharers == tuple(world.names)


def test_a_state_survives_its_way_through_a_file() -> None:
    world = SecureWorld(members=4)
    values = random_values(world.names, SIZE)
    dealt = world.dealt()
    for name, state in world.states.items():
        world.states[name] = type(state).parse(state.to_bytes(), "the state")
    answers = world.mask(dealt.sharers, world.names, values)
    masked, _ = collector.collect_masked(dealt, answers, SIZE)
    world.states = {
        name: type(state).parse(state.to_bytes(), "the state")
        for name, state in world.states.items()
    }
    agreed, _ = collector.collect_votes(masked, world.vote(masked.survivors, world.names))
    total, _ = collector.unmask(agreed, world.reveal(agreed, world.names))
    assert np.array_equal(total, exact_sum(world.setting, values, world.names))


def test_a_states_text_shows_no_secret() -> None:
    world = SecureWorld(members=3)
    world.dealt()
    state = world.states[world.names[0]]
    text = repr(state) + str(state)
    (one,) = state.secrets
    for secret in (state.sealing, one.masking, state.voice, one.seed, *one.own_shares):
        assert secret not in text


def test_only_the_stage_of_training_touches_data() -> None:
    assert set(STAGES) - LIGHT_STAGES == {"train"}


def test_the_members_of_a_sum_send_nothing_but_ring_elements() -> None:
    world = SecureWorld(members=3)
    values = random_values(world.names, SIZE)
    answers = world.mask(world.dealt().sharers, world.names, values)
    for content in answers.values():
        assert content == Content(arrays=content.arrays)
        assert list(content.arrays["masked"]) == ["values"]
