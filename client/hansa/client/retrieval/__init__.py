"""From a catalogue and a release to answers: embeddings, lexical and dense index."""

import onnxruntime  # noqa: F401 - first: imported after usearch 2.26, ONNX Runtime 1.32 crashes
