from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import Encoder
from hansa.core.models.shapes import EncoderSize, encoder_shapes
from hansa.core.models.trained import arrays_of, initial_arrays, load_arrays, trained_parameters
from hansa.core.plan import TrainingSpec
from tests.fakes.tiny_model import DIM, texts, tiny_encoder, write_tokenizer

SIZE = EncoderSize(hidden=DIM, layers=2, intermediate=64)
MINILM = EncoderSize(hidden=384, layers=6, intermediate=1536)
MODES: list[dict[str, Any]] = [
    {"trains": "lora", "rank": 2},
    {"trains": "bitfit"},
    {"trains": "top_layers", "top_layers": 1},
    {"trains": "full"},
]


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    tokenizer = Tokenizer.from_file(str(write_tokenizer(tmp_path) / "tokenizer.json"))
    return Encoder(tiny_encoder(), tokenizer, max_tokens=16)


def _mode(mode: dict[str, Any]) -> TrainingSpec:
    return TrainingSpec.model_validate(mode)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["trains"])
def test_the_arrays_are_known_without_the_model(mode: dict[str, Any], encoder: Encoder) -> None:
    arrays = initial_arrays(encoder, _mode(mode))
    shapes = encoder_shapes(_mode(mode), SIZE)
    assert [(name, one.shape) for name, one in arrays.items()] == list(shapes.items())


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["trains"])
def test_only_the_plans_arrays_are_trained_and_the_encoder_comes_back(
    mode: dict[str, Any], encoder: Encoder
) -> None:
    before = encoder.embed_texts(texts(3))
    with trained_parameters(encoder.model, _mode(mode)) as parameters:
        free = [one for one in encoder.model.parameters() if one.requires_grad]
        assert set(map(id, free)) == set(map(id, parameters.values()))
        moved = {name: one + np.float32(0.1) for name, one in arrays_of(parameters).items()}
        load_arrays(parameters, moved)
        assert not np.allclose(encoder.embed_texts(texts(3)), before, atol=1e-3)
    np.testing.assert_array_equal(encoder.embed_texts(texts(3)), before)
    assert not any(one.requires_grad for one in encoder.model.parameters())


@pytest.mark.parametrize(
    ("mode", "numbers"),
    [
        ({"trains": "lora", "rank": 8}, 6 * 2 * 2 * 8 * 384),
        ({"trains": "bitfit"}, 384 + 6 * (4 * 384 + 1536 + 384 + 2 * 384)),
        ({"trains": "top_layers", "top_layers": 2}, 2 * 1_774_464),
        ({"trains": "full"}, 6 * 1_774_464 + 2 * 384),
    ],
)
def test_no_mode_trains_the_tables_of_embeddings(mode: dict[str, Any], numbers: int) -> None:
    """A row of them is one token's, and most tokens are never seen: they would gather noise."""
    shapes = encoder_shapes(_mode(mode), MINILM)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == numbers
    assert not any("word_embeddings" in name or "position" in name for name in shapes)


def test_more_layers_than_there_are_cannot_be_trained(encoder: Encoder) -> None:
    with pytest.raises(InvalidInputError, match="has 2 layers"):
        initial_arrays(encoder, _mode({"trains": "top_layers", "top_layers": 3}))


def test_a_tower_is_not_inside_the_encoder() -> None:
    with pytest.raises(InvalidInputError, match="beside the encoder"):
        encoder_shapes(_mode({}), SIZE)


@pytest.mark.parametrize(
    "wrong", [{"trains": "full", "top_layers": 1}, {"adamw": {"epsilon": 1e-6}}]
)
def test_a_field_that_says_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="says nothing"):
        _mode(wrong)
