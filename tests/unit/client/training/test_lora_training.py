from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from hansa.client.training.lora import TextData, train_lora
from hansa.client.training.loss import padded_targets, shopper_losses
from hansa.client.training.optimizer import clipped_sum
from hansa.client.training.samples import ShopData, draw_samples
from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import (
    Encoder,
    Floats,
    attach_lora,
    initial_lora,
    load_lora_arrays,
    lora_arrays,
)
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import choose_records
from hansa.core.privacy.plan import PrivacyPlan
from tests.fakes.entropy import SeededEntropy
from tests.fakes.tiny_model import texts, tiny_encoder, write_tokenizer

RANK = 2


def _plan(noise: float, rate: float = 1.0) -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "test",
            "training": {"trains": "lora", "rank": RANK, "learning_rate": 1.0},
            "privacy": {
                "sampling_rate": rate,
                "expected_shoppers": 4,
                "records_per_shopper": 3,
                "clip_norm": 0.5,
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
    titles = tuple(texts(24))
    vectors = encoder.embed_texts(titles)
    rng = np.random.default_rng(1)
    shoppers = tuple(np.sort(rng.choice(24, size, replace=False)) for size in (9, 4, 6, 8, 2))
    shop = ShopData(shoppers=shoppers, embeddings=vectors, negatives=vectors[:12])
    return TextData(shop=shop, texts=titles)


def _weights(encoder: Encoder) -> dict[str, Floats]:
    """Adapters away from their start, so that ``down`` has a gradient too."""
    rng = np.random.default_rng(2)
    start = initial_lora(encoder, RANK)
    return {
        n: (a + 0.1 * rng.standard_normal(a.shape)).astype(np.float32) for n, a in start.items()
    }


def _flat(arrays: dict[str, Floats]) -> Floats:
    return np.concatenate([array.ravel() for array in arrays.values()])


def _expected(
    encoder: Encoder, data: TextData, weights: dict[str, Floats], plan: RunPlan
) -> Floats:
    """The noiseless step, one shopper at a time and without Opacus."""
    entropy = SeededEntropy(7)
    entropy.random_bytes(48)  # the noise stream's key and nonce
    attach_lora(encoder.model, rank=RANK, alpha=2.0 * RANK, seed=0)
    load_lora_arrays(encoder.model, weights)
    named = [one for one in encoder.model.named_parameters() if one[1].requires_grad]
    embeddings = torch.from_numpy(data.shop.embeddings)
    rows = []
    for sample in draw_samples(data.shop.shoppers, PrivacyPlan.of(plan), entropy):
        places = sample.history[choose_records(len(sample.history), 8, entropy)]
        text = ", ".join(data.texts[place] for place in places)
        user = encoder.vectors(*encoder.tokens([text]))
        targets, present = padded_targets(embeddings, [sample.targets])
        negatives = torch.from_numpy(data.shop.negatives)
        loss = shopper_losses(user, targets, present, negatives, 0.05)[0]
        grads = torch.autograd.grad(loss, [one[1] for one in named])
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    total = clipped_sum(torch.stack(rows), torch.arange(len(rows)), len(rows), 0.5)
    sizes = [one[1].numel() for one in named]
    for parameter, part in zip([one[1] for one in named], total.split(sizes), strict=True):
        parameter.data -= part.view_as(parameter) / 4
    return _flat(lora_arrays(encoder.model))


def test_a_step_is_the_loop_over_shoppers_without_opacus(
    encoder: Encoder, data: TextData, tmp_path: Path
) -> None:
    weights, plan = _weights(encoder), _plan(noise=1e-9)
    after = train_lora(weights, data, plan, encoder, SeededEntropy(7))
    moved = _flat(after) - _flat(weights)
    expected = _expected(encoder, data, weights, plan) - _flat(weights)
    assert np.linalg.norm(expected) > 0.01
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_an_empty_sample_still_adds_noise(encoder: Encoder, data: TextData) -> None:
    weights = initial_lora(encoder, RANK)
    after = train_lora(weights, data, _plan(noise=2.0, rate=1e-9), encoder, SeededEntropy())
    moved = _flat(after) - _flat(weights)
    assert moved.std() == pytest.approx(2.0 * 0.5 / 4, rel=0.06)


def test_the_update_has_the_models_names_and_shapes_and_the_encoder_comes_back_plain(
    encoder: Encoder, data: TextData
) -> None:
    weights, before = initial_lora(encoder, RANK), encoder.embed_texts(["red shoe"])
    after = train_lora(weights, data, _plan(noise=1.0), encoder, SeededEntropy())
    assert [(k, v.shape, v.dtype) for k, v in after.items()] == [
        (k, v.shape, v.dtype) for k, v in weights.items()
    ]
    np.testing.assert_array_equal(encoder.embed_texts(["red shoe"]), before)
    assert not any(one.requires_grad for one in encoder.model.parameters())


def test_weights_of_another_rank_are_refused_and_the_encoder_comes_back_plain(
    encoder: Encoder, data: TextData
) -> None:
    weights = initial_lora(encoder, RANK + 1)
    with pytest.raises(InvalidInputError, match="not the adapters"):
        train_lora(weights, data, _plan(noise=1.0), encoder, SeededEntropy())
    assert initial_lora(encoder, RANK)


def test_every_item_needs_a_text(data: TextData) -> None:
    with pytest.raises(InvalidInputError, match="one text"):
        TextData(shop=data.shop, texts=data.texts[1:])


def test_the_proximal_term_pulls_the_second_step_back_by_mu_of_the_first(
    encoder: Encoder, data: TextData
) -> None:
    weights = initial_lora(encoder, RANK)

    def moved(steps: int, mu: float) -> Floats:
        plan = _plan(noise=1.0, rate=1e-9)
        training = plan.training.model_copy(update={"local_steps": steps})
        plan = plan.model_copy(update={"training": training})
        after = train_lora(weights, data, plan, encoder, SeededEntropy(3), proximal_mu=mu)
        return _flat(after) - _flat(weights)

    expected = moved(2, 0.0) - 0.5 * moved(1, 0.0)
    np.testing.assert_allclose(moved(2, 0.5), expected, atol=1e-5)
