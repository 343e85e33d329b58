"""The same plan in Flower's own simulation, on Ray, and in ours: the same model, byte for byte."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hansa.server.simulation.report import SimulationReport
from tests.fakes.tiny_world import write_world

pytest.importorskip("ray", reason="Flower's simulation needs Ray")


def simulated(world: Path, engine: str) -> SimulationReport:
    """By the command, in a process of its own: Ray leaves threads and files open in its own."""
    options = {"--merchants": "12", "--rounds": "2", "--cohort": "4", "--engine": engine}
    words = [word for option in options.items() for word in option]
    command = [Path(sys.executable).with_name("hansa-server"), "simulate", world / "plan.yaml"]
    ended = subprocess.run(
        [*command, *words, "--base-model", f"minilm={world / 'model'}", "--json"],
        capture_output=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return SimulationReport.model_validate(json.loads(ended.stdout))


@pytest.mark.integration
def test_flowers_engine_and_ours_give_the_same_model(tmp_path) -> None:
    write_world(tmp_path)
    local, ray = simulated(tmp_path, "local"), simulated(tmp_path, "ray")
    assert local.model_sha256 == ray.model_sha256
    assert local.quality_after == ray.quality_after
    assert [one.accepted for one in ray.rounds] == [4, 4]
