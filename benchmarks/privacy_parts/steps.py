"""What a private step costs beside the same step without privacy, and how tight the mechanism is.

Claims: clipping and noising a step costs little for adapters and at most about half as much again
for whole layers; no shopper moves a clipped sum by more than the clip norm; noise has the standard
deviation that the event books.

A private step is what a round takes: per-shopper clipping, cryptographic noise, the divisor, the
optimiser. The other one is a mean loss, a backward pass and the same optimiser on the same batch of
the same model. Both are timed in turns, in CPU time of one thread; the figure is the median of the
ratios. The encoder has MiniLM's size; its weights are the installed ones, or random ones where none
are installed (which changes no time).

Command:
    python -m benchmarks.privacy_parts.steps --steps 7

Expected: lora 1.0 to 1.3, top_layers 1.2 to 1.7, full 1.3 to 1.9.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertModel

from hansa.client.entropy import SystemEntropy
from hansa.client.training.encoder import EncoderLearner, TextData, encoder_learner
from hansa.client.training.optimizer import NoisyOptimizer
from hansa.client.training.samples import Sample, ShopData
from hansa.client.training.step import clipped_step_sum
from hansa.client.training.tower import TowerLearner
from hansa.core.base_models import DEFAULT_NAME, parse_base_models
from hansa.core.errors import InvalidInputError
from hansa.core.models.encoder import Encoder
from hansa.core.models.tower import Tower
from hansa.core.models.trained import initial_arrays
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import AesNormal
from hansa.core.privacy.plan import PrivacyPlan

MODES = {
    "lora": {"trains": "lora", "rank": 8},
    "bitfit": {"trains": "bitfit"},
    "top_layers": {"trains": "top_layers", "top_layers": 2},
    "full": {"trains": "full"},
}
WORDS = 400
ITEMS = 500
CLIP = 0.5


def _plan(training: dict[str, object], steps: int = 1) -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "steps",
            "training": {"local_steps": steps, "optimizer": "adamw", **training},
            "privacy": {
                "sampling_rate": 0.02,
                "expected_shoppers": 32,
                "clip_norm": CLIP,
                "noise_multiplier": 1.0,
            },
            "federation": {"rounds": 1, "quorum": 1},
            "compression": None,
        }
    )


def _encoder(tokens: int) -> Encoder:
    """The installed MiniLM; else one of its size."""
    try:
        return Encoder.load(parse_base_models([])[DEFAULT_NAME], max_tokens=tokens)
    except InvalidInputError:
        return _random_encoder(tokens)


def _random_encoder(tokens: int) -> Encoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    vocabulary = {"[UNK]": 0, **{f"word{number}": number + 1 for number in range(WORDS)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    model = BertModel(config, add_pooling_layer=False).eval()
    return Encoder(model, tokenizer, max_tokens=tokens)


def _data(encoder: Encoder, rng: np.random.Generator) -> TextData:
    titles = tuple(
        " ".join(f"word{word}" for word in rng.integers(0, WORDS, rng.integers(2, 7)))
        for _ in range(ITEMS)
    )
    vectors = rng.standard_normal((ITEMS, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TextData(
        shop=ShopData(shoppers=(), embeddings=vectors, negatives=vectors[:256]), texts=titles
    )


def _batch(rng: np.random.Generator, size: int) -> list[Sample]:
    return [
        Sample(
            history=rng.choice(ITEMS, int(rng.integers(1, 9)), replace=False),
            targets=rng.choice(ITEMS, int(rng.integers(1, 9)), replace=False),
        )
        for _ in range(size)
    ]


class _Both:
    """The two kinds of step on the same model."""

    def __init__(self, learner: EncoderLearner, data: TextData, plan: RunPlan) -> None:
        self._learner = learner
        self._parameters = tuple(learner.parameters.values())
        self._losses = learner.losses(data.shop.negatives)
        privacy = PrivacyPlan.of(plan)
        noise = privacy.noise_stream(AesNormal.fresh(SystemEntropy()))
        self._private = NoisyOptimizer(self._parameters, plan.training, privacy, noise)
        self._plain = torch.optim.AdamW(self._parameters, lr=1e-6)

    def private(self, samples: list[Sample]) -> float:
        """CPU seconds of a step of DP-AdamW; the hooks are there before it, as in a round."""
        with self._learner.gradients() as gradients:
            began = time.process_time()
            total = clipped_step_sum(
                gradients,
                samples,
                self._losses,
                clip_norm=CLIP,
                part_size=self._learner.part_size,
                parameters=self._parameters,
            )
            self._private.step(total)
            return time.process_time() - began

    def plain(self, samples: list[Sample]) -> float:
        """CPU seconds of a step of AdamW."""
        began = time.process_time()
        self._plain.zero_grad()
        for start in range(0, len(samples), self._learner.part_size):
            part = samples[start : start + self._learner.part_size]
            (self._losses(part).sum() / len(samples)).backward()
        self._plain.step()
        self._plain.zero_grad()
        return time.process_time() - began


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def step_ratio(
    encoder: Encoder, mode: dict[str, object], steps: int, batch: int
) -> dict[str, float]:
    """Private by plain CPU time of one kind of training; the first step of each is thrown away."""
    rng = np.random.default_rng(1)
    plan, data = _plan({**mode, "learning_rate": 1e-6}, steps + 1), _data(encoder, rng)
    weights = initial_arrays(encoder, plan.training)
    private, plain = [], []
    with encoder_learner(weights, data, plan, encoder) as learner, _one_thread():
        both = _Both(learner, data, plan)
        for _ in range(steps + 1):
            samples = _batch(rng, batch)
            plain.append(both.plain(samples))
            private.append(both.private(samples))
    ratios = [one / other for one, other in zip(private[1:], plain[1:], strict=True)]
    numbers = sum(array.size for array in weights.values())
    return {
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "plain_ms": round(1000 * statistics.median(plain[1:]), 1),
        "private_ms": round(1000 * statistics.median(private[1:]), 1),
        "noise_ms": round(1000 * _noise_seconds(numbers), 1),
        "numbers": numbers,
    }


def _noise_seconds(numbers: int) -> float:
    stream = AesNormal.fresh(SystemEntropy())
    times = []
    for _ in range(3):
        began = time.process_time()
        stream.normal(numbers)
        times.append(time.process_time() - began)
    return statistics.median(times)


def noise_error(draws: int) -> float:
    """How far the noise's standard deviation is from what is booked, relative; the largest of four.

    Its own standard error is ``1 / sqrt(2 * draws)``.
    """
    errors = []
    for multiplier, bands in ((0.5, None), (1.0, None), (3.825, None), (1.0, 1)):
        privacy = dataclasses.replace(
            PrivacyPlan.of(_plan({})), noise_multiplier=multiplier, bands=bands
        )
        noise = privacy.noise_stream(AesNormal.fresh(SystemEntropy())).next(draws)
        errors.append(abs(float(noise.std()) / privacy.noise_std - 1.0))
    return max(errors)


def sensitivity_ratio(encoder: Encoder, trials: int) -> float:
    """The most that removing one shopper moved a clipped sum, in clip norms.

    Batches of other sizes add float32 numbers in another order, which shows in the sixth place.
    """
    rng = np.random.default_rng(2)
    data = _data(encoder, rng)
    tower_plan = _plan({"trains": "tower", "rank": 16})
    tower = TowerLearner(Tower.initial(data.shop.negatives, 16).arrays(), data.shop, tower_plan)
    worst = _worst(tower, data, rng, trials)
    for mode in (MODES["lora"], MODES["top_layers"]):
        plan = _plan(mode)
        weights = initial_arrays(encoder, plan.training)
        with encoder_learner(weights, data, plan, encoder) as learner:
            worst = max(worst, _worst(learner, data, rng, max(1, trials // 20)))
    return worst


def _worst(
    learner: EncoderLearner | TowerLearner, data: TextData, rng: np.random.Generator, trials: int
) -> float:
    parameters = tuple(learner.parameters.values())
    losses, worst = learner.losses(data.shop.negatives), 0.0
    with learner.gradients() as gradients:

        def total(samples: list[Sample]) -> torch.Tensor:
            return clipped_step_sum(
                gradients, samples, losses, clip_norm=CLIP, part_size=8, parameters=parameters
            )

        for _ in range(trials):
            samples = _batch(rng, int(rng.integers(1, 9)))
            moved = total(samples) - total(samples[1:])
            worst = max(worst, float(moved.norm()) / CLIP)
    return worst


def measure(steps: int, batch: int, tokens: int) -> dict[str, object]:
    """All figures of this part."""
    encoder = _encoder(tokens)
    details = {name: step_ratio(encoder, mode, steps, batch) for name, mode in MODES.items()}
    return {
        "dp_step_ratio": {name: one["ratio"] for name, one in details.items()},
        "dp_step": details,
        "noise_std_max_error": round(noise_error(2_000_000), 6),
        "shopper_sensitivity_max_ratio": round(sensitivity_ratio(encoder, 100), 5),
    }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description="private steps beside plain ones")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    json.dump(measure(options.steps, options.batch, options.tokens), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
