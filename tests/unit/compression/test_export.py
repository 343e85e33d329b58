from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from hansa.compression.export import ExportMismatchError, export_encoder, export_tower
from hansa.compression.onnx_encoder import OnnxEncoder, OnnxGraph
from hansa.core.errors import InvalidInputError
from tests.fakes.tiny_model import (
    DIM,
    MAX_TOKENS,
    VECTOR_DIM,
    WORDS,
    TinyTower,
    texts,
    tiny_encoder,
    write_tokenizer,
)

VOCABULARY = len(WORDS) + 4


class Growing(nn.Module):
    """Counts its calls in Python, so that a trace freezes what torch would change."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0.0

    def forward(self, item: Tensor) -> Tensor:
        self.calls += 1.0
        return item * self.calls


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "encoder.onnx"
    assert export_encoder(tiny_encoder(), path, vocabulary=VOCABULARY, max_tokens=64) == DIM
    return path


def test_exported_encoder_gives_torchs_masked_mean_of_unit_length(exported: Path) -> None:
    ids = torch.tensor([[2, 5, 6, 3], [2, 9, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.no_grad():
        states = tiny_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    means = torch.stack([states[0].mean(0), states[1, :3].mean(0)])
    expected = (means / means.norm(dim=1, keepdim=True)).numpy()
    graph = OnnxGraph(exported.read_bytes(), threads=1, what="the encoder")

    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    actual = graph.run(["sentence_embedding"], feeds)[0]

    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_exported_encoder_has_dynamic_rows_and_a_static_width(exported: Path) -> None:
    graph = onnx.load(exported).graph
    dims = graph.output[0].type.tensor_type.shape.dim
    assert graph.output[0].name == "sentence_embedding"
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", DIM)


def test_padding_does_not_change_an_embedding(exported: Path, tmp_path: Path) -> None:
    tokenizer = (write_tokenizer(tmp_path) / "tokenizer.json").read_bytes()
    encoder = OnnxEncoder(exported.read_bytes(), tokenizer, max_tokens=MAX_TOKENS, threads=1)
    given = [*texts(20), "", "unknownword"]
    alone = np.concatenate([encoder.embed([text]) for text in given])
    np.testing.assert_allclose(encoder.embed(given), alone, atol=1e-5)


def test_no_texts_give_no_rows(exported: Path, tmp_path: Path) -> None:
    tokenizer = (write_tokenizer(tmp_path) / "tokenizer.json").read_bytes()
    encoder = OnnxEncoder(exported.read_bytes(), tokenizer, max_tokens=MAX_TOKENS, threads=1)
    assert encoder.embed([]).shape == (0, DIM)


def test_export_leaves_the_module_in_its_mode(tmp_path: Path) -> None:
    encoder = tiny_encoder().train()
    export_encoder(encoder, tmp_path / "encoder.onnx", vocabulary=VOCABULARY, max_tokens=8)
    assert all(part.training for part in encoder.modules())


def test_a_graph_that_differs_from_torch_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "growing.onnx"
    with pytest.raises(ExportMismatchError, match="differs from torch"):
        export_tower(Growing(), path, inputs={"item": 4}, outputs=["vector"])
    assert not path.exists()


def test_a_bound_below_rounding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportMismatchError):
        export_encoder(
            tiny_encoder(),
            tmp_path / "encoder.onnx",
            vocabulary=VOCABULARY,
            max_tokens=8,
            max_difference=0.0,
        )


def test_tower_sides_have_rows_of_their_own(tmp_path: Path) -> None:
    tower, path = TinyTower(), tmp_path / "tower.onnx"
    inputs = {"history": DIM, "item": DIM}
    widths = export_tower(tower, path, inputs=inputs, outputs=["user_vector", "item_vector"])
    assert widths == [VECTOR_DIM, VECTOR_DIM]
    graph = OnnxGraph(path.read_bytes(), threads=1, what="the tower")
    items = np.eye(DIM, dtype=np.float32)

    feeds = {"history": np.zeros((0, DIM), np.float32), "item": items}
    actual = graph.run(["item_vector"], feeds)[0]

    expected = tower.item(torch.from_numpy(items)).detach().numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_tower_outputs_are_named_in_pairs_with_inputs(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="in pairs"):
        export_tower(TinyTower(), tmp_path / "t.onnx", inputs={"item": DIM}, outputs=[])
