import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from hansa.client.node.codec import TaskCodec
from hansa.client.node.residuals import Residuals
from hansa.compression.content_codec import ContentCodec
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.plan import RunPlan
from hansa.core.update import Arrays
from tests.fakes.entropy import SeededEntropy
from tests.fakes.toy_federation import toy_plan

RUN = RunId("toy-0001")
ONE, TWO = TaskId("toy-0001/1/train/harbour"), TaskId("toy-0001/2/train/harbour")
BASE: Arrays = {"w": np.linspace(-1, 1, 300, dtype=np.float32)}
STEP = np.random.default_rng(1).standard_normal(300).astype(np.float32)


def _plan(**codec: int | bool) -> RunPlan:
    return toy_plan(codec=codec)


class Site:
    """A merchant's codec, and the ledger's commits that it looks at."""

    def __init__(self, folder: Path) -> None:
        self.commits: dict[TaskId, Sha256] = {}
        self.folder = folder
        self.residuals = Residuals(folder, self.commits.get)
        self.codec = TaskCodec(self.residuals, SeededEntropy())

    def seal(self, plan: RunPlan, task: TaskId = ONE, step: Arrays | None = None) -> bytes:
        update = {"w": BASE["w"] + (STEP if step is None else step["w"])}
        reply = Content(arrays={"arrays": update}, metrics={"metrics": {"num-examples": 1}})
        return self.codec.seal(
            plan,
            "train",
            run=RUN,
            task=task,
            opened=[Content(arrays={"arrays": BASE}).to_bytes()],
            reply=reply.to_bytes(),
        )

    def commit(self, task: TaskId, data: bytes) -> None:
        self.commits[task] = sha256_hex(data)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "residuals")


def _read(plan: RunPlan, data: bytes) -> Arrays:
    codec = ContentCodec.of(plan.federation, "train")
    return codec.decode_up(Content.from_bytes(data), BASE).arrays["arrays"]


def _left(site: Site) -> Arrays:
    return site.residuals.carried(RUN)


def test_a_plan_without_a_codec_leaves_every_byte_as_it_is(site) -> None:
    plan, task = _plan(), [b"no content file", b"context"]
    assert site.codec.open(plan, "train", task) == task
    reply = b"no content file either"
    sealed = site.codec.seal(plan, "train", run=RUN, task=ONE, opened=task, reply=reply)
    assert sealed == reply
    assert not site.folder.exists()


def test_an_evaluation_is_never_coded(site) -> None:
    plan, task = _plan(uplink_bits=4, downlink_bits=4, zstd=True), [b"evaluate"]
    assert site.codec.open(plan, "evaluate", task) == task
    sealed = site.codec.seal(plan, "evaluate", run=RUN, task=ONE, opened=task, reply=b"noised")
    assert sealed == b"noised"


def test_the_app_gets_plain_arrays_and_its_settings(site) -> None:
    plan = _plan(downlink_bits=8, zstd=True)
    sent = Content(arrays={"arrays": BASE}, configs={"config": {"server-round": 3}})
    codec = ContentCodec.of(plan.federation, "train")
    data = codec.encode_down(sent).to_bytes()
    opened, context = site.codec.open(plan, "train", [data, b"context"])
    content = Content.from_bytes(opened)
    np.testing.assert_array_equal(content.arrays["arrays"]["w"], codec.lowered(BASE)["w"])
    assert (content.configs, context) == (sent.configs, b"context")


def test_a_model_that_cannot_be_read_is_an_error_before_anything_is_spent(site) -> None:
    plan, plain = _plan(downlink_bits=8), Content(arrays={"arrays": BASE}).to_bytes()
    with pytest.raises(InvalidInputError, match="cannot be read"):
        site.codec.open(plan, "train", [plain])


def test_a_sealed_reply_keeps_metrics_and_is_smaller(site) -> None:
    plan = _plan(uplink_bits=8, zstd=True)
    data = site.seal(plan)
    content = Content.from_bytes(data)
    assert content.metrics == {"metrics": {"num-examples": 1}}
    assert content.arrays["arrays"]["w"].nbytes < 340
    assert np.abs(_read(plan, data)["w"] - BASE["w"] - STEP).max() < 0.03


def test_what_was_rounded_off_joins_the_next_update_once_the_first_has_left(site) -> None:
    plan = _plan(uplink_bits=4)
    first = site.seal(plan, ONE)
    site.commit(ONE, first)
    left = _left(site)["w"]
    np.testing.assert_allclose(BASE["w"] + STEP - _read(plan, first)["w"], left, atol=1e-6)
    second = site.seal(plan, TWO)
    site.commit(TWO, second)
    sent = sum(_read(plan, data)["w"] - BASE["w"] for data in (first, second))
    np.testing.assert_allclose(sent + _left(site)["w"], 2 * STEP, atol=1e-5)


def test_a_crash_before_the_outbox_loses_the_update_but_not_what_was_left_before(site) -> None:
    plan = _plan(uplink_bits=4)
    site.commit(ONE, site.seal(plan, ONE))
    before = _left(site)["w"]
    site.seal(plan, TWO)  # the process dies here: never committed, never sent
    np.testing.assert_array_equal(_left(site)["w"], before)
    restarted = Site(site.folder)
    restarted.commits.update(site.commits)
    np.testing.assert_array_equal(_left(restarted)["w"], before)


def test_other_bytes_committed_under_the_same_task_do_not_count(site) -> None:
    plan = _plan(uplink_bits=4)
    site.seal(plan, ONE)
    site.commit(ONE, b"other bytes")
    assert _left(site) == {}


def test_lossless_packing_leaves_nothing_behind(site) -> None:
    plan = _plan(zstd=True)
    data = site.seal(plan)
    np.testing.assert_array_equal(_read(plan, data)["w"], BASE["w"] + STEP)
    assert not site.folder.exists()


def test_another_run_has_a_residual_of_its_own(site) -> None:
    plan = _plan(uplink_bits=4)
    site.commit(ONE, site.seal(plan, ONE))
    assert site.residuals.carried(RunId("toy-0002")) == {}


@pytest.mark.parametrize("damage", [b"", b"rubbish", Content().to_bytes()])
def test_a_damaged_residual_is_forgotten(site, damage) -> None:
    plan = _plan(uplink_bits=4)
    site.commit(ONE, site.seal(plan, ONE))
    (file,) = site.folder.iterdir()
    file.write_bytes(damage)
    assert _left(site) == {}
    site.commit(TWO, site.seal(plan, TWO))
    assert list(_left(site)) == ["w"]


def test_only_the_newest_runs_residuals_are_kept(site) -> None:
    arrays: Mapping[str, np.ndarray] = {"w": np.ones(2, np.float32)}
    for number in range(10):
        run = RunId(f"toy-{number:04}")
        site.residuals.keep(run, ONE, b"update", if_sent=arrays)
        for path in site.folder.iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
    site.commit(ONE, b"update")
    kept = [n for n in range(10) if site.residuals.carried(RunId(f"toy-{n:04}"))]
    assert kept == list(range(2, 10))
