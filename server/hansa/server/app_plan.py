"""Reads the folder of a Flower app, as ``flwr new`` or Flower's examples have it, into a plan."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hansa.core.errors import InvalidInputError
from hansa.core.flower_plan import KIND, FlowerPlan, parse_any_plan
from hansa.core.settings_text import Setting

_PROJECT = "pyproject.toml"


def plan_of_folder(
    folder: Path, *, overrides: Mapping[str, Setting], quorum: int, deadline_s: float
) -> FlowerPlan:
    """The plan that runs the app as its ``pyproject.toml`` says.

    Args:
        folder: the example's folder.
        overrides: settings instead of those of ``[tool.flwr.app.config]``; no new ones.
        quorum: fewer valid answers to a round's train messages fail the run.
        deadline_s: no message is waited for longer.

    Raises:
        InvalidInputError: the file is missing, is no TOML, or is not that of a Flower app.
    """
    project = _read(folder / _PROJECT)
    app = project.get("tool", {}).get("flwr", {}).get("app", {})
    components, config = app.get("components", {}), dict(_flat(app.get("config", {})))
    unknown = sorted(overrides.keys() - config.keys())
    if unknown:
        known = ", ".join(config) or "none"
        raise InvalidInputError(f"the app has no setting {unknown[0]!r}; it has: {known}")
    for key in ("serverapp", "clientapp"):
        if key not in components:
            raise InvalidInputError(
                f"{folder / _PROJECT} names no {key!r} in [tool.flwr.app.components]; "
                "give the folder of a Flower app"
            )
    value = {
        "kind": KIND,
        "name": _name(str(project.get("project", {}).get("name", folder.resolve().name))),
        "server_app": components["serverapp"],
        "client_app": components["clientapp"],
        "config": {**config, **overrides},
        "quorum": quorum,
        "deadline_s": deadline_s,
    }
    plan = parse_any_plan(value, str(folder / _PROJECT))
    if not isinstance(plan, FlowerPlan):
        raise InvalidInputError(f"{folder / _PROJECT} is not that of a Flower app")
    return plan


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}; give an app's folder") from error


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flower joins the names of nested tables by dots, too."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63] or "app"
