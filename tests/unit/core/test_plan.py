import pytest

from hansa.core.errors import InvalidInputError
from hansa.core.plan import parse_plan, read_plan

MINIMAL = {
    "name": "cold-items",
    "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
    "federation": {"rounds": 3, "quorum": 2},
}


def test_the_digest_depends_on_every_field_and_on_nothing_else() -> None:
    plan = parse_plan(MINIMAL, "plan")
    assert parse_plan(plan.model_dump(mode="json"), "plan").digest == plan.digest
    other = {**MINIMAL, "privacy": {**MINIMAL["privacy"], "noise_multiplier": 2.1}}
    assert parse_plan(other, "plan").digest != plan.digest


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Cold Items"}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"privacy": {**MINIMAL["privacy"], "noise_multiplier": 0}}, "privacy.noise_multiplier"),
        ({"privacy": {**MINIMAL["privacy"], "sampling_rate": 1.5}}, "privacy.sampling_rate"),
        ({"privacy": {**MINIMAL["privacy"], "delta": 0.5}}, "privacy.delta"),
        ({"federation": {"rounds": -1, "quorum": 1}}, "federation.rounds"),
        ({"federation": {"rounds": 1}}, "federation.quorum"),
        ({"training": {"trains": "everything"}}, "training.trains"),
    ],
)
def test_a_wrong_field_is_named(change, field) -> None:
    with pytest.raises(InvalidInputError, match=field):
        parse_plan({**MINIMAL, **change}, "plan")


def test_a_plan_without_noise_cannot_be_written() -> None:
    privacy = {key: value for key, value in MINIMAL["privacy"].items() if key != "noise_multiplier"}
    with pytest.raises(InvalidInputError, match="noise_multiplier"):
        parse_plan({**MINIMAL, "privacy": privacy}, "plan")


def test_a_lora_run_must_say_that_it_releases_nothing() -> None:
    with pytest.raises(InvalidInputError, match="compression: null"):
        parse_plan({**MINIMAL, "training": {"trains": "lora"}}, "plan")


@pytest.mark.parametrize("text", ["name: [", "!!python/object/apply:os.system ['true']", "- 1", ""])
def test_a_file_that_is_no_plan_is_refused(tmp_path, text) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInputError):
        read_plan(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match=r"none\.yaml"):
        read_plan(tmp_path / "none.yaml")
