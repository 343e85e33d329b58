import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hansa.core.plan import RunPlan

IN_WORDS = {"null": "null", "boolean": "True or False", "object": "names with values"}
PAGE = Path(__file__).parents[3] / "docs" / "plan.md"
ROW = re.compile(r"^\| `([a-z_.]+)` \|[^|]*\| ([^|]+) \| ([^|]+) \| [^|]{20,} \|$", re.MULTILINE)


def fields(part: dict[str, Any], parts: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in part["properties"].items():
        for choice in (field, *field.get("anyOf", [])):
            if "$ref" in choice:
                yield from fields(parts[choice["$ref"].split("/")[-1]], parts, f"{prefix}{name}.")
                break
        else:
            yield prefix + name, field


def default(field: dict[str, Any]) -> str:
    if "default" not in field:
        return "required"
    return "null" if field["default"] is None else str(field["default"])


def bounds(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return ", or ".join(bounds(choice) for choice in field["anyOf"])
    if "pattern" in field:
        return f"`{field['pattern']}`"
    if "const" in field or "enum" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if field.get("type") in IN_WORDS:
        return IN_WORDS[field["type"]]
    return interval(field)


def interval(field: dict[str, Any]) -> str:
    match field:
        case {"minimum": low, "maximum": high}:
            return f"{low:g} to {high:.0f}"
        case {"minimum": low}:
            return f"at least {low:g}"
        case {"exclusiveMinimum": low, "maximum": high}:
            return f"above {low:g}, at most {high:.0f}"
        case {"exclusiveMinimum": low, "exclusiveMaximum": high}:
            return f"above {low:g}, below {high:g}"
        case {"exclusiveMinimum": low}:
            return f"above {low:g}"
    raise AssertionError(f"say in words what {field} means")


def test_the_page_on_plans_has_each_field_once_with_its_default_and_bounds() -> None:
    schema = RunPlan.model_json_schema()
    coded = {
        name: (default(field), bounds(field)) for name, field in fields(schema, schema["$defs"], "")
    }
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) == len({row[0] for row in rows})
    assert {row[0]: row[1:] for row in rows} == coded
