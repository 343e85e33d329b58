"""Attack tests: no shopper, and no purchase, moves a step by more than the clip norm."""

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor

from hansa.client.training.encoder import TextData, encoder_learner
from hansa.client.training.learner import Learner, Steps
from hansa.client.training.samples import Integers, Sample, ShopData, Units
from hansa.client.training.step import clipped_step_sum
from hansa.client.training.tower import TowerLearner, train_tower
from hansa.core.models.encoder import Encoder
from hansa.core.models.tower import Tower
from hansa.core.models.trained import initial_arrays
from hansa.core.plan import RunPlan
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy
from tests.fakes.tiny_model import texts, tiny_encoder, write_tokenizer

ITEMS = 24
CLIP = 0.5

CONTENTS = st.one_of(
    st.lists(st.integers(0, ITEMS - 1), max_size=12),
    st.sampled_from([[], [3], [3, 3, 3, 3], list(range(ITEMS)), [22, 23], [0, 22, 23]]),
)
"""What a shopper holds; the embeddings of 22 and 23 are huge and not a number."""


def _plan(trains: str, unit: str = "shopper") -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "test",
            "training": {"trains": trains, "rank": 3},
            "privacy": {
                "unit": unit,
                "sampling_rate": 1.0,
                "expected_shoppers": 4,
                "records_per_shopper": 3,
                "clip_norm": CLIP,
                "noise_multiplier": 1.0,
            },
            "federation": {"rounds": 1, "quorum": 1},
            "compression": None,
        }
    )


def _vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((ITEMS, 8)).astype(np.float32)
    vectors[22] = 3e38
    return vectors


def _data(shoppers: list[Integers], vectors: np.ndarray) -> ShopData:
    finite = vectors[:20]
    data = ShopData(shoppers=tuple(shoppers), embeddings=vectors, negatives=finite)
    vectors[23] = np.nan  # a site's own check would refuse it; the clipping must not need that
    return data


def _samples(shoppers: list[list[int]], unit: str, seed: int) -> list[Sample]:
    """Each unit draws from an entropy of its own, so that neighbours draw alike."""
    privacy = PrivacyPlan.of(_plan("tower", unit))
    found = []
    for number, items in enumerate(shoppers):
        entropy = SeededEntropy(1000 * seed + number)
        salted = Units.of(
            ShopData(
                shoppers=(np.asarray(items, np.int64),),
                embeddings=np.eye(3, dtype=np.float32),
                negatives=np.eye(3, dtype=np.float32),
            ),
            privacy,
            SeededEntropy(seed),
        )
        found += salted.draw(0, entropy) if unit == "shopper" else _pairs(salted)
    return found


def _pairs(units: Units) -> list[Sample]:
    return [Sample(history=one[:1], targets=one[1:]) for one in units.contents if len(one)]


def _sum(learner: Learner, negatives: np.ndarray, samples: list[Sample]) -> Tensor:
    parameters = tuple(learner.parameters.values())
    with learner.gradients() as gradients:
        return clipped_step_sum(
            gradients,
            samples,
            learner.losses(negatives),
            clip_norm=CLIP,
            part_size=3,
            parameters=parameters,
        )


@functools.cache
def _encoder() -> Encoder:
    with TemporaryDirectory() as folder:
        tokenizer = Tokenizer.from_file(str(write_tokenizer(Path(folder)) / "tokenizer.json"))
    return Encoder(tiny_encoder(), tokenizer, max_tokens=16)


def _tower_sums(*cases: list[Sample]) -> list[Tensor]:
    data = _data([], _vectors())
    weights = Tower.initial(data.negatives, 3).arrays()
    learner = TowerLearner(weights, data, _plan("tower"))
    return [_sum(learner, data.negatives, one) for one in cases]


def _encoder_sums(trains: str, *cases: list[Sample]) -> list[Tensor]:
    encoder, titles = _encoder(), tuple(texts(ITEMS))
    vectors = encoder.embed_texts(titles)
    vectors[22] = 3e38
    data = _data([], vectors)
    plan = _plan(trains)
    weights = initial_arrays(encoder, plan.training)
    text = TextData(shop=data, texts=titles)
    with encoder_learner(weights, text, plan, encoder) as learner:
        return [_sum(learner, data.negatives, one) for one in cases]


Sums = Callable[..., list[Tensor]]
MODELS: dict[str, Sums] = {
    "tower": _tower_sums,
    "lora": functools.partial(_encoder_sums, "lora"),
    "full": functools.partial(_encoder_sums, "full"),
}


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25, deadline=None)
@given(shoppers=st.lists(CONTENTS, min_size=1, max_size=5), seed=st.integers(0, 999))
def test_one_shopper_more_moves_the_clipped_sum_by_at_most_the_clip_norm(
    model: str, shoppers: list[list[int]], seed: int
) -> None:
    """The last shopper is the one more, so that all others draw what they drew without it."""
    whole = _samples(shoppers, "shopper", seed)
    rest = _samples(shoppers[:-1], "shopper", seed)
    more, fewer = MODELS[model](whole, rest)
    assert torch.isfinite(more).all()
    assert float((more - fewer).norm()) <= CLIP * (1 + 1e-4)


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=25, deadline=None)
@given(
    shoppers=st.lists(st.sets(st.integers(0, ITEMS - 1), max_size=9), min_size=1, max_size=4),
    more=st.integers(0, ITEMS - 1),
    seed=st.integers(0, 999),
)
def test_one_purchase_more_moves_the_clipped_sum_of_records_by_at_most_the_clip_norm(
    model: str, shoppers: list[set[int]], more: int, seed: int
) -> None:
    before = [sorted(items) for items in shoppers]
    after = [*before[:-1], sorted(shoppers[-1] | {more})]
    new, old = MODELS[model](_samples(after, "record", seed), _samples(before, "record", seed))
    assert float((new - old).norm()) <= CLIP * (1 + 1e-4)


def test_one_shopper_more_changes_no_constant_of_the_mechanism() -> None:
    """Rate, divisor, clip norm, noise and event come from the plan: a data set is no argument.

    The same noise stream is subtracted from a shop of 40 shoppers and from one of 41, none of whom
    is sampled: the two updates are equal to the last bit.
    """
    plan = _plan("tower")
    privacy = plan.privacy.model_copy(update={"sampling_rate": 1e-12})
    plan = plan.model_copy(update={"privacy": privacy})
    vectors = _vectors()[:20]
    weights = Tower.initial(vectors, 3).arrays()
    updates = []
    for count in (40, 41):
        shoppers = tuple(np.array([1, 2, 3]) for _ in range(count))
        data = ShopData(shoppers=shoppers, embeddings=vectors, negatives=vectors)
        updates.append(train_tower(weights, data, plan, SeededEntropy(5)))
    assert all(np.array_equal(updates[0][name], updates[1][name]) for name in weights)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_the_sum_of_a_step_has_the_size_of_the_model_whatever_the_shop(count: int) -> None:
    vectors = _vectors()[:20]
    shoppers = tuple(np.array([1, 2, 3]) for _ in range(count))
    data = ShopData(shoppers=shoppers, embeddings=vectors, negatives=vectors)
    plan = _plan("tower")
    learner = TowerLearner(Tower.initial(vectors, 3).arrays(), data, plan)
    total = Steps(learner=learner, data=data, plan=plan).one_sum(0, SeededEntropy())
    assert (total.shape, total.dtype) == ((12,), torch.float64)
    assert float(total.norm()) <= CLIP * count
