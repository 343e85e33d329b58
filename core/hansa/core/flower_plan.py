"""The second kind of plan: a Flower app of the user's own, which is in charge of its run.

Like a run plan it is public and signed, and ledgers name its digest. It promises nothing about
privacy: what such an app lets out is released under each merchant's own responsibility, and the
ledgers say so (``Declare``). It holds names of code, never code: operator and merchants install the
app themselves, and each allows it by name.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from hansa.core.canonical import digest
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256
from hansa.core.object_ref import ObjectRef
from hansa.core.plan import Name, PlanPart, RunPlan, parse_plan, read_yaml

KIND: Final = "flower-app"


def _read_value(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"float"}:
        value = float(value["float"])
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a setting must be a finite number")
    return value


def _written_value(value: Any) -> Any:
    """Canonical JSON writes 1.0 as 1; an app may mind the difference."""
    if isinstance(value, float) and value.is_integer():
        return {"float": value}
    return value


ConfigValue = Annotated[
    bool | int | float | str,
    BeforeValidator(_read_value),
    PlainSerializer(_written_value, when_used="json"),
]
ConfigKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$")]


class FlowerPlan(PlanPart):
    """One run of a Flower ``ServerApp`` with the ``ClientApp`` that belongs to it."""

    kind: Literal["flower-app"] = KIND
    name: Name
    """Name of the plan; runs are called NAME-0001 and so on."""
    server_app: ObjectRef
    """What ``[tool.flwr.app.components]`` calls ``serverapp``."""
    client_app: ObjectRef
    """What ``[tool.flwr.app.components]`` calls ``clientapp``."""
    config: dict[ConfigKey, ConfigValue] = Field(default_factory=dict)
    """``Context.run_config`` at both ends: ``[tool.flwr.app.config]``, flat."""
    quorum: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Fewer valid answers to one round's train messages than this fail the run."""
    deadline_s: Annotated[float, Field(gt=0.0, le=86_400.0)] = 3600.0
    """No message is waited for longer than this, whatever timeout the app sets."""

    @property
    def digest(self) -> Sha256:
        """The SHA-256 digest by which ledgers, rounds and packs name this plan."""
        return digest(self.model_dump(mode="json"))


AnyPlan = RunPlan | FlowerPlan


def parse_any_plan(value: Any, what: str) -> AnyPlan:
    """A plan of either kind from parsed YAML or JSON; ``what`` names the source in the error.

    Raises:
        InvalidInputError: a field is missing, unknown or out of bounds; the sentence names it.
    """
    if not isinstance(value, dict) or "kind" not in value:
        return parse_plan(value, what)
    try:
        return FlowerPlan.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the plan"
        raise InvalidInputError(f"{what}: {where}: {first['msg']}; mend this field") from error


def read_any_plan(path: Path) -> AnyPlan:
    """The plan in a YAML file, of either kind.

    Raises:
        InvalidInputError: the file cannot be read, is not YAML, or is not a plan.
    """
    return parse_any_plan(read_yaml(path), str(path))
