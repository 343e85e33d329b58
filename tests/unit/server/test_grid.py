"""Flower's Grid over the plane's own tables, with a clock that the test moves."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord

from hansa.core.ids import MerchantId, RunId
from hansa.core.plan import parse_plan
from hansa.core.storage import BlobStore
from hansa.server.rounds.flower import adopt_identity
from hansa.server.rounds.grid import GrpcGrid, Plane
from hansa.server.rounds.strategies import make_strategy
from hansa.server.state.database import open_database
from hansa.server.state.members import Joining, Members
from hansa.server.state.tasks import Tasks
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
