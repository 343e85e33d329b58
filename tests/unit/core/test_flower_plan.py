"""Plans of foreign Flower apps: what they hold, and what they may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from hansa.core.canonical import canonical_json
from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.flower_plan import FlowerPlan, parse_any_plan, read_any_plan
from hansa.core.object_ref import check_allowed, load_object
from hansa.core.plan import RunPlan
from hansa.core.settings_text import parse_settings

VALUE: dict[str, Any] = {
    "kind": "flower-app",
    "name": "quick",
    "server_app": "quick.server_app:app",
    "client_app": "quick.client_app:app",
    "config": {"rounds": 3, "rate": 1.0, "fine": 0.1, "on": True, "text": "1"},
}


def test_settings_keep_their_types_through_signing_and_parsing() -> None:
    plan = parse_any_plan(VALUE, "the plan")
    assert isinstance(plan, FlowerPlan)
    back = parse_any_plan(json.loads(canonical_json(plan.model_dump(mode="json"))), "the plan")
    assert back == plan
    assert back.digest == plan.digest
    assert isinstance(back, FlowerPlan)
    assert {name: type(value) for name, value in back.config.items()} == {
        "rounds": int,
        "rate": float,
        "fine": float,
        "on": bool,
        "text": str,
    }


def test_a_plan_without_a_kind_is_a_run_plan() -> None:
    value = {
        "name": "x",
        "privacy": {"sampling_rate": 0.1, "expected_shoppers": 1, "noise_multiplier": 1.0},
        "federation": {"rounds": 1, "quorum": 1},
    }
    assert isinstance(parse_any_plan(value, "the plan"), RunPlan)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"kind": "other"}, "kind"),
        ({"server_app": "quick"}, "server_app"),
        ({"server_app": "quick.py:app"}, None),
        ({"client_app": "../evil:app"}, "client_app"),
        ({"client_app": "os:system('x')"}, "client_app"),
        ({"config": {"rate": float("nan")}}, "config.rate"),
        ({"config": {"rate": [1]}}, "config.rate"),
        ({"config": {"a b": 1}}, "config.a b"),
        ({"quorum": 0}, "quorum"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"code": "print(1)"}, "code"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_name(
    change: dict[str, Any], where: str | None
) -> None:
    if where is None:
        parse_any_plan({**VALUE, **change}, "the plan")
        return
    with pytest.raises(InvalidInputError) as caught:
        parse_any_plan({**VALUE, **change}, "the plan")
    assert where in str(caught.value)


def test_a_yaml_file_may_hold_either_kind(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(json.dumps(VALUE))
    assert isinstance(read_any_plan(path), FlowerPlan)


def test_settings_are_read_as_people_type_them() -> None:
    pairs = ["a=0", "b=0.5", "c=true", "d=shop.csv", 'e="0"', "f=", "g=a=b", "h=[1]"]
    assert parse_settings(pairs) == {
        "a": 0,
        "b": 0.5,
        "c": True,
        "d": "shop.csv",
        "e": "0",
        "f": "",
        "g": "a=b",
        "h": "[1]",
    }
    for pair in ("a", "=1", "a b=1"):
        with pytest.raises(InvalidInputError, match="is no KEY=VALUE"):
            parse_settings([pair])
    with pytest.raises(InvalidInputError, match="is set twice"):
        parse_settings(["a=1", "a=2"])


def test_a_reference_is_loaded_by_its_whole_path() -> None:
    assert load_object("pathlib:Path.cwd") == Path.cwd
    for ref, sentence in {
        "pathlib:Nothing": "has no 'Nothing'",
        "no_such_module_here:x": "install its package",
        "pathlib": "is no 'module:object'",
        "a;b:c": "is no 'module:object'",
    }.items():
        with pytest.raises(InvalidInputError, match=sentence):
            load_object(ref)


def test_only_the_very_name_is_allowed() -> None:
    check_allowed("a:b", ["a:b"], "ask")
    for ref in ("a:b.c", "a:B", "A:b", "a.b:b"):
        with pytest.raises(UnauthorisedError, match="ask"):
            check_allowed(ref, ["a:b"], "ask")
