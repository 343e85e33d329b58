"""Flower's Grid over the plane's own tables, with a clock that the test moves."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from hansa.core.content import Content
from hansa.core.errors import NotFoundError
from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import parse_plan
from hansa.core.storage import BlobStore
from hansa.server.rounds.checkpoints import load_arrays, store_arrays
from hansa.server.rounds.flower import adopt_identity
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.records import array_record
from hansa.server.rounds.strategies import make_strategy
from hansa.server.state.database import open_database
from hansa.server.state.members import Joining, Members
from hansa.server.state.runs import Runs
from hansa.server.state.tasks import Result, Tasks
from hansa.server.switchboard import Switchboard

NAMES = ("harbour", "market", "mill")
PLAN = parse_plan(
    {
        "name": "plan",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 3, "quorum": 2},
    },
    "plan",
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def grid(tmp_path, clock):
    """A grid whose three merchants have just been heard of."""
    engine = open_database(tmp_path / "hansa.db")
    Runs(engine, clock).queue(RunId("run"), PLAN, b"")
    members = Members(engine, clock)
    for name in map(MerchantId, NAMES):
        members.invite(name, serial="1", expires=9e9)
        members.join(name, Joining(
            request_sha256="r" * 64, certificate_der=b"c", certificate_expires=9e9,
            ledger_public_key=b"k" * 32,
        ))  # fmt: skip
        members.open_session(name, "test")
    blobs = BlobStore(tmp_path / "blobs")
    plane = Plane(members=members, tasks=Tasks(engine), blobs=blobs, switchboard=Switchboard())
    adopt_identity()
    yield GrpcGrid(RunId("run"), plane)
    engine.dispose()


def configured(grid) -> list[int]:
    record = ArrayRecord({"weights": Array(np.zeros(2, np.float32))})
    strategy = make_strategy(PLAN.federation)
    messages = strategy.configure_train(1, record, ConfigRecord(), grid)
    return sorted(message.metadata.dst_node_id for message in messages)


@pytest.mark.timeout(20)
def test_a_merchant_that_goes_offline_while_a_round_begins_does_not_hold_it_up(grid, clock) -> None:
    """Flower would wait for it without an end; it is asked, and passed over at the deadline."""
    grid.begin(1, "train")
    clock.now += 60.0
    assert configured(grid) == [1, 2, 3]


def test_the_next_round_asks_whoever_is_there_then(grid, clock) -> None:
    grid.begin(1, "train")
    clock.now += 60.0
    grid.begin(2, "train")
    assert grid.get_node_ids() == []


def test_whose_budget_is_spent_is_not_asked_in_the_next_round(grid) -> None:
    grid.exclude([MerchantId("market")])
    grid.begin(2, "train")
    assert configured(grid) == [1, 3]


def posted(grid, model) -> list:
    """The rows of a round whose strategy sends this model."""
    grid.begin(1, "train")
    strategy = make_strategy(PLAN.federation)
    messages = strategy.configure_train(1, array_record(model), ConfigRecord(), grid)
    return grid._plane.tasks.states(grid.post(messages, timeout=10.0))


def test_a_model_that_is_stored_is_sent_as_it_is_and_stored_once(grid) -> None:
    blobs = grid._plane.blobs
    sha = store_arrays(blobs, {"weights": np.zeros(2, np.float32)})
    rows = posted(grid, load_arrays(blobs, sha))
    assert {row.content_sha256 for row in rows} == {sha}
    settings = Content.from_bytes(rows[0].settings)
    assert settings.configs["config"]["server-round"] == 1
    assert [path.name for path in blobs.folder.rglob("*") if path.is_file()] == [sha]


def test_any_other_model_is_stored_whole_and_once_for_all(grid) -> None:
    rows = posted(grid, {"weights": np.ones(2, np.float32)})
    (sha,) = {row.content_sha256 for row in rows}
    assert {row.settings for row in rows} == {None}
    content = Content.from_bytes(grid._plane.blobs.read(sha))
    assert content.configs["config"]["server-round"] == 1
    np.testing.assert_array_equal(content.arrays["arrays"]["weights"], [1.0, 1.0])


def test_a_reply_whose_bytes_this_server_did_not_hash_itself_is_checked_once(grid) -> None:
    """After a restart the disk may have decayed; within a process the incoming hash holds."""
    blobs, tasks = grid._plane.blobs, grid._plane.tasks
    row = posted(grid, {"weights": np.ones(2, np.float32)})[0]
    sha = store_arrays(blobs, {"weights": np.zeros(2, np.float32)})
    tasks.complete(row.task_id, row.merchant, Result(sha256=sha, size_bytes=blobs.size(sha)))
    (done,) = tasks.states([row.task_id])
    data = blobs.path(sha).read_bytes()
    blobs.path(sha).write_bytes(data[:-1] + b"?")
    assert not grid.reply(done).has_error()
    restarted = BlobStore(blobs.folder)
    grid._plane = replace(grid._plane, blobs=restarted)
    with pytest.raises(NotFoundError, match="damaged"):
        grid.reply(done)
