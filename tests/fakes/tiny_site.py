"""A merchant's site with real, tiny data and a tiny encoder, that never joined anything.

``tiny_site(folder)`` needs a few seconds; ``tiny_task(plan, site)`` is what a round asks of it.
"""

import datetime as dt
from pathlib import Path

import numpy as np
import torch

from hansa.client.dataset import ingest
from hansa.client.ingest.pseudonyms import KEY_BYTES, read_or_create_key
from hansa.client.site import Site, SiteSettings
from hansa.client.training.round_task import RoundTask
from hansa.client.workshop import embed_catalogue, open_workshop
from hansa.core.models.shapes import NEGATIVES, TRAINED
from hansa.core.models.tower import Tower
from hansa.core.models.trained import initial_arrays
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.update import Arrays
from tests.fakes.tiny_world import LORA_PLAN, PLAN, write_world

NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)


def tiny_plan(trains: str, *, devices: int = 2, steps: int = 6, rate: float = 0.1) -> RunPlan:
    """A plan of one round with many small steps."""
    plan = PLAN if trains == "tower" else LORA_PLAN
    training = {**dict(plan["training"]), "trains": trains}
    training |= {"devices": devices, "local_steps": steps}
    privacy = {**dict(plan["privacy"]), "sampling_rate": rate}
    return parse_plan({**plan, "training": training, "privacy": privacy}, "the plan")


def tiny_site(folder: Path) -> Site:
    """A site that has ingested the harbour's data and embedded its catalogue."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_world(folder)
    site = Site(folder / "site")
    settings = SiteSettings(
        merchant="harbour",
        server_address="127.0.0.1:1",
        plan_public_key="0" * 64,
        base_models={"minilm": folder / "model"},
    )
    site.write(settings)
    exports = folder / "exports" / "harbour"
    key = read_or_create_key(site.pseudonym_key, bytes(KEY_BYTES))
    ingest(exports / "catalogue.csv", exports / "events.csv", site.dataset, {}, NOW, key)
    for trains in ("tower", "lora"):
        embed_catalogue(site, tiny_plan(trains))
    return site


def tiny_task(plan: RunPlan, site: Site, *, proximal_mu: float = 0.0) -> RoundTask:
    """A round that begins a little away from the start, so that every array has a gradient."""
    workshop = open_workshop(site, plan)
    public: dict[str, np.ndarray] = {NEGATIVES: workshop.embeddings[:20]}
    if plan.training.trains != "tower":
        weights: Arrays = initial_arrays(workshop.encoder, plan.training)
    else:
        tower = Tower.initial(workshop.embeddings, plan.training.rank).arrays()
        weights = {name: tower[name] for name in TRAINED}
        public |= {name: tower[name] for name in tower if name not in TRAINED}
    rng = np.random.default_rng(3)
    moved = {
        name: (array + 0.1 * rng.standard_normal(array.shape)).astype(np.float32)
        for name, array in weights.items()
    }
    return RoundTask(plan=plan, weights=moved, public=public, proximal_mu=proximal_mu)
