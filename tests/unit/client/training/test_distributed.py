"""Several devices at one merchant; on the CPU they are processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hansa.client.application import FlowerApplication
from hansa.client.interruption import WorkInterruptedError, interruptible
from hansa.client.site import Site
from hansa.client.training.devices import DevicesMissingError, check_devices, device_name
from hansa.client.training.distributed import DevicesFailedError, DeviceTraining
from hansa.client.training.rank import RESULT, TASK, TRAINED
from hansa.client.training.round import train_round
from hansa.client.training.round_task import RoundTask
from hansa.client.training.samples import ShopData, Units, draw_negatives
from hansa.client.workshop import open_workshop
from hansa.core.content import Content
from hansa.core.plan import RunPlan
from hansa.core.privacy.mechanism import AesNormal, choose_records
from hansa.core.privacy.plan import PrivacyPlan
from hansa.core.update import Arrays, check_update
from tests.fakes.entropy import SeededEntropy
from tests.fakes.faulty_worker import FAULT, FAULTY
from tests.fakes.seeded_worker import ALSO, SEED, SEEDED
from tests.fakes.tiny_site import tiny_plan, tiny_site, tiny_task

ROOT = Path(__file__).parents[4]
Both = dict[str, tuple[RoundTask, Arrays]]

LIMIT_S = 200.0
"""Generous: nothing here waits for it unless it hangs."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return tiny_site(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _processes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the workers of tests/fakes
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def _in_one_process(task: RoundTask, site: Site) -> Arrays:
    return train_round(task, open_workshop(site, task.plan), SeededEntropy(SEED))


