"""A BERT sentence encoder from a local folder, and low-rank adapters (LoRA) inside it.

Nothing is ever downloaded: a folder that is not complete is an error. The sentence vector is the
masked mean of the last states, normalised to length 1.

References:
    Hu et al., "LoRA: low-rank adaptation of large language models", arXiv:2106.09685.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel

from hansa.core.errors import InvalidInputError
from hansa.core.models.shapes import LORA_TARGETS

Floats = npt.NDArray[np.float32]

_FILES = ("config.json", "model.safetensors", "tokenizer.json")
LORA_SEED = 0
"""Public; the ``down`` maps that every site and the server start from."""

_ALPHA_PER_RANK = 2.0


class LoraLinear(nn.Module):
    """A frozen linear map plus ``alpha / rank`` times a trained map of low rank.

    ``up`` starts at zero, so the whole starts as the frozen map.
    """

    def __init__(
        self, base: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        bound = 1.0 / math.sqrt(base.in_features)
        nn.init.uniform_(self.down.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        """States ``(..., in)`` to ``(..., out)``."""
        frozen: Tensor = self.base(states)
        adapted: Tensor = self.up(self.down(states))
        return frozen + self.scale * adapted

    def merged(self) -> nn.Linear:
        """The frozen map with the adapter added to its weight."""
        with torch.no_grad():
            self.base.weight += self.scale * self.up.weight @ self.down.weight
        return self.base


class _PlainBert(BertModel):  # type: ignore[no-untyped-call]
    """A BERT without a pooler: that a checkpoint brings one is nothing to report."""

    _keys_to_ignore_on_load_unexpected = [r"pooler\."]  # noqa: RUF012 - the base class reads it


class Encoder:
    """Texts to unit vectors; dropout is off, also while adapters are trained."""

    def __init__(self, model: BertModel, tokenizer: Tokenizer, *, max_tokens: int) -> None:
        """Takes the model over: its parameters are frozen and its dropout is removed."""
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self.model = model
        self._tokenizer = tokenizer
        model.requires_grad_(False)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    @classmethod
    def load(cls, folder: Path, *, max_tokens: int) -> "Encoder":
        """The encoder in a local Hugging Face folder.

        Raises:
            InvalidInputError: a file is missing, or the folder holds no BERT with a tokenizer.
        """
        for name in _FILES:
            if not (folder / name).is_file():
                raise InvalidInputError(f"{folder} lacks {name}; give a whole local model folder")
        try:
            model = _PlainBert.from_pretrained(
                str(folder), local_files_only=True, add_pooling_layer=False
            )
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise InvalidInputError(f"{folder} holds no usable BERT encoder: {error}") from error
        model.train(mode=False)
        return cls(model, tokenizer, max_tokens=max_tokens)

    @property
    def dim(self) -> int:
        """Length of a sentence vector."""
        return int(self.model.config.hidden_size)

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both ``(texts, longest)``, int64."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        longest = max((len(row) for row in rows), default=1)
        ids = torch.zeros((len(rows), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        return ids, mask

    def vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors ``(batch, dim)`` through which gradients flow; the batch is not empty."""
        places = torch.arange(ids.shape[1], device=ids.device).repeat(len(ids), 1)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            token_type_ids=torch.zeros_like(ids),
            position_ids=places,
        )
        states: Tensor = output.last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(pooled, dim=-1)

    def embed_texts(self, texts: Sequence[str], batch: int = 64) -> Floats:
        """Unit vectors ``(texts, dim)`` in the texts' order; texts of like length run together."""
        result = np.zeros((len(texts), self.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                result[rows] = self.vectors(*self.tokens([texts[row] for row in rows])).numpy()
        return result


def attach_lora(
    model: BertModel, *, rank: int, alpha: float | None = None, seed: int = LORA_SEED
) -> None:
    """Puts adapters beside the query and value maps of every layer; only they can be trained.

    Args:
        model: a BERT without adapters.
        rank: inner width of an adapter.
        alpha: an adapter's output is multiplied by ``alpha / rank``; absent: twice the rank.
        seed: public; every site starts with the same ``down`` maps.

    Raises:
        InvalidInputError: the model carries adapters already.
    """
    if any(_adapters(model)):
        raise InvalidInputError("this encoder carries adapters already; detach or merge them first")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    scaled = _ALPHA_PER_RANK * rank if alpha is None else alpha
    for attention in _attentions(model):
        for target in LORA_TARGETS:
            base = getattr(attention, target)
            adapter = LoraLinear(base, rank=rank, alpha=scaled, generator=generator)
            setattr(attention, target, adapter)


def detach_lora(model: BertModel) -> None:
    """Removes the adapters; the model is the frozen one again."""
    for _, owner, target, adapter in list(_adapters(model)):
        setattr(owner, target, adapter.base)


def merge_lora(model: BertModel) -> None:
    """Adds the adapters to the maps they stand beside: a plain BERT, ready for export."""
    for _, owner, target, adapter in list(_adapters(model)):
        setattr(owner, target, adapter.merged())


def lora_parameters(model: BertModel) -> dict[str, nn.Parameter]:
    """The adapters' numbers: by layer, query before value, down before up."""
    return {
        f"{name}.{part}": adapter.get_parameter(f"{part}.weight")
        for name, _, _, adapter in _adapters(model)
        for part in ("down", "up")
    }


def _attentions(model: BertModel) -> Iterator[nn.Module]:
    """The self-attention of each layer, from the first to the last."""
    for number in range(model.config.num_hidden_layers):
        yield model.get_submodule(f"encoder.layer.{number}.attention.self")


def _adapters(model: BertModel) -> Iterator[tuple[str, nn.Module, str, LoraLinear]]:
    for number, attention in enumerate(_attentions(model)):
        for target in LORA_TARGETS:
            adapter = getattr(attention, target)
            if isinstance(adapter, LoraLinear):
                yield f"layer.{number}.{target}", attention, target, adapter
