"""Item embeddings kept on the disk, so that a restart does not embed the catalogue again."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hansa.core.canonical import digest, sha256_hex
from hansa.core.errors import HansaError, InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.storage import write_atomically

Floats = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

_KEPT = 4
"""Files that stay: the release in use, the one before it, and their last catalogues."""


class EmbeddingModel(Protocol):
    """A release that can embed texts."""

    @property
    def digest(self) -> Sha256:
        """Which release this is."""
        ...

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors ``(n, dim)`` in the texts' order."""
        ...


class EmbeddingCache:
    """A folder of embeddings, one file for each pair of release and list of texts."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when the first file is written."""
        self._folder = folder

    def embeddings(self, model: EmbeddingModel, texts: Sequence[str]) -> Floats:
        """The texts' embeddings ``(n, dim)``: from the disk, or computed and then kept.

        A file that is damaged is computed anew; nothing but time is lost.

        Raises:
            ModelAnswerError: the model answers with numbers that are not finite.
        """
        path = self._folder / f"{model.digest[:32]}-{digest(list(texts))[:32]}.npy"
        kept = _read(path, len(texts))
        if kept is not None:
            return kept
        vectors = model.embed(texts)
        write_atomically(path, _to_bytes(vectors))
        self._drop_old(path)
        return vectors

    def _drop_old(self, newest: Path) -> None:
        others = [path for path in self._folder.glob("*.npy") if path != newest]
        others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in others[_KEPT - 1 :]:
            path.unlink(missing_ok=True)


def _to_bytes(vectors: Floats) -> bytes:
    """A digest in hexadecimal, then NumPy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    data = buffer.getvalue()
    return sha256_hex(data).encode() + data


def _from_bytes(data: bytes, rows: int) -> Floats:
    if sha256_hex(data[64:]).encode() != data[:64]:
        raise InvalidInputError("the kept embeddings are damaged")
    vectors = np.load(io.BytesIO(data[64:]), allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != rows or vectors.dtype != np.float32:
        raise InvalidInputError("the kept embeddings are of another shape")
    return np.asarray(vectors, np.float32)


def _read(path: Path, rows: int) -> Floats | None:
    try:
        return _from_bytes(path.read_bytes(), rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, HansaError) as error:
        _log.warning("embeddings in %s are computed again: %s", path.name, error)
        return None
