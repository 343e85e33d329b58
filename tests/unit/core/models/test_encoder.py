from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import (
    Encoder,
    attach_lora,
    detach_lora,
    lora_parameters,
    merge_lora,
)
from hansa.core.models.shapes import lora_shapes
from hansa.core.models.trained import arrays_of, load_arrays
from tests.fakes.tiny_model import DIM, texts, tiny_encoder, write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_encoder().save_pretrained(tmp_path)
    return write_tokenizer(tmp_path)


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    tokenizer = Tokenizer.from_file(str(write_tokenizer(tmp_path) / "tokenizer.json"))
    return Encoder(tiny_encoder(), tokenizer, max_tokens=16)


def _randomise(encoder: Encoder) -> None:
    rng = np.random.default_rng(0)
    arrays = arrays_of(lora_parameters(encoder.model))
    noise = {name: rng.standard_normal(one.shape) for name, one in arrays.items()}
    load_arrays(lora_parameters(encoder.model), {k: v.astype(np.float32) for k, v in noise.items()})


def test_a_folder_gives_unit_vectors(folder: Path) -> None:
    vectors = Encoder.load(folder, max_tokens=16).embed_texts(texts(7))
    assert vectors.shape == (7, DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_text_has_the_same_vector_whatever_the_batch(encoder: Encoder) -> None:
    whole = encoder.embed_texts(texts(9), batch=4)
    alone = np.concatenate([encoder.embed_texts([text]) for text in texts(9)])
    np.testing.assert_allclose(whole, alone, atol=1e-5)


def test_no_texts_give_no_vectors(encoder: Encoder) -> None:
    assert encoder.embed_texts([]).shape == (0, DIM)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidInputError, match=name):
        Encoder.load(folder, max_tokens=16)


def test_a_damaged_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(InvalidInputError, match="no usable BERT encoder"):
        Encoder.load(folder, max_tokens=16)


def test_fresh_adapters_change_nothing_and_only_they_are_trained(encoder: Encoder) -> None:
    before = encoder.embed_texts(texts(3))
    attach_lora(encoder.model, rank=4, alpha=8.0, seed=0)
    np.testing.assert_array_equal(encoder.embed_texts(texts(3)), before)
    trained = sum(one.numel() for one in encoder.model.parameters() if one.requires_grad)
    shapes = lora_shapes(DIM, 2, 4)
    assert trained == sum(int(np.prod(shape)) for shape in shapes.values())
    arrays = arrays_of(lora_parameters(encoder.model))
    assert [(k, v.shape) for k, v in arrays.items()] == list(shapes.items())


def test_detaching_gives_the_frozen_encoder_back(encoder: Encoder) -> None:
    before = encoder.embed_texts(texts(3))
    attach_lora(encoder.model, rank=4, alpha=8.0, seed=0)
    _randomise(encoder)
    assert not np.allclose(encoder.embed_texts(texts(3)), before, atol=1e-3)
    detach_lora(encoder.model)
    np.testing.assert_array_equal(encoder.embed_texts(texts(3)), before)


def test_merging_keeps_the_answers_and_leaves_a_plain_encoder(encoder: Encoder) -> None:
    attach_lora(encoder.model, rank=4, alpha=8.0, seed=0)
    _randomise(encoder)
    adapted = encoder.embed_texts(texts(3))
    merge_lora(encoder.model)
    np.testing.assert_allclose(encoder.embed_texts(texts(3)), adapted, atol=1e-4)
    assert list(encoder.model.state_dict()) == list(tiny_encoder().state_dict())


def test_a_public_seed_gives_every_site_the_same_adapters(encoder: Encoder) -> None:
    other = tiny_encoder()
    for model in (encoder.model, other):
        attach_lora(model, rank=4, alpha=8.0, seed=5)
    first, second = arrays_of(lora_parameters(encoder.model)), arrays_of(lora_parameters(other))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_adapters_are_not_attached_twice(encoder: Encoder) -> None:
    attach_lora(encoder.model, rank=4, alpha=8.0, seed=0)
    with pytest.raises(InvalidInputError, match="already"):
        attach_lora(encoder.model, rank=4, alpha=8.0, seed=0)


def test_arrays_of_another_rank_are_refused(encoder: Encoder) -> None:
    attach_lora(encoder.model, rank=4, alpha=8.0, seed=0)
    arrays = arrays_of(lora_parameters(encoder.model))
    name = next(iter(arrays))
    other = arrays | {name: np.zeros((3, DIM), np.float32)}
    with pytest.raises(InvalidInputError, match="not the trained ones"):
        load_arrays(lora_parameters(encoder.model), other)


def test_dropout_is_off_while_training(encoder: Encoder) -> None:
    ids, mask = encoder.tokens(texts(4))
    encoder.model.train()
    assert torch.equal(encoder.vectors(ids, mask), encoder.vectors(ids, mask))
