"""Made-up catalogues, encoders and first rounds: what a plan needs to train on nobody's data.

Encoders are small and their numbers random: neither the base model nor its weights decide whether
clipping, noise and divisor are right.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertModel

from hansa.client.empirical.attacked import MadeUpSite
from hansa.client.training.encoder import TextData, encoder_learner
from hansa.client.training.learner import Learner
from hansa.client.training.round import tower_arrays
from hansa.client.training.round_task import RoundTask
from hansa.client.training.samples import ShopData
from hansa.client.training.tower import TowerLearner
from hansa.core.models.encoder import Encoder
from hansa.core.models.shapes import NEGATIVES, TRAINED
from hansa.core.models.tower import Floats, Tower
from hansa.core.models.trained import initial_arrays
from hansa.core.plan import RunPlan
from hansa.core.update import Arrays

HIDDEN: Final = 64
"""Width of a made-up encoder."""

_LAYERS: Final = 2
_UNKNOWN: Final = "[UNK]"


def unit_rows(count: int, dim: int, rng: np.random.Generator) -> Floats:
    """Random directions, ``(count, dim)``, each of length 1."""
    rows = rng.standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def tower_dim(plan: RunPlan) -> int:
    """Length of made-up embeddings with room for the plan's rank."""
    return max(HIDDEN, plan.training.rank)


def made_encoder(plan: RunPlan, words: Sequence[str], seed: int) -> Encoder | None:
    """A random encoder that knows these words; none where the plan trains beside the encoder."""
    if plan.training.trains == "tower":
        return None
    layers = plan.training.top_layers if plan.training.trains == "top_layers" else _LAYERS
    vocabulary = {_UNKNOWN: 0, **{word: place + 1 for place, word in enumerate(words)}}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=max(_LAYERS, layers),
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    model.train(mode=False)
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return Encoder(model, tokenizer, max_tokens=plan.model.max_tokens)


def first_task(plan: RunPlan, negatives: Floats, site: MadeUpSite) -> RoundTask:
    """A run's first round: the zero-shot tower, or the encoder as it is.

    Raises:
        InvalidInputError: the plan's rank does not fit the negatives.
    """
    if plan.training.trains != "tower":
        weights: Arrays = initial_arrays(site.encoder, plan.training)
        return RoundTask(plan=plan, weights=weights, public={NEGATIVES: negatives})
    arrays = Tower.initial(negatives, plan.training.rank).arrays()
    constants = {name: array for name, array in arrays.items() if name not in TRAINED}
    return RoundTask(
        plan=plan,
        weights={name: arrays[name] for name in TRAINED},
        public={**constants, NEGATIVES: negatives},
    )


@contextmanager
def learner_of(task: RoundTask, site: MadeUpSite) -> Iterator[Learner]:
    """The model that the task trains, as it is before its first step."""
    shop = ShopData(
        shoppers=(),
        embeddings=site.embeddings,
        negatives=np.asarray(task.public[NEGATIVES], np.float32),
    )
    if task.plan.training.trains == "tower":
        yield TowerLearner(tower_arrays(task.weights, task.public), shop, task.plan)
        return
    data = TextData(shop=shop, texts=site.texts)
    with encoder_learner(task.weights, data, task.plan, site.encoder) as learner:
        yield learner
