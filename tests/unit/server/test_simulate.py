"""``hansa-server simulate``: the plan's own rules with virtual merchants, from end to end."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from hansa.client.virtual.market import Market
from hansa.core.errors import InvalidInputError
from hansa.core.plan import parse_plan
from hansa.server.cli import app
from hansa.server.simulation.engine import simulate
from hansa.server.simulation.room import SimulationRequest, adapt
from tests.fakes.tiny_world import LORA_PLAN, PLAN, write_world

MERCHANTS = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


def ask(world, *words: str):
    """What the command prints, as JSON."""
    base = f"minilm={world / 'model'}"
    line = ["simulate", str(world / "plan.yaml"), "--base-model", base, "--json", *words]
    result = CliRunner().invoke(app, line, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def request(world, **changes) -> SimulationRequest:
    fields = {
        "plan": adapt(parse_plan(PLAN, "plan"), rounds=2, cohort=None),
        "merchants": 4,
        "base_models": {"minilm": world / "model"},
    }
    return SimulationRequest(**{**fields, **changes})


def with_federation(**federation):
    return parse_plan({**PLAN, "federation": {**PLAN["federation"], **federation}}, "plan")


def test_the_command_runs_the_rounds_and_says_that_it_was_a_simulation(world, tmp_path) -> None:
    words = ("--merchants", str(MERCHANTS), "--rounds", "2", "--cohort", "5")
    report = ask(world, *words, "--out", str(tmp_path / "out"))
    assert report["simulation"] is True
    assert "no merchant took part" in report["note"]
    assert [one["asked"] for one in report["rounds"]] == [5, 5]
    assert [one["accepted"] for one in report["rounds"]] == [5, 5]
    assert report["data"]["source"] == "synthetic"
    assert report["quality_after"]["merchants"] == MERCHANTS
    assert float(report["privacy"]["epsilon_of_every_round"]) > 0
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_same_seed_gives_the_same_model_with_one_or_two_processes(world) -> None:
    words = ("--merchants", "12", "--rounds", "2", "--cohort", "4")
    models = {
        name: ask(world, *words, *more)["model_sha256"]
        for name, more in {
            "once": ("--seed", "1"),
            "again": ("--seed", "1", "--workers", "2"),
            "other": ("--seed", "2"),
        }.items()
    }
    assert models["once"] == models["again"]
    assert models["once"] != models["other"]


def test_the_shoppers_of_exports_are_dealt_out_each_to_one_merchant(world, tmp_path) -> None:
    for split in ("category", "size"):
        out = tmp_path / split
        found = request(world, data=world / "exports", split=split, merchants=10)
        report = simulate(found, out)
        market = Market.open(out)
        sizes = [len(market.shoppers_of(merchant)) for merchant in range(10)]
        assert sum(sizes) == report.data["shoppers"] == 24 + 18 + 16 + 12
        assert min(sizes) >= 1
        assert len(market.items) == 50


def test_more_merchants_than_shoppers_are_refused(world, tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="70 shoppers cannot be divided among 71"):
        simulate(request(world, data=world / "exports", merchants=71), tmp_path)


@pytest.mark.parametrize("trains", ["lora", "bitfit", "top_layers", "full"])
def test_what_is_inside_the_encoder_is_trained_and_judged_too(world, tmp_path, trains) -> None:
    plan = parse_plan({**LORA_PLAN, "training": {**LORA_PLAN["training"], "trains": trains}}, "p")
    report = simulate(request(world, plan=plan, merchants=3), tmp_path)
    assert report.rounds[0].accepted == 3
    assert 0.0 <= report.quality_after.recall_at_10 <= 1.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"asynchronous": {"updates": 3}}, "leave 'asynchronous' out"),
        ({"secure_aggregation": {}}, "leave 'secure_aggregation' out"),
        ({"quorum": 5}, "below the plan's quorum 5"),
    ],
)
def test_what_a_simulation_would_do_otherwise_than_the_plane_is_refused(
    world, tmp_path, changes, reason
) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        simulate(request(world, plan=with_federation(**changes)), tmp_path)


def test_a_fault_of_the_plan_ends_the_command_with_its_own_exit_code(world, tmp_path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, "begins_with": "last-release"}))
    line = ["simulate", str(path), "--merchants", "4", "--base-model", f"minilm={world / 'model'}"]
    with pytest.raises(InvalidInputError, match="no releases"):
        CliRunner().invoke(app, line, catch_exceptions=False)


def test_updates_that_go_too_far_are_refused_as_on_the_plane(world, tmp_path) -> None:
    from hansa.core.errors import QuorumNotMetError

    with pytest.raises(QuorumNotMetError, match="exceeds the plan's bound"):
        simulate(request(world, plan=with_federation(max_update_norm=1e-9)), tmp_path)
