"""The README's tour, command by command, as a newcomer would type it; on a tiny shop."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.fakes.tiny_world import PLAN, write_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line]


@pytest.fixture
def tour(tmp_path) -> Path:
    """The folder that the tour's first block prepares, with a tiny shop in place of the demo's."""
    write_world(tmp_path / "world")
    folder = tmp_path / "tour"
    shutil.copytree(tmp_path / "world/exports/harbour", folder)
    shutil.copy(tmp_path / "world/exports/public_catalogue.csv", folder)
    plan = {**PLAN, "name": "example", "federation": {**PLAN["federation"], "quorum": 1}}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder


def _run(command: str, environment: dict[str, str], folder: Path) -> str:
    """Runs a command; one that waits for others (exit code 12: not reachable yet) is repeated."""
    until = time.monotonic() + 60
    while True:
        done = subprocess.run(
            shlex.split(command),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 12 or time.monotonic() > until:
            break
        time.sleep(0.5)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_of_the_tour_works_in_its_order(tour) -> None:
    model = f"minilm={tour.parent / 'world/model'}"
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HANSA_BASE_MODEL": model}
    running, shown = [], {}
    try:
        for command in commands():
            if command.split()[1] == "start":
                words = command.split()
                log = (tour / f"{words[0]}.log").open("wb")
                running.append(
                    subprocess.Popen(words, cwd=tour, env=environment, stdout=log, stderr=log)
                )
                log.close()
            else:
                shown[command] = _run(command, environment, tour)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=20) for process in running]
    assert codes == [0, 0]
    assert len(shown) >= 12
    assert "All checks passed" in shown["hansa-audit verify example.pack"]
    assert "federated_dp" in shown["hansa-client report --site harbour"]


def test_the_tour_names_every_role_and_the_two_first_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert {command.split()[0] for command in commands()} == {
        "hansa-server",
        "hansa-client",
        "hansa-audit",
    }
    assert "    make demo" in text
    assert "    make test" in text
