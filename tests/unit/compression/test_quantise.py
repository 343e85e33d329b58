from pathlib import Path

import numpy as np
import onnx
import pytest

from hansa.compression.export import export_encoder
from hansa.compression.onnx_encoder import OnnxGraph, padded
from hansa.compression.quantise import quantise_int8
from hansa.core.errors import InvalidInputError
from tests.fakes.tiny_model import WORDS, tiny_encoder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantise") / "teacher.onnx"
    export_encoder(tiny_encoder(), path, vocabulary=len(WORDS) + 4, max_tokens=32)
    return path


def bytes_of_int8(path: Path) -> int:
    """How many of the graph's weights are kept in eight bits."""
    small = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    tensors = onnx.load(path).graph.initializer
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.data_type in small)


def test_embedding_table_and_matrices_become_int8(teacher: Path, tmp_path: Path) -> None:
    size = quantise_int8(teacher, tmp_path / "int8.onnx")
    matrices = sum(
        parameter.numel()
        for name, parameter in tiny_encoder().named_parameters()
        if name.endswith("weight") and "LayerNorm" not in name and "position" not in name
    )
    token_types = 2 * 32  # folded into a constant: only the first is ever used
    assert bytes_of_int8(tmp_path / "int8.onnx") >= matrices - token_types
    assert size == (tmp_path / "int8.onnx").stat().st_size < teacher.stat().st_size


def test_int8_stays_close_to_the_teacher(teacher: Path, tmp_path: Path) -> None:
    quantise_int8(teacher, tmp_path / "int8.onnx")
    ids, mask = padded([[2, 5, 6, 7, 3], [2, 9, 3]])
    expected, actual = (
        OnnxGraph(path.read_bytes(), threads=1, what="it").run(
            ["sentence_embedding"], {"input_ids": ids, "attention_mask": mask}
        )[0]
        for path in (teacher, tmp_path / "int8.onnx")
    )
    assert (expected * actual).sum(axis=1).min() > 0.98


def test_same_graph_gives_the_same_bytes(teacher: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantise_int8(teacher, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_named_nodes_stay_fp32(teacher: Path, tmp_path: Path) -> None:
    nodes = [node.name for node in onnx.load(teacher).graph.node if node.op_type == "MatMul"]
    quantise_int8(teacher, tmp_path / "mixed.onnx", keep_fp32=nodes)
    quantise_int8(teacher, tmp_path / "int8.onnx")
    mixed, small = (bytes_of_int8(tmp_path / name) for name in ("mixed.onnx", "int8.onnx"))
    table = (len(WORDS) + 4) * 32
    assert table <= mixed < small / 4


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(InvalidInputError, match=r"junk\.onnx cannot be quantised"):
        quantise_int8(tmp_path / "junk.onnx", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()
