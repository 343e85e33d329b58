"""What a simulation works on: the virtual shops, the first model, the public records, the app."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hansa.core.canonical import canonical_json
from hansa.core.errors import InvalidInputError
from hansa.core.object_ref import load_object
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.storage import write_atomically
from hansa.core.update import Arrays
from hansa.server.models import ModelRoom
from hansa.server.settings import ServerSettings
from hansa.server.simulation.app import AppSpec

APP = "hansa.client.virtual:app"
PREPARE = "hansa.client.virtual:prepare"
"""Names, not imports: the server and the client meet on the wire only."""

CATALOGUE = "catalogue.csv"
EMBEDDINGS = "embeddings.npy"
_PUBLIC = "public.safetensors"


@dataclass(frozen=True, kw_only=True)
class SimulationRequest:
    """What is to be simulated."""

    plan: RunPlan
    merchants: int
    seed: int = 0
    """Public; the same request gives the same model."""
    engine: Literal["local", "ray"] = "local"
    workers: int = 1
    """Processes that run the app."""
    base_models: dict[str, Path]
    """Name in plans -> local Hugging Face folder."""
    data: Path | None = None
    """Exports or a site whose shoppers are dealt out; None: synthetic shops."""
    split: Literal["category", "size"] = "category"


@dataclass(frozen=True, kw_only=True)
class Room:
    """A simulation that is ready to begin."""

    initial: Arrays
    spec: AppSpec
    shops: dict[str, int | str]
    """What the virtual shops are, for the report."""
    public_bytes: int
    """Size of the public records."""


def adapt(plan: RunPlan, *, rounds: int | None, cohort: int | None) -> RunPlan:
    """The plan with other rounds or another cohort.

    Raises:
        InvalidInputError: the plan does not allow it, for example a cohort below its quorum.
    """
    changed: dict[str, Any] = {"rounds": rounds, "cohort": cohort}
    federation = plan.federation.model_dump(mode="json")
    federation |= {name: value for name, value in changed.items() if value is not None}
    return parse_plan({**plan.model_dump(mode="json"), "federation": federation}, "the plan")


def check(request: SimulationRequest) -> None:
    """Refuses what would not be the plan's own rules.

    Raises:
        InvalidInputError: the plan is asynchronous, sums secretly or begins with a release, or its
            quorum is larger than the number of merchants.
    """
    federation = request.plan.federation
    if federation.asynchronous is not None:
        raise InvalidInputError("a simulation has rounds: leave 'asynchronous' out of the plan")
    if federation.secure_aggregation is not None:
        raise InvalidInputError(
            "a simulation aggregates in the open: leave 'secure_aggregation' out of the plan"
        )
    if request.plan.begins_with == "last-release":
        raise InvalidInputError(
            "a simulation has no releases: let the plan begin with 'base-model'"
        )
    if request.merchants < federation.quorum:
        raise InvalidInputError(
            f"{request.merchants} merchants are below the plan's quorum {federation.quorum}; "
            "simulate more"
        )


def left_out(plan: RunPlan) -> list[str]:
    """Parts of the plan that a simulation does not carry out, in words for the report."""
    codec = plan.federation.codec
    parts = ["deadline", "release"] if plan.compression is not None else ["deadline"]
    if codec.uplink_bits != 32 or codec.downlink_bits != 32 or codec.zstd:
        parts.append("codec of the uplink and sizes on the wire")
    return parts


def furnish(request: SimulationRequest, folder: Path) -> Room:
    """Makes the shops, and embeds their catalogue once for the server and all merchants.

    Raises:
        InvalidInputError: the data or the base model cannot be used.
    """
    plan = request.plan
    data = None if request.data is None else str(request.data)
    shops = load_object(PREPARE)(str(folder), request.merchants, request.seed, data, request.split)
    settings = ServerSettings.checked(
        federation="simulation",
        address="localhost:1",
        base_models=request.base_models,
        public_catalogue=folder / CATALOGUE,
    )
    models = ModelRoom(settings, folder / "cache")
    public = models.context(plan).to_bytes()
    write_atomically(folder / _PUBLIC, public)
    np.save(folder / EMBEDDINGS, models.embeddings(plan))
    spec = AppSpec(
        app=APP,
        run_config={
            "plan": canonical_json(plan.model_dump(mode="json")).decode(),
            "folder": str(folder),
            "base-model": str(models.folder(plan)),
            "seed": request.seed,
        },
        public=folder / _PUBLIC,
    )
    return Room(initial=models.initial(plan), spec=spec, shops=shops, public_bytes=len(public))
