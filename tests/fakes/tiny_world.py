"""Four tiny shops, a public catalogue, a tiny encoder and plans: a whole demo in a minute.

``write_world(folder)`` writes what ``demo/run.py`` takes with ``--exports``, ``--base-model`` and
the two plans. Shoppers buy mostly within one colour, so there is something to learn.
"""

import csv
import json
import random
from pathlib import Path

import yaml
from transformers import BertConfig, BertModel

from tests.fakes.tiny_model import write_tokenizer

COLOURS = ("red", "blue", "green", "black", "white")
THINGS = ("shoe", "hat", "lamp", "table", "chair", "bottle", "kettle", "phone", "cable", "hose")
RAW_ID = "loyalty-card"
"""What every raw shopper id begins with, and nothing else."""

SHOPPERS = {"harbour": 24, "market": 18, "station": 16, "village": 12}

PLAN = {
    "name": "tiny",
    "model": {"base": "minilm", "max_tokens": 8},
    "task": {"cold_item_fraction": 0.3, "held_out_shopper_fraction": 0.3},
    "training": {"trains": "tower", "rank": 4, "learning_rate": 0.1, "negatives": 1000},
    "privacy": {
        "sampling_rate": 0.5,
        "expected_shoppers": 6,
        "records_per_shopper": 4,
        "noise_multiplier": 1.2,
        "evaluation_noise_multiplier": 5.0,
    },
    "federation": {"rounds": 3, "quorum": 3, "deadline_s": 120},
    "compression": {"max_size_bytes": 5_000_000, "min_cosine": 0.5, "max_ndcg_loss": 1.0},
}
LORA_PLAN = {
    **PLAN,
    "name": "tiny-lora",
    "training": {"trains": "lora", "rank": 2, "learning_rate": 0.1, "negatives": 16},
    "privacy": {"sampling_rate": 0.25, "expected_shoppers": 4, "noise_multiplier": 4.0},
    "federation": {"rounds": 1, "quorum": 3, "deadline_s": 120},
    "compression": None,
}


def write_world(folder: Path) -> None:
    """Writes ``exports``, ``model``, ``plan.yaml`` and ``lora.yaml``."""
    _write_model(folder / "model")
    exports = folder / "exports"
    items = [
        {
            "item_id": f"{colour}-{thing}",
            "title": f"{colour} {thing}",
            "category_path": thing,
            "price": "9.5",
        }
        for colour in COLOURS
        for thing in THINGS
    ]
    exports.mkdir(parents=True)
    _write_csv(exports / "public_catalogue.csv", items)
    merchants = [_write_merchant(exports, name, items) for name in SHOPPERS]
    listed = {"merchants": merchants, "public_catalogue": "public_catalogue.csv"}
    (exports / "merchants.json").write_text(json.dumps(listed))
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    (folder / "lora.yaml").write_text(yaml.safe_dump(LORA_PLAN))


def _write_model(folder: Path) -> None:
    write_tokenizer(folder)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def _write_merchant(exports: Path, name: str, items: list[dict[str, str]]) -> dict[str, object]:
    rng = random.Random(name)
    (exports / name).mkdir()
    _write_csv(exports / name / "catalogue.csv", items)
    events = [
        {
            "shopper_id": f"{RAW_ID}-{name}-{shopper}",
            "time": f"2026-01-{1 + number:02d}T10:00:00+00:00",
            "kind": "purchase",
            "item_id": f"{rng.choice((colour, colour, rng.choice(COLOURS)))}-{rng.choice(THINGS)}",
        }
        for shopper in range(SHOPPERS[name])
        for colour in [rng.choice(COLOURS)]
        for number in range(20)
    ]
    _write_csv(exports / name / "events.csv", events)
    files = {"catalogue": f"{name}/catalogue.csv", "events": f"{name}/events.csv"}
    return {"name": name, "mapping": {}, **files}


def _write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
