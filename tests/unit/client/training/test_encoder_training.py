"""Every way of training inside the encoder, against one shopper at a time without any tricks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from hansa.client.training.clipping import clipped_sum
from hansa.client.training.encoder import EncoderLearner, TextData, encoder_learner, train_encoder
from hansa.client.training.samples import Sample, ShopData
from hansa.client.training.step import clipped_step_sum
from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import Encoder, Floats
from hansa.core.models.trained import initial_arrays
from hansa.core.plan import RunPlan
from tests.fakes.entropy import SeededEntropy
from tests.fakes.tiny_model import texts, tiny_encoder, write_tokenizer

MODES: list[dict[str, Any]] = [
    {"trains": "lora", "rank": 2},
    {"trains": "bitfit"},
    {"trains": "top_layers", "top_layers": 1},
    {"trains": "full"},
]
CLIP = 0.5
TOLERANCE = 2e-5
"""Relative; all of it is float32 rounding: batches of other sizes add in another order."""
each_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["trains"])


def _plan(mode: dict[str, Any], noise: float = 1.0, rate: float = 1.0, **training: Any) -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "test",
            "training": {"learning_rate": 1.0, **mode, **training},
            "privacy": {
                "sampling_rate": rate,
                "expected_shoppers": 4,
                "records_per_shopper": 3,
                "clip_norm": CLIP,
                "noise_multiplier": noise,
            },
            "federation": {"rounds": 1, "quorum": 1},
            "compression": None,
        }
    )


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    tokenizer = Tokenizer.from_file(str(write_tokenizer(tmp_path) / "tokenizer.json"))
    return Encoder(tiny_encoder(), tokenizer, max_tokens=32)


@pytest.fixture
def data(encoder: Encoder) -> TextData:
    titles = tuple(one.replace("ladder", "hat") for one in texts(24))
    titles = (*titles[:4], "ladder", *titles[5:])
    vectors = encoder.embed_texts(titles)
    rng = np.random.default_rng(1)
    shoppers = tuple(np.sort(rng.choice(24, size, replace=False)) for size in (9, 4, 6, 8, 2))
    shop = ShopData(shoppers=shoppers, embeddings=vectors, negatives=vectors[:12])
    return TextData(shop=shop, texts=titles)


def _weights(encoder: Encoder, plan: RunPlan) -> dict[str, Floats]:
    """Away from the start, so that every array has a gradient."""
    rng = np.random.default_rng(2)
    start = initial_arrays(encoder, plan.training)
    return {
        n: (a + 0.1 * rng.standard_normal(a.shape)).astype(np.float32) for n, a in start.items()
    }


def _flat(arrays: dict[str, Floats]) -> Floats:
    return np.concatenate([array.ravel() for array in arrays.values()])


SAMPLES = [
    Sample(history=np.array([0, 3, 5, 7, 11]), targets=np.array([1, 2, 9])),
    Sample(history=np.array([4]), targets=np.array([20])),
    Sample(history=np.array([6, 6, 6, 6]), targets=np.array([6, 8])),
    Sample(history=np.arange(8), targets=np.array([23, 17])),
]
"""Texts of very different lengths, so that most rows are padded."""


def _sum(learner: EncoderLearner, negatives: Floats, samples: list[Sample], part: int) -> Tensor:
    parameters = tuple(learner.parameters.values())
    with learner.gradients() as gradients:
        return clipped_step_sum(
            gradients,
            samples,
            learner.losses(negatives),
            clip_norm=CLIP,
            part_size=part,
            parameters=parameters,
        )


def _singly(learner: EncoderLearner, negatives: Floats, samples: list[Sample]) -> Tensor:
    """The reference: plain autograd, one shopper at a time, rows clipped in float64."""
    losses, rows = learner.losses(negatives), []
    for sample in samples:
        grads = torch.autograd.grad(losses([sample])[0], list(learner.parameters.values()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return clipped_sum(torch.stack(rows), CLIP)


@pytest.mark.parametrize("part", [1, 3, 32])
@each_mode
def test_the_clipped_sum_is_that_of_one_shopper_at_a_time(
    mode: dict[str, Any], part: int, encoder: Encoder, data: TextData
) -> None:
    plan = _plan(mode)
    with encoder_learner(_weights(encoder, plan), data, plan, encoder) as learner:
        expected = _singly(learner, data.shop.negatives, SAMPLES)
        found = _sum(learner, data.shop.negatives, SAMPLES, part)
    assert float(expected.norm()) > 0.1
    assert float((found - expected).norm() / expected.norm()) < TOLERANCE


@each_mode
def test_a_shopper_whose_gradient_is_not_finite_counts_as_zero(
    mode: dict[str, Any], encoder: Encoder, data: TextData
) -> None:
    plan = _plan(mode)
    with encoder_learner(_weights(encoder, plan), data, plan, encoder) as learner:
        expected = _sum(learner, data.shop.negatives, SAMPLES[:1] + SAMPLES[2:], 32)
        for bad in (np.nan, np.inf):
            broken = data.shop.embeddings.copy()
            broken[20] = bad
            learner._embeddings = torch.from_numpy(broken)  # the second shopper's target
            found = _sum(learner, data.shop.negatives, SAMPLES, 32)
            assert float((found - expected).norm() / expected.norm()) < TOLERANCE


@each_mode
def test_a_token_that_breaks_the_forward_pass_takes_only_its_own_shopper_along(
    mode: dict[str, Any], encoder: Encoder, data: TextData
) -> None:
    plan = _plan(mode)
    token = int(encoder.tokens(["ladder"])[0][0, 1])  # in the second shopper's only title
    samples = [SAMPLES[0], SAMPLES[1], SAMPLES[2]]
    with encoder_learner(_weights(encoder, plan), data, plan, encoder) as learner:
        expected = _sum(learner, data.shop.negatives, [samples[0], samples[2]], 32)
        with torch.no_grad():
            encoder.model.embeddings.word_embeddings.weight[token] = np.inf
        found = _sum(learner, data.shop.negatives, samples, 32)
    assert float((found - expected).norm() / expected.norm()) < TOLERANCE


@each_mode
def test_a_training_round_is_the_loop_of_its_steps(
    mode: dict[str, Any], encoder: Encoder, data: TextData
) -> None:
    plan = _plan(mode, noise=1e-9)
    weights = _weights(encoder, plan)
    moved = _flat(train_encoder(weights, data, plan, encoder, SeededEntropy(7))) - _flat(weights)
    assert 0.01 < np.linalg.norm(moved) <= 5 * CLIP / 4 * (1 + 1e-4)


@each_mode
def test_an_empty_sample_still_adds_noise(
    mode: dict[str, Any], encoder: Encoder, data: TextData
) -> None:
    plan = _plan(mode, noise=2.0, rate=1e-9, local_steps=4)
    weights = initial_arrays(encoder, plan.training)
    after = train_encoder(weights, data, plan, encoder, SeededEntropy())
    moved = _flat(after) - _flat(weights)
    assert moved.std() == pytest.approx(2.0 * (2.0 * CLIP / 4), rel=0.06)


@each_mode
def test_the_update_has_the_models_names_and_shapes_and_the_encoder_comes_back_plain(
    mode: dict[str, Any], encoder: Encoder, data: TextData
) -> None:
    plan = _plan(mode)
    weights, before = initial_arrays(encoder, plan.training), encoder.embed_texts(["red shoe"])
    after = train_encoder(weights, data, plan, encoder, SeededEntropy())
    assert [(k, v.shape, v.dtype) for k, v in after.items()] == [
        (k, v.shape, v.dtype) for k, v in weights.items()
    ]
    np.testing.assert_array_equal(encoder.embed_texts(["red shoe"]), before)
    assert not any(one.requires_grad for one in encoder.model.parameters())
    assert not encoder.model.training


@pytest.mark.parametrize("mode", [MODES[0], MODES[3]], ids=lambda mode: mode["trains"])
def test_weights_of_another_plan_are_refused_and_the_encoder_comes_back_plain(
    mode: dict[str, Any], encoder: Encoder, data: TextData
) -> None:
    other = _plan({"trains": "lora", "rank": 3})
    weights = initial_arrays(encoder, other.training)
    with pytest.raises(InvalidInputError, match="not the trained ones"):
        train_encoder(weights, data, _plan(mode), encoder, SeededEntropy())
    assert initial_arrays(encoder, other.training)


def test_every_item_needs_a_text(data: TextData) -> None:
    with pytest.raises(InvalidInputError, match="one text"):
        TextData(shop=data.shop, texts=data.texts[1:])


def test_the_proximal_term_pulls_the_second_step_back_by_mu_of_the_first(
    encoder: Encoder, data: TextData
) -> None:
    def moved(steps: int, mu: float) -> Floats:
        plan = _plan(MODES[0], noise=1.0, rate=1e-9, local_steps=steps)
        weights = initial_arrays(encoder, plan.training)
        after = train_encoder(weights, data, plan, encoder, SeededEntropy(3), proximal_mu=mu)
        return _flat(after) - _flat(weights)

    expected = moved(2, 0.0) - 0.5 * moved(1, 0.0)
    np.testing.assert_allclose(moved(2, 0.5), expected, atol=1e-5)


@each_mode
def test_a_parameter_freed_or_frozen_within_the_round_is_refused(
    mode: dict[str, Any], encoder: Encoder, data: TextData
) -> None:
    plan = _plan(mode, local_steps=2)
    weights = initial_arrays(encoder, plan.training)
    seen: list[nn.Parameter] = []

    def flipping(*arguments: Any) -> Tensor:
        users = arguments[0]
        if torch.is_grad_enabled() and not seen:
            seen.append(encoder.model.embeddings.position_embeddings.weight)
            seen[0].requires_grad_(True)
        return users.sum(dim=1)

    with pytest.raises(InvalidInputError, match="changed within the round"):
        train_encoder(weights, data, plan, encoder, SeededEntropy(), loss=flipping)
    seen[0].requires_grad_(False)
