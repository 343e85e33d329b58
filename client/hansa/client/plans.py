"""The plans that this site took part in, kept by digest: releases name them."""

from pathlib import Path

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.ids import Sha256
from hansa.core.plan import RunPlan, parse_plan
from hansa.core.storage import check_sha256, write_atomically


class PlanShelf:
    """A folder of plans."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, plan: RunPlan) -> None:
        """Keeps a plan, once."""
        path = self._path(plan.digest)
        if not path.exists():
            write_atomically(path, canonical_json(plan.model_dump(mode="json")))

    def find(self, digest: str) -> RunPlan | None:
        """The plan of a digest; None where the site did not take part in it."""
        path = self._path(check_sha256(digest))
        if not path.exists():
            return None
        return parse_plan(parse_json(path.read_bytes(), str(path)), str(path))

    def _path(self, digest: Sha256) -> Path:
        return self._folder / f"{digest}.json"
