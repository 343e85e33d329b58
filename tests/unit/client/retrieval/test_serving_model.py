import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hansa.client.retrieval.serving_model import ServingModel
from hansa.compression.artifact import MODEL, Artifact, read_artifact
from hansa.core.errors import InvalidInputError, UntrustedReleaseError
from hansa.core.ids import Sha256
from tests.fakes.tiny_model import DIM, VECTOR_DIM, TinyTower, texts, tiny_artifact, tiny_encoder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return tiny_artifact(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(artifact: Artifact) -> ServingModel:
    return ServingModel.load(artifact.folder, expected=artifact.digest)


def test_embeddings_are_unit_vectors_in_the_texts_order(model: ServingModel) -> None:
    given = texts(21)
    vectors = model.embed(given)
    assert vectors.shape == (21, DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([model.embed([text]) for text in given])
    assert (vectors * alone).sum(axis=1).min() > 0.999  # int8 activations share one scale a batch


def test_served_embeddings_are_close_to_torchs(model: ServingModel) -> None:
    ids = torch.tensor([[2, 4, 13, 3]])  # [CLS] red shoe [SEP]
    with torch.no_grad():
        states = tiny_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids))
    mean = states.last_hidden_state.mean(1)
    expected = (mean / mean.norm()).numpy()[0]
    assert float(model.embed(["Red SHOE"])[0] @ expected) > 0.98


def test_a_text_is_cut_at_the_released_number_of_tokens(model: ServingModel) -> None:
    long = "red shoe " * 200
    np.testing.assert_array_equal(model.embed([long]), model.embed([long + " blue hat"]))


def test_vectors_are_the_towers(model: ServingModel) -> None:
    tower, items = TinyTower(), model.embed(texts(5))
    with torch.no_grad():
        user = tower.user(torch.from_numpy(items).mean(0)).numpy()
        vectors = tower.item(torch.from_numpy(items)).numpy()
    np.testing.assert_allclose(model.user_vector(items), user, atol=1e-5)
    np.testing.assert_allclose(model.item_vectors(items), vectors, atol=1e-5)


def test_many_item_vectors_are_those_of_each_alone(model: ServingModel) -> None:
    items = np.random.default_rng(0).standard_normal((2500, DIM)).astype(np.float32)
    vectors = model.item_vectors(items)
    assert vectors.shape == (2500, VECTOR_DIM)
    np.testing.assert_allclose(vectors[[0, 1024, 2499]], model.item_vectors(items[[0, 1024, 2499]]))
    assert model.item_vectors(items[:0]).shape == (0, VECTOR_DIM)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused(model: ServingModel, bad: float) -> None:
    items = np.ones((3, DIM), np.float32)
    items[1, 2] = bad
    with pytest.raises(InvalidInputError, match="finite"):
        model.item_vectors(items)
    with pytest.raises(InvalidInputError, match="finite"):
        model.user_vector(items)


@pytest.mark.parametrize("shape", [(3, DIM + 1), (DIM,), (1, 2, DIM)])
def test_embeddings_of_another_shape_are_refused(
    model: ServingModel, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidInputError, match="32 numbers"):
        model.item_vectors(np.ones(shape, np.float32))


def test_an_empty_history_is_refused(model: ServingModel) -> None:
    with pytest.raises(InvalidInputError, match="one item or more"):
        model.user_vector(np.zeros((0, DIM), np.float32))


def test_a_file_with_another_digest_is_never_loaded(tmp_path: Path) -> None:
    folder = tiny_artifact(tmp_path).folder
    other = tiny_artifact(tmp_path / "other", seed=9).folder
    (folder / "encoder.onnx").write_bytes((other / "encoder.onnx").read_bytes())
    with pytest.raises(UntrustedReleaseError, match=r"encoder\.onnx is not the file"):
        ServingModel.load(folder)


def test_another_release_than_the_expected_one_is_refused(artifact: Artifact) -> None:
    with pytest.raises(UntrustedReleaseError):
        ServingModel.load(artifact.folder, expected=Sha256("f" * 64))


def test_model_json_that_contradicts_the_graphs_is_refused(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path)
    card = artifact.card.model_copy(update={"vector_dim": VECTOR_DIM + 1})
    (artifact.folder / MODEL).write_bytes(card.to_bytes())
    with pytest.raises(UntrustedReleaseError, match="disagree about dimensions"):
        ServingModel(read_artifact(artifact.folder), threads=1)


def test_serving_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, hansa.client.retrieval.serving_model, hansa.client.retrieval.index; "
        "import hansa.client.serving.server; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
