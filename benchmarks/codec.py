"""What the update codec saves, what it changes in one update, and what it costs in quality.

Claim: 8 bits make an update a quarter, 4 bits an eighth, and with error feedback neither changes
what is learnt by more than repetitions with other noise do.

Peer: the same run with 32 bits, in the same process, on the same data.

* ``sizes``: content files of one noised update of a tower (rank 48, the demo's) and of LoRA (rank 8
  in a MiniLM of 6 layers), bytes, and the root mean square error relative to the update's own.
* ``quality``: recall@10 of new items after rounds of federated training of a tower on made-up
  shops (whose shoppers of one kind of things also buy of the next kind), noise included, mean and
  standard deviation over seeds; ``without_feedback`` throws away what was rounded off.

Command:
    PYTHONPATH=.:core:client:compression:server:protos python benchmarks/codec.py

Expected: 8 bits 0.25 to 0.28 of the bytes and an error of 0.01; 4 bits 0.12 to 0.16 and 0.17 to
0.18; recall with feedback within 0.005 of 32 bits. About five minutes of CPU.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.client.evaluation import Quality, judge, tower_scorer
from hansa.client.examples import Examples, make_examples
from hansa.client.training.samples import ShopData
from hansa.client.training.tower import train_tower
from hansa.client.virtual.entropy import SeededEntropy
from hansa.compression.content_codec import ContentCodec
from hansa.core.content import Content
from hansa.core.models.shapes import TRAINED, lora_shapes, tower_shapes
from hansa.core.models.tower import Tower
from hansa.core.plan import CodecSpec, RunPlan, TaskSpec
from hansa.core.update import Arrays

Floats = npt.NDArray[np.float32]

KINDS, ITEMS, DIM, RANK = 12, 360, 32, 16
MERCHANTS, SHOPPERS = 3, 160
STEP_STD = 0.03
"""Of one number of a noised update: learning rate times noise by expected shoppers."""

CODECS: dict[str, CodecSpec] = {
    "32": CodecSpec(),
    "32+zstd": CodecSpec(zstd=True),
    "8": CodecSpec(uplink_bits=8),
    "8+zstd": CodecSpec(uplink_bits=8, zstd=True),
    "4": CodecSpec(uplink_bits=4),
    "4+zstd": CodecSpec(uplink_bits=4, zstd=True),
}
RUNS: dict[str, CodecSpec] = {
    "32 up, 32 down": CodecSpec(),
    "8 up, 32 down": CodecSpec(uplink_bits=8),
    "8 up, 8 down": CodecSpec(uplink_bits=8, downlink_bits=8),
    "4 up, 32 down": CodecSpec(uplink_bits=4),
    "4 up, 4 down": CodecSpec(uplink_bits=4, downlink_bits=4),
}


def sizes() -> dict[str, dict[str, dict[str, float]]]:
    """Bytes and error of one update, by model and codec."""
    tower = {name: shape for name, shape in tower_shapes(384, 48).items() if name in TRAINED}
    return {"tower": _sizes(tower), "lora": _sizes(lora_shapes(384, 6, 8))}


def _sizes(shapes: dict[str, tuple[int, ...]]) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)

    def arrays(std: float) -> Arrays:
        return {
            name: (std * rng.standard_normal(shape)).astype(np.float32)
            for name, shape in shapes.items()
        }

    base, step = arrays(0.2), arrays(STEP_STD)
    update = {name: base[name] + step[name] for name in base}
    reply = Content(arrays={"arrays": update}, metrics={"metrics": {"num-examples": 1}})
    plain = len(reply.to_bytes())
    found = {}
    for name, spec in CODECS.items():
        codec = ContentCodec(spec=spec, sums=False)
        sent, _ = codec.encode_up(reply, base, residual={}, entropy=SeededEntropy(0, "sizes"))
        size = len(sent.to_bytes())
        read = codec.decode_up(sent, base).arrays["arrays"]
        found[name] = {
            "bytes": size,
            "share": round(size / plain, 3),
            "relative_error": round(_norm(read, update) / _norm(update, base), 4),
        }
    return found


def _norm(ones: Arrays, others: Arrays) -> float:
    squares = [np.sum((ones[name] - others[name]).astype(np.float64) ** 2) for name in ones]
    return float(np.sqrt(np.sum(squares)))


@dataclass(frozen=True, kw_only=True)
class World:
    """Shops over one made-up catalogue."""

    embeddings: Floats
    shops: tuple[Examples, ...]

    @staticmethod
    def make(seed: int) -> "World":
        """Items of a kind are alike; who buys of one kind also buys of the next."""
        rng = np.random.default_rng(seed)
        kinds = rng.integers(0, KINDS, ITEMS)
        vectors = rng.standard_normal((KINDS, DIM))[kinds] + 0.6 * rng.standard_normal((ITEMS, DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        keys = [f"item-{number}" for number in range(ITEMS)]
        task = TaskSpec(cold_item_fraction=0.3, held_out_shopper_fraction=0.3)
        shops = []
        for merchant in range(MERCHANTS):
            bought = []
            for shopper in range(SHOPPERS):
                kind = int(rng.integers(0, KINDS))
                own = rng.choice(np.flatnonzero(kinds == kind), 5)
                next_kind = rng.choice(np.flatnonzero(kinds == (kind + 1) % KINDS), 5)
                bought.append(
                    (f"{seed}/{merchant}/{shopper}", [*own.tolist(), *next_kind.tolist()])
                )
            shops.append(make_examples(bought, keys, task))
        return World(embeddings=vectors.astype(np.float32), shops=tuple(shops))


def _plan() -> RunPlan:
    return RunPlan.model_validate(
        {
            "name": "codec",
            "training": {"rank": RANK, "learning_rate": 0.5, "negatives": 128},
            "privacy": {
                "sampling_rate": 0.5,
                "expected_shoppers": 50,
                "records_per_shopper": 4,
                "noise_multiplier": 2.0,
            },
            "federation": {"rounds": 16, "quorum": MERCHANTS},
        }
    )


def run(world: World, spec: CodecSpec, seed: int, *, feedback: bool = True) -> float:
    """Recall@10 of new items after a run; as the release, the mean of the last half."""
    plan, codec = _plan(), ContentCodec(spec=spec, sums=False)
    tower = Tower.initial(world.embeddings, RANK).arrays()
    public = {name: tower[name] for name in tower if name not in TRAINED}
    model: Arrays = {name: tower[name] for name in TRAINED}
    residuals: list[Arrays] = [{} for _ in world.shops]
    tail: list[Arrays] = []
    for number in range(plan.federation.rounds):
        low, updates = codec.lowered(model), []
        for merchant, examples in enumerate(world.shops):
            entropy = SeededEntropy(seed, f"{merchant}/{number}")
            data = ShopData(
                shoppers=examples.training,
                embeddings=world.embeddings,
                negatives=world.embeddings[examples.known],
            )
            trained = train_tower({**public, **low}, data, plan, entropy)
            reply = Content(arrays={"arrays": {name: trained[name] for name in TRAINED}})
            sent, left = codec.encode_up(reply, low, residual=residuals[merchant], entropy=entropy)
            residuals[merchant] = left if feedback else {}
            updates.append(codec.decode_up(sent, low).arrays["arrays"])
        mean = {name: np.mean([one[name] for one in updates], axis=0) for name in TRAINED}
        model = codec.restored(mean, model)
        tail.append(model)
    half = tail[len(tail) // 2 :]
    released = {name: np.mean([one[name] for one in half], axis=0) for name in TRAINED}
    return _recall(world, Tower.from_arrays({**public, **released}))


def _recall(world: World, tower: Tower) -> float:
    total = Quality(shoppers=0, recall_sum=0.0, ndcg_sum=0.0)
    for examples in world.shops:
        total += judge(examples, tower_scorer(tower, examples, world.embeddings))
    return total.recall


def quality(seeds: int) -> dict[str, dict[str, float]]:
    """Recall@10 by codec, over seeds; each seed has its own shops, noise and roundings."""
    worlds = [World.make(seed) for seed in range(seeds)]
    start = [_recall(world, Tower.initial(world.embeddings, RANK)) for world in worlds]
    found = {"untrained": _summary(start, start)}
    plain = [run(world, CodecSpec(), seed) for seed, world in enumerate(worlds)]
    for name, spec in RUNS.items():
        same = spec == CodecSpec()
        recalls = plain if same else [run(world, spec, n) for n, world in enumerate(worlds)]
        found[name] = _summary(recalls, plain)
    coarse = RUNS["4 up, 32 down"]
    recalls = [run(world, coarse, seed, feedback=False) for seed, world in enumerate(worlds)]
    found["4 up, 32 down, without_feedback"] = _summary(recalls, plain)
    return found


def _summary(recalls: list[float], plain: list[float]) -> dict[str, float]:
    differences = [one - other for one, other in zip(recalls, plain, strict=True)]
    return {
        "recall_at_10": round(statistics.mean(recalls), 4),
        "std": round(statistics.stdev(recalls), 4),
        "paired_difference": round(statistics.mean(differences), 4),
        "paired_std": round(statistics.stdev(differences), 4),
    }


def main(arguments: list[str]) -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="repetitions, at least 2")
    options = parser.parse_args(arguments)
    print(json.dumps({"sizes": sizes(), "quality": quality(options.seeds)}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
