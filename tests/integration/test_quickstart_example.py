"""The example in docs: the same app on our plane and in Flower's own simulation."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from hansa.client.cli import app as client_command
from hansa.core.content import Content
from hansa.core.flower_plan import FlowerPlan, read_any_plan
from hansa.server.cli import app as server_command
from tests.fakes.toy_federation import ToyApplication
from tests.integration.federation_harness import ROOT, Federation

pytestmark = pytest.mark.integration

EXAMPLE = ROOT / "docs" / "examples" / "torch-quickstart"
ROUNDS = 2


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    with Federation(tmp_path) as federation:
        yield federation


def command(app: object, *words: str) -> str:
    result = CliRunner().invoke(app, list(words))  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


def planned(folder: Path, **config: object) -> FlowerPlan:
    """By the operator's own commands, as the guide says."""
    words = [f"--config={key}={value}" for key, value in config.items()]
    path = folder / "plan.yaml"
    path.write_text(command(server_command, "app-plan", str(EXAMPLE), *words))
    plan = read_any_plan(path)
    assert isinstance(plan, FlowerPlan)
    return plan


def on_our_plane(federation: Federation, plan: FlowerPlan) -> dict[str, np.ndarray]:
    state = str(federation.state.path)
    command(server_command, "allow-app", plan.server_app, plan.client_app, "--state", state)
    for index, name in enumerate(("harbour", "mill")):
        site = federation.join(name)
        command(
            client_command,
            "allow-app",
            plan.client_app,
            f"--config=partition-id={index}",
            "--config=num-partitions=2",
            "--yes",
            f"--site={site.path}",
        )
        federation.start_client(site, ToyApplication())
    federation.wait_online({"harbour", "mill"})
    run = federation.finish(plan)
    assert run.state == "completed", run.sentence
    with federation.operator() as client:
        return dict(Content.from_bytes(client.arrays(run.run_id)).arrays["arrays"])


def in_flowers_simulation(out: Path, plan: FlowerPlan) -> dict[str, np.ndarray]:
    search = os.pathsep.join([str(EXAMPLE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [str(out), json.dumps(dict(plan.config))]
    subprocess.run(
        [sys.executable, "-m", "tests.fakes.simulated_quickstart", *words],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search},
        timeout=300,
        capture_output=True,
    )
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.mark.skipif(find_spec("ray") is None, reason="Flower's simulation needs Ray")
def test_the_example_ends_with_the_same_arrays_on_our_plane_and_in_flowers_simulation(
    federation: Federation, tmp_path: Path
) -> None:
    federation.start_server()
    saved = tmp_path / "model.pt"
    plan = planned(tmp_path, **{"num-server-rounds": ROUNDS, "save-as": f'"{saved}"'})
    assert plan.config["num-server-rounds"] == ROUNDS
    ours = on_our_plane(federation, plan)
    theirs = in_flowers_simulation(tmp_path / "theirs.npz", plan)
    assert list(ours) == list(theirs)
    moved = 0.0
    from torch_quickstart.task import make_net

    for name, first in make_net().state_dict().items():
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
        moved += float(np.abs(ours[name] - first.numpy()).sum())
    assert moved > 0.1  # it did learn
    kept = torch.load(saved, weights_only=True)
    assert all(np.array_equal(kept[name].numpy(), ours[name]) for name in ours)


def test_the_plan_of_a_folder_holds_what_its_pyproject_says(tmp_path: Path) -> None:
    plan = yaml.safe_load(command(server_command, "app-plan", str(EXAMPLE)))
    assert plan["server_app"] == "torch_quickstart.server_app:app"
    assert plan["config"]["learning-rate"] == 0.1
    for words, sentence in (
        ([str(tmp_path)], "cannot read"),
        ([str(EXAMPLE), "--config=speed=1"], "the app has no setting 'speed'"),
    ):
        result = CliRunner().invoke(server_command, ["app-plan", *words])
        assert sentence in str(result.exception)
