"""A random BERT of 20 thousand numbers with its tokenizer: a whole artifact within a second.

Use ``tiny_encoder()``, ``write_tokenizer(folder)`` and ``TinyTower()`` wherever an encoder, a
tokenizer's folder or a tower is wanted, or ``tiny_artifact(folder)`` for the packaged whole.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from hansa.compression.artifact import Artifact
from hansa.compression.package import BaseInfo, build_artifact
from hansa.core.plan import ModelSpec

WORDS = [
    "red",
    "blue",
    "green",
    "black",
    "white",
    "running",
    "walking",
    "winter",
    "summer",
    "shoe",
    "shoes",
    "hat",
    "lamp",
    "table",
    "chair",
    "bottle",
    "kettle",
    "phone",
    "cable",
    "garden",
    "hose",
    "drill",
    "paint",
    "brush",
    "ladder",
    "for",
    "women",
    "men",
    "kids",
    "large",
    "small",
]
DIM = 32
VECTOR_DIM = 16
MAX_TOKENS = 16


def texts(count: int) -> list[str]:
    """Distinct texts of two to eight words."""
    return [
        " ".join(WORDS[(7 * i + 3 * j * j + i * i * j) % len(WORDS)] for j in range(2 + i % 7))
        + f" {WORDS[i % len(WORDS)]} {WORDS[(i // len(WORDS)) % len(WORDS)]}"
        for i in range(count)
    ]


def tiny_encoder(seed: int = 0) -> BertModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(WORDS) + 4,
            hidden_size=DIM,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        return BertModel(config, add_pooling_layer=False).eval()


class TinyTower(nn.Module):
    """Two random linear maps."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.user = nn.Linear(DIM, VECTOR_DIM)
            self.item = nn.Linear(DIM, VECTOR_DIM)

    def forward(self, history: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        return self.user(history), self.item(item)


def write_tokenizer(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=words[1]))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=64)  # as many published files do; serving must undo it
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def base_info() -> BaseInfo:
    return BaseInfo(model=ModelSpec(base="tiny", max_tokens=MAX_TOKENS))


def tiny_artifact(folder: Path, seed: int = 0) -> Artifact:
    tokenizer = write_tokenizer(folder / "tokenizer")
    return build_artifact(
        tiny_encoder(seed), tokenizer, TinyTower(), base_info(), folder / "artifact"
    )
