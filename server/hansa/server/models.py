"""The operator's models: the public backbone, the public catalogue, and what a run begins with."""

import csv
import functools
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from hansa.core.canonical import digest
from hansa.core.catalogue import Item, parse_item
from hansa.core.cold import is_cold
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.ids import Sha256
from hansa.core.models.encoder import Encoder
from hansa.core.models.shapes import NEGATIVES, PUBLIC, TRAINED
from hansa.core.models.tower import Tower
from hansa.core.models.trained import initial_arrays
from hansa.core.plan import RunPlan
from hansa.core.storage import file_sha256, write_atomically
from hansa.core.update import Arrays
from hansa.server.settings import ServerSettings

Floats = npt.NDArray[np.float32]

_CATEGORY_SEPARATOR = ">"
_GATE_TEXTS = 500
"""So many public texts, evenly spaced, judge a release; more changed the figures by under 0.002."""


class ModelRoom:
    """Loads each thing when it is first needed, and keeps the catalogue's embeddings on disk."""

    def __init__(self, settings: ServerSettings, cache: Path) -> None:
        self._settings = settings
        self._cache = cache

    def folder(self, plan: RunPlan) -> Path:
        """The local folder of the plan's base model.

        Raises:
            InvalidInputError: this server has none of that name.
        """
        folder = self._settings.base_models.get(plan.model.base)
        if folder is None:
            raise InvalidInputError(f"this server has no base model {plan.model.base!r}")
        return folder

    def digest(self, plan: RunPlan) -> Sha256:
        """The digest of the base model: of its weights, configuration and tokenizer."""
        folder = self.folder(plan)
        names = ("config.json", "model.safetensors", "tokenizer.json")
        return digest({name: file_sha256(folder / name) for name in names})

    def encoder(self, plan: RunPlan) -> nn.Module:
        """The public encoder, for export."""
        return self._encoder(plan).model

    def _encoder(self, plan: RunPlan) -> Encoder:
        return Encoder.load(self.folder(plan), max_tokens=plan.model.max_tokens)

    def initial(self, plan: RunPlan) -> Arrays:
        """The trained arrays with which a run begins; the model is then the public one, exactly."""
        if plan.training.trains != "tower":
            return initial_arrays(self._encoder(plan), plan.training)
        arrays = self._first_tower(plan).arrays()
        return {name: arrays[name] for name in TRAINED}

    def context(self, plan: RunPlan) -> Content:
        """The public records that every task of the run needs: constants and negatives."""
        embeddings = self._embeddings(plan)
        known = [not is_cold(item.key, plan.task) for item in self._catalogue()]
        public: dict[str, npt.NDArray[np.float32]] = {NEGATIVES: embeddings[np.array(known)]}
        if plan.training.trains == "tower":
            arrays = self._first_tower(plan).arrays()
            public |= {name: arrays[name] for name in arrays if name not in TRAINED}
        return Content(arrays={PUBLIC: public})

    def tower(self, plan: RunPlan, model: Arrays) -> Tower:
        """The tower whose arrays are given; what they leave out is the first tower's."""
        return Tower.from_arrays({**self._first_tower(plan).arrays(), **model})

    def embeddings(self, plan: RunPlan) -> Floats:
        """Of all public items in the catalogue's order, ``(items, dim)``."""
        return self._embeddings(plan)

    def public_texts(self) -> list[str]:
        """Texts of the public catalogue on which a release is compared with its teacher."""
        texts = sorted({item.text for item in self._catalogue()})
        return texts[:: max(1, len(texts) // _GATE_TEXTS)][:_GATE_TEXTS]

    def _first_tower(self, plan: RunPlan) -> Tower:
        return Tower.initial(self._embeddings(plan), plan.training.rank)

    def _embeddings(self, plan: RunPlan) -> Floats:
        """Of all public items; computed once for each model and catalogue."""
        texts = [item.text for item in self._catalogue()]
        key = digest({"model": self.digest(plan), "tokens": plan.model.max_tokens, "texts": texts})
        path = self._cache / f"{key}.npy"
        if not path.exists():
            buffer = io.BytesIO()
            np.save(buffer, self._encoder(plan).embed_texts(texts))
            write_atomically(path, buffer.getvalue())
        return np.asarray(np.load(path, allow_pickle=False), np.float32)

    def _catalogue(self) -> tuple[Item, ...]:
        path = self._settings.public_catalogue
        if path is None:
            raise NotFoundError(
                "this server has no public catalogue; name one with 'hansa-server init "
                "--public-catalogue FILE' before a run"
            )
        return read_public_catalogue(path)


@functools.lru_cache(maxsize=4)
def read_public_catalogue(path: Path) -> tuple[Item, ...]:
    """The items of a CSV with the columns ``item_id``, ``title`` and perhaps ``category_path``.

    Raises:
        InvalidInputError: the file cannot be read, a column is missing, or a row is no item.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"cannot read the public catalogue {path}: {error}") from error
    if not rows or not {"item_id", "title"} <= rows[0].keys():
        raise InvalidInputError(f"{path} needs the columns item_id and title, and at least one row")
    return tuple(_item(row) for row in rows)


def _item(row: dict[str, str]) -> Item:
    parts = row.get("category_path", "").split(_CATEGORY_SEPARATOR)
    category = [part.strip() for part in parts if part.strip()]
    return parse_item({"item_id": row["item_id"], "title": row["title"], "category_path": category})
