"""The plan's codec over real gRPC: what is learnt stays, what is forged is named."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import zstandard

from hansa.client.ledger_store import read_ledger
from hansa.compression.content_codec import ContentCodec
from hansa.compression.parcel import Label
from hansa.core.content import Content
from hansa.core.plan import RunPlan
from hansa.core.update import Arrays
from tests.fakes.entropy import SeededEntropy
from tests.fakes.toy_federation import FIRST_MODEL, ToyApplication, toy_plan
from tests.integration.federation_harness import Federation, aggregates, refused
from tests.integration.raw_member import raw_member

pytestmark = pytest.mark.integration

TARGET: Arrays = {
    "weights": np.array([4.0, -1.0, 0.013], np.float32),
    "bias": np.array(-2.0, np.float32),
}
CODED = {"uplink_bits": 8, "downlink_bits": 8, "zstd": True}


class Learner:
    """Goes half of the way to the target plus its own shift; all shifts together are zero."""

    def __init__(self, shift: float) -> None:
        self._shift = shift
        self.received: list[Arrays] = []

    def prepare(self, plan: RunPlan) -> None:
        """A learner is always ready."""

    def __call__(self, plan: RunPlan, phase: str, contents: Sequence[bytes]) -> bytes:
        model = Content.from_bytes(contents[0]).arrays["arrays"]
        self.received.append(model)
        arrays = {
            name: (array + 0.5 * (TARGET[name] + self._shift - array)).astype(np.float32)
            for name, array in model.items()
        }
        return Content(
            arrays={"arrays": arrays}, metrics={"metrics": {"num-examples": 1}}
        ).to_bytes()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as federation:
        yield federation


def _plan(name: str, *, rounds: int = 12, quorum: int = 2, **more: object) -> RunPlan:
    return toy_plan(name, rounds=rounds, quorum=quorum, **more)


def test_a_coded_run_learns_what_a_plain_one_learns(federation: Federation) -> None:
    server = federation.start_server()
    learners = {
        federation.join(name): Learner(shift) for name, shift in (("one", 0.7), ("two", -0.7))
    }
    federation.start_clients(learners)
    ends, costs = {}, {}
    for name, codec in (("plain", {}), ("coded", CODED), ("four", CODED | {"uplink_bits": 4})):
        run = federation.finish(_plan(name, codec=codec))
        assert run.state == "completed", run.sentence
        ends[name] = aggregates(server, run.run_id)
        spent = {site.path.name: read_ledger(site.ledger).spent_epsilon() for site in learners}
        costs[name] = spent["one"]
    for key, target in TARGET.items():
        np.testing.assert_allclose(ends["plain"][-1][key], target, atol=0.01)
        for name in ("coded", "four"):
            tail = np.mean([model[key] for model in ends[name][6:]], axis=0)
            np.testing.assert_allclose(tail, target, atol=0.15, err_msg=name)
    fresh = [costs["plain"], costs["coded"] - costs["plain"], costs["four"] - costs["coded"]]
    assert max(fresh) <= fresh[0] * 1.001  # composition is below additive; the codec adds nothing


def test_merchants_train_from_the_lowered_model_that_the_server_counts_from(
    federation: Federation,
) -> None:
    server = federation.start_server()
    learner = Learner(0.0)
    federation.start_clients({federation.join("one"): learner})
    plan = _plan("lowered", rounds=3, quorum=1, codec={"downlink_bits": 4})
    run = federation.finish(plan)
    codec = ContentCodec.of(plan.federation, "train")
    model = FIRST_MODEL
    for received, after in zip(learner.received, aggregates(server, run.run_id), strict=True):
        low = codec.lowered(model)
        for name in low:
            np.testing.assert_array_equal(received[name], low[name])
            step = 0.5 * (TARGET[name] - low[name])
            np.testing.assert_allclose(after[name], model[name] + step, rtol=1e-5)
        model = after


def test_late_updates_are_read_against_the_model_that_they_began_with(
    federation: Federation,
) -> None:
    federation.start_server()
    learners = {
        federation.join(name): Learner(shift) for name, shift in (("one", 0.4), ("two", -0.4))
    }
    federation.start_clients(learners)
    run = federation.finish(
        _plan("buffered", rounds=10, quorum=1, asynchronous={"updates": 1}, codec=CODED)
    )
    assert run.state == "completed", run.sentence


def test_a_secure_sum_may_come_of_a_lowered_model(federation: Federation) -> None:
    server = federation.start_server()
    steps = {"one": 1.0, "two": 2.0, "three": 6.0}
    federation.start_clients(
        {federation.join(name): ToyApplication(n) for name, n in steps.items()}
    )
    plan = _plan(
        "secure",
        rounds=1,
        quorum=3,
        secure_aggregation={},
        codec={"downlink_bits": 8, "zstd": True},
    )
    run = federation.finish(plan)
    assert run.state == "completed", run.sentence
    (after,) = aggregates(server, run.run_id)
    for name, array in FIRST_MODEL.items():
        np.testing.assert_allclose(after[name], array + 3.0, rtol=0, atol=1e-5)


WEIGHTS = Label(bits=8, dtype="float32", shape=(3,))


def _parcel(label: Label, body: bytes, packing: int = 0) -> np.ndarray:
    return np.frombuffer(label.to_bytes(packing) + body, np.uint8)


def _bomb() -> np.ndarray:
    packed = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 25))
    return _parcel(WEIGHTS, packed, packing=1)


FORGERIES = {
    "bomb": (_bomb, "not smaller for being packed"),
    "lying-header": (
        lambda: _parcel(Label(bits=8, dtype="float32", shape=(1 << 40,)), bytes(7)),
        "not float32",
    ),
    "nan-scale": (
        lambda: _parcel(WEIGHTS, np.float32(np.nan).tobytes() + bytes(3)),
        "scale is negative or not a finite number",
    ),
    "plain-floats": (lambda: np.zeros(3, np.float32), "no row of bytes"),
}


def test_forged_arrays_are_rejected_by_name_and_the_round_goes_on(federation: Federation) -> None:
    federation.start_server()
    federation.start_clients({federation.join("honest"): ToyApplication(1.0)})
    plan = _plan("forged", rounds=1, quorum=1, codec=CODED, deadline_s=60.0)
    with contextlib.ExitStack() as stack:
        members = {name: stack.enter_context(raw_member(federation, name)) for name in FORGERIES}
        run_id = federation.launch(plan)
        for name, member in members.items():
            task = member.next_task(run_id)
            data = _forged_reply(plan, FORGERIES[name][0]())
            member.upload(task.task_id, data)
            member.complete(task.task_id, data, member.book(task, data))
        run = federation.wait_for(run_id)
    assert run.state == "completed", run.sentence
    (round_info,) = run.rounds
    assert refused(round_info) == dict.fromkeys(FORGERIES, "rejected")
    for one in round_info.refused:
        assert FORGERIES[one.merchant][1] in one.sentence


def _forged_reply(plan: RunPlan, parcel: np.ndarray) -> bytes:
    """An honest reply but for one array."""
    codec = ContentCodec.of(plan.federation, "train")
    base = codec.lowered(FIRST_MODEL)
    reply = Content(arrays={"arrays": base}, metrics={"metrics": {"num-examples": 1}})
    sent, _ = codec.encode_up(reply, base, residual={}, entropy=SeededEntropy())
    arrays = {**sent.arrays["arrays"], "weights": parcel}
    return Content(arrays={"arrays": arrays}, metrics=reply.metrics).to_bytes()