@pytest.fixture(scope="module")
def both(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A round of each kind and what two processes made of it; they are started once for both."""
    tower, lora = (tiny_task(tiny_plan(one), site, proximal_mu=0.1) for one in ("tower", "lora"))
    folder = tmp_path_factory.mktemp("lora")
    (folder / TASK).write_bytes(lora.to_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv(ALSO, str(folder))
        trained = DeviceTraining(site=site, worker=SEEDED).train(tower)
    also = Content.from_bytes((folder / RESULT).read_bytes()).arrays[TRAINED]
    return {"tower": (tower, trained), "lora": (lora, also)}


@pytest.mark.parametrize("trains", ["tower", "lora"])
def test_two_processes_give_the_update_of_one_within_rounding(
    trains: str, site: Site, both: Both
) -> None:
    task, two = both[trains]
    one = _in_one_process(task, site)
    assert list(two) == list(one)
    for name, array in one.items():
        step = np.abs(array - task.weights[name]).max()
        assert step > 1e-3
        np.testing.assert_allclose(two[name], array, rtol=0, atol=1e-5 * step)


def test_a_sites_app_trains_on_as_many_devices_as_the_plan_asks_for(site: Site) -> None:
    plan = tiny_plan("tower", steps=2)
    task, application = tiny_task(plan, site), FlowerApplication(site)
    application.prepare(plan)
    contents = [
        Content(arrays={"arrays": task.weights}, configs={"config": {"server-round": 1}}),
        Content(arrays={"public": task.public}),
    ]
    data = application(plan, "train", [content.to_bytes() for content in contents])
    reply = Content.from_bytes(data)
    assert reply.metrics == {"metrics": {"num-examples": 1}}
    check_update(task.weights, reply.arrays["arrays"], max_norm=100.0)
    assert all(np.any(reply.arrays["arrays"][name] != task.weights[name]) for name in task.weights)


@pytest.mark.gpu
@pytest.mark.parametrize("trains", ["tower", "lora"])
@pytest.mark.parametrize("devices", [1, 2])
def test_gpus_give_the_update_of_one_process_on_the_cpu(
    devices: int, trains: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.device_count() < devices:
        pytest.skip(f"needs {devices} GPUs")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    task = tiny_task(tiny_plan(trains, devices=devices), site)
    one = _in_one_process(task, site)
    many = DeviceTraining(site=site, worker=SEEDED).train(task)
    for name, array in one.items():
        step = np.abs(array - task.weights[name]).max()
        np.testing.assert_allclose(many[name], array, rtol=0, atol=1e-3 * step)


def test_the_samples_of_that_comparison_leave_a_rank_empty_or_with_less(site: Site) -> None:
    """So the ranks had unlike shares, down to none."""
    plan = tiny_plan("lora")
    workshop, entropy = open_workshop(site, plan), SeededEntropy(SEED)
    AesNormal.fresh(entropy)
    data = ShopData(
        shoppers=workshop.examples.training,
        embeddings=workshop.embeddings,
        negatives=workshop.embeddings,
    )
    units, sizes = Units.of(data, PrivacyPlan.of(plan), entropy), []
    for step in range(plan.training.local_steps):
        draw_negatives(np.zeros((20, 1), np.float32), plan.training.negatives, entropy)
        drawn = units.draw(step, entropy)
        for sample in drawn:
            choose_records(len(sample.history), 8, entropy)
        sizes.append(len(drawn))
    assert any(size <= 1 for size in sizes)
    assert any(size > 1 for size in sizes)


def test_the_ledger_books_the_same_events_however_many_devices_train() -> None:
    def events(plan: RunPlan) -> object:
        privacy = PrivacyPlan.of(plan)
        return privacy.round_event(), privacy.run_events()

    assert events(tiny_plan("tower", devices=8)) == events(tiny_plan("tower", devices=1))


def _faulty(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> DeviceTraining:
    monkeypatch.setenv(FAULT, fault)
    return DeviceTraining(site=Site(folder), worker=FAULTY)


def _task() -> RoundTask:
    return RoundTask(plan=tiny_plan("tower"), weights={}, public={})


def _ranks(folder: Path) -> list[int]:
    return [int(path.read_text() or 0) for path in folder.glob("rank-*.pid")]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def _all_ended(folder: Path) -> bool:
    return not any(_alive(pid) for pid in _ranks(folder))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("dies", "training on 2 devices"),
        ("raises", "rank 1: InvalidInputError: the data set is damaged"),
    ],
)
def test_a_rank_that_fails_is_an_error_and_leaves_nobody_behind(
    fault: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    with pytest.raises(DevicesFailedError, match=sentence):
        _faulty(tmp_path, fault, monkeypatch).train(_task())
    assert time.monotonic() - began < LIMIT_S
    assert len(_ranks(tmp_path)) == 2
    _wait_for(lambda: _all_ended(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


LAUNCH = """
import sys
from pathlib import Path
from tests.fakes.faulty_worker import FAULTY
from hansa.client.site import Site
from hansa.client.training.distributed import DeviceTraining
from hansa.client.training.round_task import RoundTask
task = RoundTask.from_bytes(Path(sys.argv[2]).read_bytes())
DeviceTraining(site=Site(Path(sys.argv[1])), worker=FAULTY).train(task)
"""


def _listening(pid: int) -> set[str]:
    """The addresses, as the kernel writes them, on which a process listens for TCP."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].partition(":")[0])
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _met(folder: Path) -> bool:
    return len([pid for pid in _ranks(folder) if pid]) == 2


def test_work_that_is_not_wanted_any_more_ends_all_ranks_which_listen_on_the_loopback_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening: set[str] = set()

    def unwanted() -> bool:
        if not _met(tmp_path):
            return False
        ranks = _ranks(tmp_path)
        for pid in (*ranks, _parent(ranks[0])):
            listening.update(_listening(pid))
        return True

    with interruptible(unwanted), pytest.raises(WorkInterruptedError):
        _faulty(tmp_path, "hangs", monkeypatch).train(_task())
    assert listening <= {"0100007F"}, "somebody else could join the training"
    _wait_for(lambda: _all_ended(tmp_path))


def test_ranks_end_when_the_process_that_launched_them_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, FAULT: "hangs"}
    task = tmp_path / "task"
    task.write_bytes(_task().to_bytes())
    command = [sys.executable, "-c", LAUNCH, str(tmp_path), str(task)]
    launcher = subprocess.Popen(command, env=environment)
    try:
        _wait_for(lambda: _met(tmp_path))
        torchrun = _parent(_ranks(tmp_path)[0])
    finally:
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
    _wait_for(lambda: _all_ended(tmp_path) and not _alive(torchrun))


def test_a_site_with_fewer_gpus_than_the_plan_asks_for_is_told_so() -> None:
    with pytest.raises(DevicesMissingError, match="4 devices and this site has 2 GPUs"):
        check_devices(4, gpus=2)
    with pytest.raises(DevicesMissingError):
        device_name(0, wanted=4, gpus=2)


@pytest.mark.parametrize(("wanted", "gpus"), [(1, 0), (1, 8), (4, 0), (4, 4), (4, 8)])
def test_a_site_without_gpus_or_with_enough_may_train(wanted: int, gpus: int) -> None:
    check_devices(wanted, gpus=gpus)


def test_each_rank_has_a_gpu_of_its_own_or_all_share_the_cpu() -> None:
    assert [device_name(rank, wanted=2, gpus=2) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert [device_name(rank, wanted=2, gpus=0) for rank in range(2)] == ["cpu", "cpu"]


def test_a_tasks_file_comes_back_as_it_was(site: Site) -> None:
    task = tiny_task(tiny_plan("tower"), site, proximal_mu=0.25)
    read = RoundTask.from_bytes(task.to_bytes())
    assert (read.plan, read.proximal_mu) == (task.plan, 0.25)
    for one, two in ((read.weights, task.weights), (read.public, task.public)):
        assert list(one) == list(two)
        assert all(np.array_equal(one[name], two[name]) for name in one)
