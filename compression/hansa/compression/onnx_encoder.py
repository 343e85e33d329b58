"""Texts to embeddings with ONNX Runtime and ``tokenizers`` alone; no torch, no transformers.

The compression gate and the merchant's serving read an encoder through this one module, so that
what was judged is what answers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort  # type: ignore[import-untyped]
from tokenizers import Encoding, Tokenizer

from hansa.core.errors import HansaError, InvalidInputError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

BATCH = 8
"""Texts in one run of the graph: on a CPU nearly all of batching's gain is had by 8."""

_FATAL_ONLY = 4


class ModelAnswerError(HansaError):
    """A model refuses its input or answers with numbers that are not finite; do not serve it."""


class OnnxGraph:
    """One ONNX graph on the CPU; safe to call from many threads at once."""

    def __init__(self, model: bytes, *, threads: int, what: str) -> None:
        """``threads`` is how many CPU threads one run may use; ``what`` names the file in errors.

        Raises:
            InvalidInputError: the bytes are no ONNX model that this runtime can run.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._what = what
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InvalidInputError(f"ONNX Runtime cannot load {what}: {error}") from error

    def width(self, output: str) -> int:
        """The static length of the last dimension of an output.

        Raises:
            InvalidInputError: there is no such output, or its width is not static.
        """
        shapes = {node.name: node.shape for node in self._session.get_outputs()}
        shape = shapes.get(output)
        if not shape or not isinstance(shape[-1], int):
            raise InvalidInputError(f"{self._what} has no output '{output}' of a static width")
        return shape[-1]

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> list[Floats]:
        """The named outputs for the named inputs.

        Raises:
            ModelAnswerError: the inputs do not fit the graph, or an output is not finite.
        """
        try:
            results = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            raise ModelAnswerError(f"{self._what} refuses its input") from error
        if not all(np.isfinite(result).all() for result in results):
            raise ModelAnswerError(f"{self._what} answers with numbers that are not finite")
        return list(results)


class OnnxEncoder:
    """A sentence encoder: the graph with pooling and normalisation inside, and its tokenizer."""

    def __init__(self, model: bytes, tokenizer: bytes, *, max_tokens: int, threads: int) -> None:
        """Args: the ONNX file, ``tokenizer.json``, where texts are cut, CPU threads of one run.

        Raises:
            InvalidInputError: either file cannot be used.
        """
        self._graph = OnnxGraph(model, threads=threads, what="the encoder")
        self._tokenizer = load_tokenizer(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._dim = self._graph.width("sentence_embedding")

    @property
    def dim(self) -> int:
        """The length of one embedding."""
        return self._dim

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors ``(n, dim)``, in the texts' order; texts of like length run together.

        Raises:
            ModelAnswerError: the graph answers with numbers that are not finite.
        """
        vectors = np.zeros((len(texts), self._dim), np.float32)
        encoded = [self._tokenizer.encode(text) for text in texts]
        for rows in buckets([len(one) for one in encoded], BATCH):
            vectors[rows] = self._run([encoded[row] for row in rows])
        return vectors

    def _run(self, batch: Sequence[Encoding]) -> Floats:
        ids, mask = padded([one.ids for one in batch])
        feeds = {"input_ids": ids, "attention_mask": mask}
        return self._graph.run(["sentence_embedding"], feeds)[0]


def load_tokenizer(data: bytes) -> Tokenizer:
    """The tokenizer in the bytes of a ``tokenizer.json``.

    Raises:
        InvalidInputError: the bytes hold none.
    """
    try:
        return Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:
        raise InvalidInputError(f"this is not a tokenizer.json: {error}") from error


def buckets(lengths: Sequence[int], size: int) -> Iterator[npt.NDArray[np.intp]]:
    """The positions of ``lengths``, shortest first, in groups of at most ``size``."""
    order = np.argsort(np.asarray(lengths, np.int64), kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Integers, Integers]:
    """Token ids and mask, both ``(batch, longest)``; what pads is masked, so its id is free."""
    longest = max(1, *(len(sequence) for sequence in sequences))
    ids = np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
