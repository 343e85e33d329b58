"""Flower's arrays over blobs: the same to every strategy, and no bytes in memory until used."""

import itertools
import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedMedian, Krum

from hansa.compression.content_codec import ContentCodec
from hansa.core.content import Content, stored_arrays
from hansa.core.envelope import Envelope, seal
from hansa.core.errors import UpdateRejectedError
from hansa.core.flower_plan import FlowerPlan
from hansa.core.ids import MerchantId, RunId, Sha256
from hansa.core.secure.protocol import LIGHT_STAGES
from hansa.core.storage import BlobStore
from hansa.core.tensors import StoredArrays
from hansa.server.rounds.app_grid import AppGrid
from hansa.server.rounds.app_rounds import AppRounds
from hansa.server.rounds.app_script import AppScript
from hansa.server.rounds.codec import PlaneCodec
from hansa.server.rounds.flower import (
    MAX_REPLY_HEADER_BYTES,
    adopt_identity,
    make_reply,
    read_records,
    to_content,
)
from hansa.server.rounds.grid import Plane
from hansa.server.rounds.records import (
    KeptArrays,
    RecordArrays,
    StoredArray,
    array_record,
    blob_of,
)
from hansa.server.state.database import open_database
from hansa.server.state.journal import Journal
from hansa.server.state.members import Joining, Members
from hansa.server.state.runs import Runs
from hansa.server.state.tables import TaskRow
from hansa.server.state.tasks import Result, Tasks
from hansa.server.switchboard import Switchboard
from tests.fakes.entropy import SeededEntropy
from tests.fakes.toy_federation import toy_plan

ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array(0.5, np.float64),
    "none": np.zeros((0, 2), np.int64),
}


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def stored(blobs: BlobStore, arrays: dict[str, np.ndarray], **more) -> StoredArrays:
    sha = blobs.write(Content(arrays={"arrays": arrays}, **more).pieces())
    return stored_arrays(blobs.checked(sha), "arrays", sha)


class TestAStoredArray:
    def test_it_is_what_flowers_own_is(self, blobs: BlobStore) -> None:
        record = array_record(stored(blobs, ARRAYS))
        for name, array in ARRAYS.items():
            own = Array(array)
            found = record[name]
            assert isinstance(found, StoredArray)
            assert (found.dtype, found.shape, found.stype) == (own.dtype, own.shape, own.stype)
            assert found.data == own.data
            np.testing.assert_array_equal(found.numpy(), array)

    def test_what_a_strategy_changes_is_its_own(self, blobs: BlobStore) -> None:
        array = array_record(stored(blobs, ARRAYS))["weights"]
        array.numpy()[:] = 7
        np.testing.assert_array_equal(array.numpy(), ARRAYS["weights"])

    def test_a_copy_for_another_process_carries_its_values(self, blobs: BlobStore) -> None:
        array = array_record(stored(blobs, ARRAYS))["weights"]
        copy = pickle.loads(pickle.dumps(array))
        assert type(copy) is Array
        np.testing.assert_array_equal(copy.numpy(), ARRAYS["weights"])

    def test_its_representation_holds_no_values(self, blobs: BlobStore) -> None:
        assert repr(array_record(stored(blobs, ARRAYS))["weights"]) == (
            "StoredArray(dtype='float32', shape=(2, 3))"
        )


class TestRecordArrays:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_they_are_the_records_values(self, order: str) -> None:
        arrays = {name: np.array(array, order=order) for name, array in ARRAYS.items()}
        found = RecordArrays(ArrayRecord({name: Array(array) for name, array in arrays.items()}))
        assert list(found) == list(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)
            assert found.spec(name).dtype == array.dtype
            assert found.spec(name).shape == array.shape

    def test_those_that_lie_in_a_blob_are_not_read_for_their_type(self, blobs: BlobStore) -> None:
        arrays = stored(blobs, ARRAYS)
        found = RecordArrays(array_record(arrays))
        arrays.path.unlink()
        assert found.spec("weights").shape == (2, 3)


class TestTheBlobOfAMessage:
    def test_a_model_as_it_is_stored_is_found(self, blobs: BlobStore) -> None:
        arrays = stored(blobs, ARRAYS)
        kept = KeptArrays(held=ARRAYS, stored=arrays)
        config = ConfigRecord({"server-round": 1})
        for model in (arrays, kept):
            records = RecordDict({"arrays": array_record(model), "config": config})
            assert blob_of(records) == arrays.sha256

    def test_anything_else_is_not(self, blobs: BlobStore) -> None:
        arrays = stored(blobs, ARRAYS)
        other = stored(blobs, {"weights": ARRAYS["weights"] + 1})
        metrics = stored(blobs, ARRAYS, metrics={"metrics": {"num-examples": 1}})
        whole = array_record(arrays)
        part = ArrayRecord()
        part["weights"] = whole["weights"]
        mixed = array_record(arrays)
        mixed["weights"] = array_record(other)["weights"]
        turned = ArrayRecord()
        for name in reversed(list(whole)):
            turned[name] = whole[name]
        swapped = array_record(arrays)
        swapped["bias"] = whole["weights"]
        changed = array_record(arrays)
        changed["weights"] = Array(ARRAYS["weights"])
        for record in (part, mixed, turned, swapped, changed, array_record(metrics)):
            assert blob_of(RecordDict({"arrays": record})) is None
        assert blob_of(RecordDict({"model": whole})) is None
        assert blob_of(RecordDict({"arrays": whole, "more": whole})) is None
        assert blob_of(RecordDict({"config": ConfigRecord()})) is None


