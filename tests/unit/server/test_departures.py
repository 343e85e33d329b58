"""Leaving ends a membership once, its receipt is one, and what is owed follows the log."""

import hashlib

import pytest

from hansa.core.errors import ConflictError, UnauthorisedError
from hansa.core.ids import MerchantId
from hansa.core.transparency.holdings import LoggedReleases, newest, newest_without
from hansa.core.transparency.leaves import AggregateLeaf, MemberLeaf, ReleaseLeaf
from hansa.protos.v1 import operator_pb2 as pb
from hansa.server.leave_cli import to_do
from hansa.server.plane.leaving import spent_of
from hansa.server.roll_back import roll_back
from hansa.server.state.database import open_database
from hansa.server.state.departures import Departures
from tests.fakes.log_world import NOW, LogWorld
from tests.fakes.release_world import CHANNEL, TODAY, ReleaseWorld

HARBOUR = b"certificate of harbour"


@pytest.fixture
def engine(database):
    engine = open_database(database)
    yield engine
    engine.dispose()


@pytest.fixture
def world(engine):
    world = LogWorld(engine)
    world.join("harbour")
    return world


@pytest.fixture
def departures(world, engine):
    return Departures(engine, NOW.timestamp)


def leave(departures, certificate=HARBOUR, remedy="roll-back"):
    return departures.leave("harbour", remedy, certificate_der=certificate, notice=None)


def test_the_membership_ends_with_the_fact_for_the_log(world, departures) -> None:
    row = leave(departures)
    assert row.certificate_sha256 == hashlib.sha256(HARBOUR).hexdigest()
    with pytest.raises(UnauthorisedError, match="not a member"):
        world.members.check_member("harbour", HARBOUR)
    world.scribe.catch_up()
    facts = [leaf.change for leaf in world.leaves() if isinstance(leaf, MemberLeaf)]
    assert facts == ["joined", "left"]


def test_a_log_that_begins_after_the_leaving_states_it(world, departures, engine) -> None:
    leave(departures)
    world.scribe.catch_up()
    assert world.kinds()[0] == "begin"
    assert world.leaves()[-1].change == "left"


def test_the_first_choice_counts_whatever_is_asked_later(departures) -> None:
    leave(departures)
    assert leave(departures, remedy="stated-bound").remedy == "roll-back"
    assert len(departures.everyone()) == 1


def test_of_two_receipts_the_first_one_counts(departures) -> None:
    row = leave(departures)
    assert departures.keep_receipt(row, b"first") == b"first"
    assert departures.keep_receipt(row, b"second") == b"first"
    found = departures.find("harbour", HARBOUR)
    assert found is not None
    assert found.receipt == b"first"


def test_somebody_elses_certificate_ends_nothing(world, departures) -> None:
    world.join("market")
    with pytest.raises(UnauthorisedError, match="replaced"):
        leave(departures, b"certificate of market")
    assert departures.find("harbour", b"certificate of market") is None
    world.members.check_member("harbour", HARBOUR)


def test_both_certificates_of_a_renewal_name_the_same_departure(world, departures) -> None:
    world.members.renew("harbour", b"newer", 9e12)
    row = leave(departures)
    assert departures.find("harbour", b"newer").time == row.time
    assert departures.find("harbour", HARBOUR).time == row.time


def test_a_merchant_that_was_revoked_leaves_by_notice_and_an_invited_one_does_not(
    world, departures
) -> None:
    world.members.revoke("harbour")
    with pytest.raises(UnauthorisedError):
        leave(departures)
    assert leave(departures, None).remedy == "roll-back"
    world.members.invite(MerchantId("nobody"), serial="2", expires=9e12)
    with pytest.raises(ConflictError):
        departures.leave("nobody", "roll-back", certificate_der=None, notice=None)


def test_revoking_somebody_who_has_left_makes_no_second_departure(world, departures) -> None:
    leave(departures)
    world.members.revoke("harbour")
    leave(departures, None)
    assert len(departures.everyone()) == 1


def test_what_was_spent_is_that_of_the_copy_and_a_copy_of_nothing_says_nothing(world) -> None:
    entries = tuple(world.book("harbour", 2))
    spent = spent_of(entries)
    assert spent is not None
    assert (spent.epsilon, spent.place.entries, spent.place.head) == ("0.00", 2, entries[1].hash)
    assert spent_of(()) is None


def release(version: int, run: str, **more: int) -> ReleaseLeaf:
    return ReleaseLeaf(
        channel="stable",
        version=version,
        run=run,
        manifest_sha256=f"{version:064x}",
        created=f"2026-12-{version:02d}T00:00:00.000000Z",
        **more,
    )


def test_the_newest_release_without_a_merchant_is_where_a_roll_back_goes() -> None:
    releases = [release(1, "before"), release(2, "with"), release(3, "child", parent=2)]
    with_it = LoggedReleases.of([*releases, aggregate("with")])
    assert newest(with_it) == {"stable": 3}
    assert newest_without(with_it, "harbour") == {"stable": 1}


def aggregate(run: str) -> AggregateLeaf:
    return AggregateLeaf(run=run, round=1, inputs={"harbour": "1" * 64}, began={})


@pytest.mark.parametrize(
    ("remedy", "without", "expected"),
    [
        ("roll-back", 2, "stable 3 holds its updates: roll-back 2"),
        (
            "roll-back",
            0,
            "stable 3 holds its updates, and so do all before it: release a new run that begins "
            "with base-model",
        ),
        (
            "retrain-without",
            2,
            "stable 3 holds its updates: release a new run that begins with base-model",
        ),
    ],
)
def test_the_operator_is_told_what_to_do(remedy, without, expected) -> None:
    channel = pb.ChannelState(
        channel="stable", newest_version=3, newest_holds=True, newest_without=without
    )
    assert to_do(pb.Obligation(remedy=remedy, open=True, channels=[channel])) == expected
    assert to_do(pb.Obligation(remedy=remedy, open=False, channels=[channel])) == "nothing"


def test_a_roll_back_is_published_and_stands_in_the_log_once(world, engine, tmp_path) -> None:
    releases = ReleaseWorld(tmp_path / "releases")
    releases.release(1)
    releases.release(2)
    assert roll_back(releases.repository, engine, CHANNEL, 1, TODAY) == 3
    assert roll_back(releases.repository, engine, CHANNEL, 1, TODAY) == 3, "an interrupted one"
    world.scribe.catch_up()
    found = [leaf for leaf in world.leaves() if isinstance(leaf, ReleaseLeaf)]
    assert [(one.version, one.restores) for one in found] == [(3, 1)]
    with pytest.raises(ConflictError):
        roll_back(releases.repository, engine, CHANNEL, 3, TODAY)
