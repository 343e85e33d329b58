"""From torch to ONNX: an encoder that ends in a unit sentence vector, and a tower of vectors.

The legacy exporter is used on purpose: it is ten times faster than dynamo's, and the graph is as
exact. It is not thread-safe (it filters warnings while it works): export in one thread at a time.
"""

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from hansa.compression.onnx_encoder import OnnxGraph, padded
from hansa.core.errors import InvalidInputError
from hansa.core.storage import write_atomically

OPSET = 17
"""The newest opset that the legacy exporter writes without conversions."""

MAX_DIFFERENCE = 1e-4
"""The largest absolute difference between torch and ONNX Runtime that is still the same model."""

_PROBE_LENGTHS = ((1,), (2, 8, 32), (512, 3, 1, 17))
_PROBE_ROWS = (1, 2, 5)


class ExportMismatchError(InvalidInputError):
    """The exported graph does not answer as the torch module does; nothing was written."""


class _SentenceEncoder(nn.Module):
    """An encoder followed by the masked mean of its last states and L2 normalisation."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask ``(batch, sequence)`` to unit vectors ``(batch, dim)``."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        states: Tensor = output.last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(pooled, dim=-1)


def export_encoder(
    encoder: nn.Module,
    path: Path,
    *,
    vocabulary: int,
    max_tokens: int,
    max_difference: float = MAX_DIFFERENCE,
) -> int:
    """Writes ``input_ids, attention_mask -> sentence_embedding`` and returns the vector's length.

    Args:
        encoder: A BERT-like module with a ``last_hidden_state`` of shape (batch, sequence, dim).
        path: The ONNX file to write; batch and sequence stay dynamic in it.
        vocabulary: How many token ids there are; the check draws its texts below it.
        max_tokens: The longest text of the check.
        max_difference: Bound on the largest absolute difference from torch, over ragged batches.

    Raises:
        ExportMismatchError: the graph differs from torch by more than the bound.
    """
    names = ("input_ids", "attention_mask")
    probes = [_token_probe(lengths, vocabulary, max_tokens) for lengths in _PROBE_LENGTHS]
    axes = {name: {0: "batch", 1: "sequence"} for name in names}
    axes["sentence_embedding"] = {0: "batch"}
    export = _Export(_SentenceEncoder(encoder), names, ("sentence_embedding",), axes)
    return export.write(path, probes, max_difference)[0]


def export_tower(
    tower: nn.Module,
    path: Path,
    *,
    inputs: Mapping[str, int],
    outputs: Sequence[str],
    max_difference: float = MAX_DIFFERENCE,
) -> list[int]:
    """Writes a module of vectors, each input with rows of its own, and returns the output widths.

    Args:
        tower: Takes one tensor ``(rows, width)`` an input, gives a tuple, one tensor an output.
        path: The ONNX file to write.
        inputs: Names and widths of the inputs, in the order of the module's arguments.
        outputs: Names of the outputs, in the order of the module's results; output i has the
            rows of input i.
        max_difference: Bound on the largest absolute difference from torch.

    Raises:
        InvalidInputError: inputs and outputs are not of one number.
        ExportMismatchError: the graph differs from torch by more than the bound.
    """
    if len(inputs) != len(outputs):
        raise InvalidInputError("a tower has one output for each input; name them in pairs")
    probes = [_vector_probe(rows, inputs) for rows in _PROBE_ROWS]
    axes = {
        name: {0: f"{rows}_rows"}
        for rows, output in zip(inputs, outputs, strict=True)
        for name in (rows, output)
    }
    return _Export(tower, tuple(inputs), tuple(outputs), axes).write(path, probes, max_difference)


class _Export:
    """One module with the names of its graph."""

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        axes: Mapping[str, Mapping[int, str]],
    ) -> None:
        self._module = module
        self._inputs = inputs
        self._outputs = outputs
        self._axes = axes

    def write(
        self, path: Path, probes: Sequence[Mapping[str, npt.NDArray[Any]]], bound: float
    ) -> list[int]:
        with _evaluating(self._module):
            expected = [self._answers(probe) for probe in probes]
            data = self._trace(probes[-1], [answer.shape[-1] for answer in expected[0]])
        graph = OnnxGraph(data, threads=1, what=path.name)
        for probe, answers in zip(probes, expected, strict=True):
            self._compare(answers, graph.run(self._outputs, probe), bound)
        write_atomically(path, data)
        return [graph.width(name) for name in self._outputs]

    def _tensors(self, probe: Mapping[str, npt.NDArray[Any]]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(probe[name]) for name in self._inputs)

    def _answers(self, probe: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            answer = self._module(*self._tensors(probe))
        tensors = answer if isinstance(answer, tuple) else (answer,)
        if len(tensors) != len(self._outputs):
            raise InvalidInputError(f"the module gives {len(tensors)} results, not the named ones")
        return [tensor.numpy() for tensor in tensors]

    def _trace(self, probe: Mapping[str, npt.NDArray[Any]], widths: Sequence[int]) -> bytes:
        with tempfile.TemporaryDirectory(prefix="hansa-export-") as folder, _quiet_exporter():
            file = Path(folder) / "traced.onnx"
            torch.onnx.export(
                self._module,
                self._tensors(probe),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=list(self._inputs),
                output_names=list(self._outputs),
                dynamic_axes={name: dict(axes) for name, axes in self._axes.items()},
            )
            return _with_static_widths(file.read_bytes(), widths)

    @staticmethod
    def _compare(
        expected: Sequence[npt.NDArray[Any]], actual: Sequence[npt.NDArray[Any]], bound: float
    ) -> None:
        for left, right in zip(expected, actual, strict=True):
            if left.shape != right.shape:
                raise ExportMismatchError(f"torch gives {left.shape}, the graph {right.shape}")
            worst = float(np.abs(left - right).max())
            if not worst <= bound:
                raise ExportMismatchError(
                    f"the exported graph differs from torch by {worst:.2e}, above {bound:.2e}; "
                    "export in fp32 with eager or sdpa attention"
                )


def _token_probe(
    lengths: Sequence[int], vocabulary: int, max_tokens: int
) -> dict[str, npt.NDArray[Any]]:
    """A ragged batch of fixed pseudo-texts, each as long as said or as the model allows."""
    kept = [min(length, max_tokens) for length in lengths]
    ids, mask = padded([[(7919 * (i + 1)) % vocabulary for i in range(n)] for n in kept])
    return {"input_ids": ids, "attention_mask": mask}


def _vector_probe(rows: int, inputs: Mapping[str, int]) -> dict[str, npt.NDArray[Any]]:
    """Unit-scale vectors; each input has a different number of rows."""
    shapes = {name: (rows + i, width) for i, (name, width) in enumerate(inputs.items())}
    return {
        name: np.sin(np.arange(shape[0] * shape[1], dtype=np.float32)).reshape(shape)
        for name, shape in shapes.items()
    }


def _with_static_widths(data: bytes, widths: Sequence[int]) -> bytes:
    """The tracer forgets the last dimension of a result; this writes it back."""
    model = onnx.load_model_from_string(data)
    for output, width in zip(model.graph.output, widths, strict=True):
        output.type.tensor_type.shape.dim[-1].dim_value = width
    return model.SerializeToString()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switches dropout off for a while; submodules get their own modes back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hides the four warnings that the legacy exporter gives for any BERT, and no others."""
    with warnings.catch_warnings():
        for message in ("You are using the legacy TorchScript", "The feature will be removed"):
            warnings.filterwarnings("ignore", message, DeprecationWarning)
        warnings.filterwarnings("ignore", "Exporting aten::index operator", UserWarning)
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean", Warning)
        yield