def reply(path: Path, sha: Sha256, sender: int):
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=sender,
        dst_node_id=1,
        reply_to_message_id="task",
        group_id="1",
        created_at=0.0,
        ttl=10.0,
        message_type="train",
    )
    return make_reply(read_records(path, sha), metadata)


def replies(blobs: BlobStore, values: list[float], arrays: int = 8, size: int = 50_000):
    """Each merchant's update: arrays of 200 kB that hold one number."""
    found = []
    for sender, value in enumerate(values, 2):
        model = {str(number): np.full(size, value, np.float32) for number in range(arrays)}
        content = Content(
            arrays={"arrays": model}, metrics={"metrics": {"num-examples": 1, "value": value}}
        )
        sha = blobs.write(content.pieces())
        found.append(reply(blobs.checked(sha), sha, sender))
    return found


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [(FedAvg(), 3.0), (FedMedian(), 2.0), (Krum(num_malicious_nodes=0), 1.75)],
    ids=["mean", "median", "krum"],
)
def test_strategies_work_unmodified_over_stored_replies(blobs, strategy, expected: float) -> None:
    """The mean is 3 and the median 2; 1.75 is nearest to its three neighbours."""
    adopt_identity()
    messages = replies(blobs, [1.0, 1.75, 2.0, 2.25, 8.0], arrays=2, size=10)
    arrays, _ = strategy.aggregate_train(1, messages)
    for array in arrays.values():
        np.testing.assert_allclose(array.numpy(), np.full(10, expected, np.float32))


def peak_of_mean(blobs: BlobStore, count: int) -> int:
    messages = replies(blobs, [float(number) for number in range(count)])
    tracemalloc.start()
    try:
        FedAvg().aggregate_train(1, messages)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_mean_takes_the_same_memory_however_many_reply(blobs: BlobStore) -> None:
    """An update is 1.6 MB, and the metadata of a reply a few kB."""
    peak_of_mean(blobs, 2)
    few, many = peak_of_mean(blobs, 4), peak_of_mean(blobs, 24)
    assert many < few + 600_000


def test_a_content_is_made_of_records_without_a_copy_of_all(blobs: BlobStore) -> None:
    """Written array by array: the peak is a few arrays of 200 kB, not the 6 MB of all."""
    message = replies(blobs, [1.0], arrays=30)[0]
    tracemalloc.start()
    try:
        sha = blobs.write(to_content(message.content).pieces())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert blobs.read(sha)


def test_metrics_and_settings_come_back_beside_stored_arrays(blobs: BlobStore) -> None:
    content = Content(
        arrays={"arrays": ARRAYS},
        metrics={"metrics": {"num-examples": 1}},
        configs={"config": {"on": True, "raw": b"\0"}},
    )
    sha = blobs.write(content.pieces())
    records = read_records(blobs.checked(sha), sha)
    assert records.metric_records["metrics"] == MetricRecord({"num-examples": 1})
    assert records.config_records["config"] == ConfigRecord({"on": True, "raw": b"\0"})
    assert to_content(records).to_bytes() == content.to_bytes()


