"""What the server's tables state stands in the log: once, in order, whatever dies when."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from hansa.core.signing import key_id_of
from hansa.core.transparency.checkpoint import SignedCheckpoint
from hansa.core.transparency.leaves import (
    AggregateLeaf,
    BeginLeaf,
    CohortLeaf,
    EntryLeaf,
    MemberLeaf,
    PlanLeaf,
)
from hansa.core.transparency.merkle import Tree, leaf_hash, verify_consistency, verify_inclusion
from hansa.server.state.database import open_database
from tests.fakes.log_world import NOW, PLAN_KEY, LogWorld


@pytest.fixture
def engine(database):
    engine = open_database(database)
    yield engine
    engine.dispose()


@pytest.fixture
def world(engine):
    return LogWorld(engine)


def roots_agree(world: LogWorld) -> bool:
    """Whether the signed root is that of the stored leaves."""
    tree = Tree(leaf_hash(body) for body in world.store.bodies(0, 10**6))
    checkpoint = world.checkpoint()
    return (checkpoint.size, checkpoint.root) == (len(tree), tree.root())


def test_an_empty_servers_log_begins_with_one_signed_leaf(world) -> None:
    note = world.scribe.catch_up()
    assert world.leaves() == [
        BeginLeaf(origin="hansa/log/test", time="2026-11-24T01:02:03.000004Z",
                  merchants=0, runs=0, entries=0)
    ]  # fmt: skip
    checkpoint = SignedCheckpoint.parse(note, "it").verify(key_id=key_id_of(PLAN_KEY))
    assert (checkpoint.size, checkpoint.root) == (1, leaf_hash(world.store.bodies(0, 1)[0]))


def test_each_fact_is_logged_once_and_in_the_order_of_its_cause(world) -> None:
    world.scribe.catch_up()
    world.join("harbour")
    world.queue()
    entries = world.book("harbour", 2)
    record = world.round(1)
    world.scribe.catch_up()
    world.runs.enter("run", "failed")
    world.scribe.catch_up()
    assert world.kinds() == [
        "begin", "member", "plan", "entry", "entry", "cohort", "aggregate", "ended",
    ]  # fmt: skip
    found = world.leaves()
    assert found[3] == EntryLeaf(merchant="harbour", position=0, hash=entries[0].hash)
    cohort, aggregate = found[5], found[6]
    assert isinstance(cohort, CohortLeaf)
    assert isinstance(aggregate, AggregateLeaf)
    assert cohort.asked == ("harbour", "market")
    assert cohort.refused == {"market": "deadline"}
    assert aggregate.inputs == dict(record.accepted)
    assert aggregate.output == record.aggregate_sha256
    assert roots_agree(world)


def test_looking_again_changes_nothing(world) -> None:
    world.join("harbour")
    world.queue()
    world.book("harbour", 3)
    world.round(1)
    first = world.scribe.catch_up()
    assert world.scribe.catch_up() == first
    assert world.new_scribe().catch_up() == first


def test_a_server_that_dies_at_any_statement_leaves_nothing_out_and_nothing_twice(world) -> None:
    world.scribe.catch_up()
    world.join("harbour")
    world.queue()
    world.book("harbour", 2)
    world.round(1)
    deaths = 0

    def die(*_: object) -> None:
        nonlocal budget
        budget -= 1
        if budget == 0:
            raise KeyboardInterrupt

    for at in range(1, 60):
        budget = at
        event.listen(world.engine, "before_cursor_execute", die)
        try:
            world.new_scribe().catch_up()
        except KeyboardInterrupt:
            deaths += 1
        finally:
            event.remove(world.engine, "before_cursor_execute", die)
        assert world.store.size() in (1, 5, 7)  # each page is whole or absent
        assert roots_agree(world)
    assert deaths >= 8
    assert world.kinds() == ["begin", "member", "plan", "entry", "entry", "cohort", "aggregate"]


def test_of_two_servers_at_one_database_one_writes_each_fact(world) -> None:
    scribes = [world.new_scribe() for _ in range(3)]
    world.join("harbour")
    with ThreadPoolExecutor(4) as pool:
        writer = pool.submit(lambda: [world.book("harbour", 1) for _ in range(20)])
        for _ in range(10):
            list(pool.map(lambda one: one.catch_up(), scribes))
        writer.result()
    world.scribe.catch_up()
    positions = [leaf.position for leaf in world.leaves() if isinstance(leaf, EntryLeaf)]
    assert positions == list(range(20))
    assert roots_agree(world)


def test_the_history_of_an_older_server_is_logged_at_its_first_start_in_one_order(world) -> None:
    for name in ("market", "harbour"):
        world.join(name)
        world.book(name, 2)
    world.members.revoke("market")
    world.queue()
    world.round(1)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM log_notes")  # as of a server without a log
    world.scribe.catch_up()
    begin = world.leaves()[0]
    assert isinstance(begin, BeginLeaf)
    assert (begin.merchants, begin.runs, begin.entries) == (2, 1, 4)
    told = [(leaf.merchant, leaf.change) for leaf in world.leaves() if isinstance(leaf, MemberLeaf)]
    assert told == [("harbour", "joined"), ("market", "joined"), ("market", "revoked")]
    assert world.kinds()[4:] == ["plan", *["entry"] * 4, "cohort", "aggregate"]
    assert roots_agree(world)


def test_a_long_history_is_logged_before_the_rounds_that_were_made_of_it(
    world, monkeypatch
) -> None:
    monkeypatch.setattr("hansa.server.transparency.facts.ENTRIES_AT_ONCE", 4)
    world.join("harbour")
    world.queue()
    world.book("harbour", 10)
    world.round(1)
    world.scribe.catch_up()
    assert world.kinds()[2:] == ["plan", *["entry"] * 10, "cohort", "aggregate"]


def test_a_membership_that_ends_and_begins_anew_is_told_in_full(world) -> None:
    world.scribe.catch_up()
    world.join("harbour")
    world.members.renew("harbour", b"a newer certificate", 9e12)
    world.members.revoke("harbour")
    world.join("harbour")
    world.scribe.catch_up()
    told = [leaf.change for leaf in world.leaves() if isinstance(leaf, MemberLeaf)]
    assert told == ["joined", "renewed", "revoked"]  # joined anew with the very first certificate


def test_a_result_costs_its_merchant_no_statement_for_the_log(world) -> None:
    world.join("harbour")
    world.scribe.catch_up()
    told: list[str] = []
    event.listen(
        world.engine, "before_cursor_execute",
        lambda _c, _cursor, statement, *_: told.append(statement),
    )  # fmt: skip
    world.book("harbour", 2)
    assert not [statement for statement in told if "log_" in statement]


def test_ten_results_are_logged_in_one_transaction_of_few_statements(world) -> None:
    world.join("harbour")
    world.scribe.catch_up()
    for _ in range(10):
        world.book("harbour", 2)
    told: list[str] = []
    event.listen(
        world.engine, "before_cursor_execute",
        lambda _c, _cursor, statement, *_: told.append(statement),
    )  # fmt: skip
    world.scribe.catch_up()
    writes = [one for one in told if one.lstrip().upper().startswith(("INSERT", "UPDATE"))]
    assert len(writes) <= 6
    assert world.store.size() == 22


def test_a_run_is_known_before_the_work_for_it(world) -> None:
    world.join("harbour")
    world.queue("a")
    world.scribe.catch_up()
    world.book("harbour", 1)
    world.queue("b")
    world.scribe.catch_up()
    plans = [at for at, leaf in enumerate(world.leaves()) if isinstance(leaf, PlanLeaf)]
    entries = [at for at, leaf in enumerate(world.leaves()) if isinstance(leaf, EntryLeaf)]
    assert plans[0] < entries[0]
    assert plans[1] < entries[0]


class TestProofs:
    def test_every_stored_entry_and_every_growth_is_proven(self, world) -> None:
        world.join("harbour")
        world.book("harbour", 30)
        world.scribe.catch_up()
        bodies = world.store.bodies(0, 100)
        tree = Tree(leaf_hash(body) for body in bodies)
        size = len(bodies)
        proven = world.store.inclusions([leaf_hash(body) for body in bodies], size)
        for index, body in enumerate(bodies):
            one = proven[leaf_hash(body)]
            assert one.index == index
            verify_inclusion(
                leaf_hash(body), index=index, size=size, proof=one.proof, root=tree.root()
            )
        for first in range(1, size + 1):
            proof = world.store.consistency(first, size)
            roots = {"first_root": tree.root(first), "second_root": tree.root()}
            verify_consistency(first, size, **roots, proof=proof)

    def test_a_leaf_that_came_later_is_not_in_the_smaller_log(self, world) -> None:
        world.join("harbour")
        world.book("harbour", 3)
        world.scribe.catch_up()
        last = leaf_hash(world.store.bodies(4, 5)[0])
        assert world.store.inclusions([last], 4) == {}
        assert world.store.inclusions([last], 5)[last].index == 4


def test_the_time_of_a_checkpoint_is_the_servers(world) -> None:
    world.scribe.catch_up()
    assert world.checkpoint().time == NOW.replace(microsecond=0)
