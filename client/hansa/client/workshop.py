"""What training and evaluation on a site work with: the split data and their frozen embeddings."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hansa.client.dataset import Dataset
from hansa.client.examples import Examples, make_examples
from hansa.client.retrieval.embedding_cache import EmbeddingCache
from hansa.client.site import Site
from hansa.client.training.devices import check_devices
from hansa.core.canonical import digest
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.models.encoder import Encoder
from hansa.core.plan import RunPlan

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """One site's data as one plan sees them; private."""

    examples: Examples = field(repr=False)
    embeddings: Floats = field(repr=False)
    """Of all the shop's items by the public base model, ``(items, dim)``."""
    texts: tuple[str, ...] = field(repr=False)
    encoder: Encoder


def open_workshop(site: Site, plan: RunPlan) -> Workshop:
    """Loads the data set, splits it by the plan's rules, and embeds the catalogue (once).

    Raises:
        NotFoundError: nothing was ingested yet.
        InvalidInputError: the data set or the base model is damaged or missing.
    """
    dataset = Dataset.load(site.dataset)
    keys = [item.key for item in dataset.items]
    texts = tuple(item.text for item in dataset.items)
    encoder = Encoder.load(_folder(site, plan), max_tokens=plan.model.max_tokens)
    return Workshop(
        examples=make_examples(dataset.shoppers(), keys, plan.task),
        embeddings=_embeddings(site, plan, encoder, texts),
        texts=texts,
        encoder=encoder,
    )


def make_ready(site: Site, plan: RunPlan) -> None:
    """What a task of the plan needs and no shopper pays for: devices, and the catalogue embedded.

    Raises:
        DevicesMissingError: the plan asks for more GPUs than there are here.
        NotFoundError: nothing was ingested yet.
        InvalidInputError: the data set or the base model is damaged or missing.
    """
    check_devices(plan.training.devices, gpus=torch.cuda.device_count())
    embed_catalogue(site, plan)


def embed_catalogue(site: Site, plan: RunPlan) -> None:
    """Puts the catalogue's embeddings into the cache; reads the public items alone.

    Raises:
        NotFoundError: nothing was ingested yet.
        InvalidInputError: the data set or the base model is damaged or missing.
    """
    texts = tuple(item.text for item in Dataset.load(site.dataset).items)
    encoder = Encoder.load(_folder(site, plan), max_tokens=plan.model.max_tokens)
    _embeddings(site, plan, encoder, texts)


def _embeddings(site: Site, plan: RunPlan, encoder: Encoder, texts: tuple[str, ...]) -> Floats:
    name = digest({"base": plan.model.base, "tokens": plan.model.max_tokens})
    return EmbeddingCache(site.cache / "base").embeddings(_BaseModel(encoder, name), texts)


class _BaseModel:
    """The public encoder as the cache sees a model."""

    def __init__(self, encoder: Encoder, name: Sha256) -> None:
        self.digest = name
        self.embed = encoder.embed_texts


def _folder(site: Site, plan: RunPlan) -> Path:
    folder = site.settings().base_models.get(plan.model.base)
    if folder is None:
        raise InvalidInputError(f"this site has no base model {plan.model.base!r}")
    return folder