def nested(size_bytes: int) -> bytes:
    """A reply that is nothing but a header, of lists within a list."""
    values = ",".join(["[]"] * (size_bytes // 3))
    inner = '{"order":{},"metrics":{},"configs":{"c":{"v":[' + values + "]}}}"
    head = json.dumps({"__metadata__": {"hansa": inner}}).encode()
    return len(head).to_bytes(8, "little") + head


def asked(blobs: BlobStore, content: Content, phase: str) -> TaskRow:
    return TaskRow(phase=phase, content_sha256=blobs.write(content.pieces()))


MODEL = Content(arrays={"arrays": ARRAYS}, configs={"config": {"server-round": 1}})
CODECS = [
    {"uplink_bits": up, "downlink_bits": down, "zstd": up == 32}
    for up, down in itertools.product((4, 8, 32), (4, 8, 32))
]


class TestWhatAReplyMayCostTheServer:
    """A header that is parsed takes thirty times its length, and a restart reads it again."""

    @pytest.mark.parametrize("codec", [{}, {"uplink_bits": 8}], ids=["plain", "coded"])
    @pytest.mark.parametrize(
        ("phase", "size_bytes"),
        [("train", 100_000), ("train", 15 << 20), ("evaluate", 2 << 20)]
        + [(stage, 2 << 20) for stage in sorted(LIGHT_STAGES)],
    )
    def test_a_huge_header_is_refused_unread(
        self, blobs: BlobStore, codec: dict[str, int], phase: str, size_bytes: int
    ) -> None:
        plane = PlaneCodec(toy_plan(codec=codec).federation, blobs)
        row, sha = asked(blobs, MODEL, phase), blobs.write([nested(size_bytes)])
        path = blobs.checked(sha)
        tracemalloc.start()
        try:
            with pytest.raises(UpdateRejectedError, match=r"header .* where at most"):
                plane.read(row, path, sha)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("codec", CODECS, ids=str)
    def test_an_honest_update_of_many_small_arrays_is_taken(
        self, blobs: BlobStore, codec: dict[str, int | bool]
    ) -> None:
        """A coded update's header is long beside its model's where arrays are small and many."""
        federation = toy_plan(codec=codec).federation
        shapes = [(), (1,), (1, 1, 1, 1, 1, 1, 1, 1), (9, 0), (3, 5)]
        model = {str(at): np.ones(shapes[at % 5], np.float32) for at in range(1500)}
        spent = ContentCodec.of(federation, "train")
        task = spent.encode_down(Content(arrays={"arrays": model}))
        base = spent.lowered(model)
        reply = Content(
            arrays={"arrays": base}, metrics={"metrics": {f"loss-{at}": 0.1 for at in range(500)}}
        )
        sent, _ = spent.encode_up(reply, base, residual={}, entropy=SeededEntropy())
        sha = blobs.write(sent.pieces())
        plane = PlaneCodec(federation, blobs)
        records = plane.read(asked(blobs, task, "train"), blobs.checked(sha), sha)
        assert list(records.array_records["arrays"]) == list(model)
        np.testing.assert_allclose(records.array_records["arrays"]["4"].numpy(), base["4"])

    def test_where_no_model_is_known_a_large_ones_names_still_pass(self, blobs: BlobStore) -> None:
        """20,000 arrays with names as those of large language models."""
        arrays = {
            f"model.layers.{at // 9}.self_attn.q_proj.{at % 9}": np.zeros((64, 64, 0), np.float32)
            for at in range(20_000)
        }
        sha = blobs.write(Content(arrays={"arrays": arrays}).pieces())
        assert len(read_records(blobs.checked(sha), sha).array_records["arrays"]) == 20_000
        sha = blobs.write([nested(MAX_REPLY_HEADER_BYTES)])
        with pytest.raises(UpdateRejectedError, match=r"header .* where at most"):
            read_records(blobs.checked(sha), sha)

    def test_a_foreign_apps_reply_is_bounded_too(self, blobs: BlobStore, tmp_path: Path) -> None:
        grid = foreign_grid(tmp_path, blobs)
        for number, data in enumerate((honest_answer(), nested(15 << 20)), 1):
            (task,) = grid.push_messages([query(grid)])
            sha = blobs.write([data])
            grid._plane.tasks.complete(task, "mill", Result(sha256=sha, size_bytes=len(data)))
            (message,) = grid.pull_messages([task])
            assert message.has_error() == (number == 2)
        assert "header" in str(message.error.reason)


def foreign_grid(tmp_path: Path, blobs: BlobStore) -> AppGrid:
    """The Grid of a ServerApp whose one merchant is online."""
    engine = open_database(tmp_path / "hansa.db")
    members, runs = Members(engine, lambda: 1000.0), Runs(engine, lambda: 1000.0)
    plan = FlowerPlan(name="apps", server_app="shop:server", client_app="shop:client")
    run = RunId("apps-0001")
    runs.queue(run, plan, b"")
    members.invite(MerchantId("mill"), serial="1", expires=9e9)
    members.join(MerchantId("mill"), Joining(
        request_sha256="r" * 64, certificate_der=b"c", certificate_expires=9e9,
        ledger_public_key=b"k" * 32,
    ))  # fmt: skip
    members.open_session(MerchantId("mill"), "test")
    plane = Plane(members=members, tasks=Tasks(engine), blobs=blobs, switchboard=Switchboard())
    adopt_identity()
    script, rounds = (
        AppScript(run, Journal(engine, lambda: 1000.0)),
        AppRounds(run, runs, plan.quorum),
    )
    return AppGrid(run, plan, plane, script, rounds, lambda: False)


def query(grid: AppGrid):
    (node,) = grid.get_node_ids()
    records = RecordDict({"config": ConfigRecord({"ask": 1})})
    return grid.create_message(records, "query", node, "")


def honest_answer() -> bytes:
    content = Content(metrics={"metrics": {"shoppers": 3}})
    return seal(content, Envelope(message_type="query")).to_bytes()
