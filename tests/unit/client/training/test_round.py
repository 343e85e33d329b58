"""A whole round at a site: what is summed, what is noised, and what is booked for it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.client.site import Site
from hansa.client.training.ranks import Alone
from hansa.client.training.round import sum_round, train_round
from hansa.client.training.samples import ShopData
from hansa.client.training.tower import train_tower
from hansa.client.workshop import open_workshop
from hansa.core.models.tower import Tower
from hansa.core.plan import RunPlan
from hansa.core.privacy.events import BandedGaussian
from hansa.core.privacy.mechanism import Entropy
from hansa.core.privacy.noise import NoiseStream
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy
from tests.fakes.tiny_site import tiny_plan, tiny_site, tiny_task


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return tiny_site(tmp_path_factory.mktemp("world"))


def _plan(trains: str, **privacy: object) -> RunPlan:
    plan = tiny_plan(trains, devices=1, steps=1, rate=1.0)
    return plan.model_copy(update={"privacy": plan.privacy.model_copy(update=privacy)})


@pytest.mark.parametrize("unit", ["shopper", "record"])
@pytest.mark.parametrize("trains", ["tower", "lora", "bitfit", "top_layers", "full"])
def test_a_round_of_one_step_moves_against_the_sum_that_secure_aggregation_would_get(
    trains: str, unit: str, site: Site
) -> None:
    plan = _plan(trains, noise_multiplier=1e-9, unit=unit)
    task, workshop = tiny_task(plan, site), open_workshop(site, plan)
    after = train_round(task, workshop, SeededEntropy(4))
    entropy = SeededEntropy(4)
    entropy.random_bytes(48)  # the noise stream's key and nonce
    total = sum_round(task, workshop, entropy)
    before = np.concatenate([array.ravel() for array in task.weights.values()])
    moved = np.concatenate([array.ravel() for array in after.values()]) - before
    step = -plan.training.learning_rate * total / plan.privacy.expected_shoppers
    assert (total.shape, total.dtype) == (before.shape, np.float64)
    assert np.linalg.norm(total) > 0.01
    np.testing.assert_allclose(moved, step, atol=1e-6)


@pytest.mark.parametrize("trains", ["tower", "full"])
def test_the_sum_of_one_shopper_is_within_the_clip_norm(trains: str, site: Site) -> None:
    plan = _plan(trains)
    task, workshop = tiny_task(plan, site), open_workshop(site, plan)
    one = dataclasses.replace(workshop.examples, training=workshop.examples.training[:1])
    total = sum_round(task, dataclasses.replace(workshop, examples=one), SeededEntropy())
    assert 0.0 < np.linalg.norm(total) <= plan.privacy.clip_norm


class CountingRanks(Alone):
    """One process that counts the draws of noise."""

    def __init__(self) -> None:
        self.draws = 0

    def noise(self, source: Entropy, privacy: PrivacyPlan) -> NoiseStream:
        return _Counted(super().noise(source, privacy), self)


class _Counted:
    def __init__(self, stream: NoiseStream, ranks: CountingRanks) -> None:
        self._stream, self._ranks = stream, ranks

    def next(self, size: int, /) -> np.ndarray:
        self._ranks.draws += 1
        return self._stream.next(size)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(2, 9),
    rounds=st.integers(1, 3),
    rate=st.sampled_from([1e-9, 0.3, 1.0]),
    bands=st.one_of(st.none(), st.integers(2, 9)),
    unit=st.sampled_from(["shopper", "record"]),
)
def test_the_booked_events_are_the_steps_that_were_noised(
    steps: int, rounds: int, rate: float, bands: int | None, unit: str
) -> None:
    """Empty samples included, and banded noise, whose event says how many steps a round has."""
    plan = RunPlan.model_validate(
        {
            "name": "test",
            "training": {"rank": 3, "local_steps": steps},
            "privacy": {
                "unit": unit,
                "sampling_rate": rate if bands is None else 1.0,
                "expected_shoppers": 4,
                "noise_multiplier": 1.0,
                "banded_noise": None if bands is None else {"bands": min(bands, steps)},
            },
            "federation": {"rounds": rounds, "quorum": 1},
        }
    )
    vectors = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    shoppers = tuple(np.arange(start, start + 6) for start in range(5))
    data = ShopData(shoppers=shoppers, embeddings=vectors, negatives=vectors)
    ranks, model = CountingRanks(), Tower.initial(vectors, 3).arrays()
    for number in range(rounds):
        model = train_tower(model, data, plan, SeededEntropy(number), ranks=ranks)
    privacy = PrivacyPlan.of(plan)
    booked = sum(
        event.steps * event.releases if isinstance(event, BandedGaussian) else event.steps
        for event in privacy.training_events()
    )
    assert ranks.draws == booked == steps * rounds
    assert all(event.unit == unit for event in privacy.training_events())


def test_a_step_without_noise_leaves_no_gradients_in_the_model(site: Site) -> None:
    plan = _plan("full")
    workshop = open_workshop(site, plan)
    sum_round(tiny_task(plan, site), workshop, SeededEntropy())
    assert all(one.grad is None for one in workshop.encoder.model.parameters())
    assert not any(hasattr(one, "grad_sample") for one in workshop.encoder.model.parameters())
