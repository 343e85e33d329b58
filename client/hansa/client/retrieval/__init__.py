"""From a catalogue and a release to answers: embeddings, lexical and dense index."""

# First: when it is imported after usearch 2.26, ONNX Runtime 1.32 crashes the process.
import onnxruntime  # type: ignore[import-untyped]  # noqa: F401
