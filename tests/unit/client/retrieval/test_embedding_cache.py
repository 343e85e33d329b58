from pathlib import Path

import numpy as np
import pytest

from hansa.client.retrieval.embedding_cache import EmbeddingCache
from tests.fakes.retrieval_model import FakeRetrievalModel

TEXTS = ["red shoes", "blue hat", "green lamp"]


def test_a_restart_embeds_nothing_again(tmp_path: Path) -> None:
    first = EmbeddingCache(tmp_path).embeddings(FakeRetrievalModel(), TEXTS)
    model = FakeRetrievalModel()
    second = EmbeddingCache(tmp_path).embeddings(model, TEXTS)
    np.testing.assert_array_equal(first, second)
    assert model.embedded == 0


@pytest.mark.parametrize("texts", [TEXTS[::-1], TEXTS[:2], [*TEXTS[:2], "green lamps"]])
def test_another_catalogue_is_embedded(tmp_path: Path, texts: list[str]) -> None:
    model, cache = FakeRetrievalModel(), EmbeddingCache(tmp_path)
    cache.embeddings(model, TEXTS)
    np.testing.assert_array_equal(cache.embeddings(model, texts), model.embed(texts))


def test_another_release_is_embedded(tmp_path: Path) -> None:
    cache, other = EmbeddingCache(tmp_path), FakeRetrievalModel(name="other")
    cache.embeddings(FakeRetrievalModel(), TEXTS)
    cache.embeddings(other, TEXTS)
    assert other.embedded == len(TEXTS)


@pytest.mark.parametrize("kept", [0, 10, 64, 100, -1])
def test_a_damaged_file_costs_time_only(tmp_path: Path, kept: int) -> None:
    model, cache = FakeRetrievalModel(), EmbeddingCache(tmp_path)
    expected = cache.embeddings(model, TEXTS)
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:kept])
    np.testing.assert_array_equal(cache.embeddings(model, TEXTS), expected)
    assert model.embedded == 2 * len(TEXTS)
    cache.embeddings(model, TEXTS)
    assert model.embedded == 2 * len(TEXTS)


def test_one_changed_bit_is_seen(tmp_path: Path) -> None:
    model, cache = FakeRetrievalModel(), EmbeddingCache(tmp_path)
    expected = cache.embeddings(model, TEXTS)
    (path,) = tmp_path.glob("*.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    np.testing.assert_array_equal(cache.embeddings(model, TEXTS), expected)


def test_old_files_are_dropped(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    for i in range(9):
        cache.embeddings(FakeRetrievalModel(), [f"text {i}"])
    assert len(list(tmp_path.iterdir())) == 4
    last = FakeRetrievalModel()
    cache.embeddings(last, ["text 8"])
    assert last.embedded == 0
