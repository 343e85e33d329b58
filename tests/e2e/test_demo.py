"""The demo from its first step to its last, with its real processes, on tiny data."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.tiny_world import PLAN, RAW_ID, SHOPPERS, write_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


def _command(world: Path, out: Path) -> list[str]:
    options = ["--out", out, "--exports", world / "exports", "--base-model", world / "model"]
    plans = ["--plan", world / "plan.yaml", "--lora-plan", world / "lora.yaml"]
    return [sys.executable, str(ROOT / "demo/run.py"), *map(str, options), *map(str, plans)]


@pytest.fixture(scope="module")
def demo(world, tmp_path_factory) -> tuple[dict, str, Path]:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(
        _command(world, out), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "summary.json").read_text()), done.stdout, out


def _processes_that_name(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words and path.parent.name != str(os.getpid()):
            found.append(words)
    return found


def test_every_round_is_completed_and_one_table_for_each_role_is_shown(demo) -> None:
    summary, shown, _ = demo
    assert summary["rounds_completed"] == PLAN["federation"]["rounds"]
    for title in ("For the merchants", "For the operator", "For the auditor"):
        assert title in shown


def test_the_merchant_with_the_small_cap_refuses_and_the_others_go_on(demo) -> None:
    merchants = {one["name"]: one for one in demo[0]["merchants"]}
    assert merchants.keys() == SHOPPERS.keys()
    village = merchants.pop("village")
    assert 0 < village["rounds_joined"] < PLAN["federation"]["rounds"]
    assert "above the cap" in village["refused_reason"]
    for one in merchants.values():
        assert one["rounds_joined"] == PLAN["federation"]["rounds"]
        assert one["refused_reason"] is None
        assert 0 < one["epsilon_spent"] <= one["epsilon_cap"]


def test_every_site_verified_and_serves_the_release(demo) -> None:
    summary, _, out = demo
    assert sorted(summary["release"]["verified_by"]) == sorted(SHOPPERS)
    assert summary["release"]["version"] == 1
    assert len(summary["serving"]["answers"]) == 2 * len(SHOPPERS)
    assert all(
        one["items"] and one["release_version"] == 1 for one in summary["serving"]["answers"]
    )
    assert all(
        item["title"] and item["price"] > 0
        for one in summary["serving"]["answers"]
        for item in one["items"]
    )
    for name in SHOPPERS:
        manifest = json.loads(
            (out / "sites" / name / "releases/releases/stable/1/manifest.json").read_text()
        )
        assert manifest["rounds"] == [1, 2, 3]
        assert manifest["run"] == "tiny-0001"


def test_the_audit_passes_and_one_flipped_byte_is_noticed_and_located(demo) -> None:
    audit = demo[0]["audit"]
    assert audit["verified"]
    assert abs(audit["epsilon_pld"] - audit["epsilon_prv"]) <= 0.015
    assert audit["tamper_detected"]
    assert "ledgers/harbour.jsonl" in audit["tamper_finding"]


def test_every_figure_of_the_summary_is_there(demo) -> None:
    summary = demo[0]
    names = ("popularity", "zero_shot", "nearest_history", "local_dp", "federated", "federated_dp")
    assert all(0.0 <= summary["quality"][name] <= 1.0 for name in names)
    assert summary["model"]["released_mb"] > 0
    assert summary["bytes_per_round_per_client"] > 0
    assert all(
        summary["serving"][f"{call}_p{part}_ms"] > 0
        for call in ("search", "recommend")
        for part in (50, 99)
    )
    assert summary["lora"]["rounds_completed"] == 1


def test_no_process_outlives_the_demo(demo) -> None:
    assert _processes_that_name(str(demo[2])) == []


def test_no_raw_shopper_id_is_in_any_output_or_file_name(demo, world) -> None:
    """Logs, ledgers, packs, reports, databases, blobs: whatever a whole federation wrote."""
    _, shown, out = demo
    assert RAW_ID in (world / "exports" / "harbour" / "events.csv").read_text()
    assert "connected to" in "".join(path.read_text() for path in (out / "logs").glob("*.log"))
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 100
    assert [path for path in out.rglob("*") if RAW_ID in path.name] == []
    assert [path for path in written if RAW_ID.encode() in path.read_bytes()] == []
    assert RAW_ID not in shown


def test_the_regulator_pack_is_written_in_both_languages(demo) -> None:
    _, _, out = demo
    page = next(out.rglob("regulator-pack/report.html")).read_text(encoding="utf-8")
    facts = json.loads(next(out.rglob("regulator-pack/report.json")).read_text(encoding="utf-8"))
    assert 'lang="en"' in page
    assert 'lang="zh' in page
    assert facts["passed"] is True


@pytest.mark.parametrize("moment", ["start --state", " join @", "start --site"])
def test_ctrl_c_ends_every_process_at_once(world, tmp_path, moment) -> None:
    out = tmp_path / "out"
    demo = subprocess.Popen(
        _command(world, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 180
        while not any(moment in words for words in _processes_that_name(str(out))):
            assert time.monotonic() < until
            time.sleep(0.1)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=30) == 130
    finally:
        demo.kill()
        demo.wait()
    assert _processes_that_name(str(out)) == []


def test_a_failing_step_names_itself_and_leaves_nothing_behind(world, tmp_path) -> None:
    out = tmp_path / "out"
    command = [*_command(world, out), "--base-model", str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "must be NAME=FOLDER of an existing folder" in done.stdout
    assert _processes_that_name(str(out)) == []
