"""Killed at every durable write and every send, on either side: nothing is done or paid twice.

The points are not listed by hand. A first run without a death counts them; then each is a death of
its own, and pairs of them are two.
"""

import random
import shutil
from pathlib import Path

import pytest

from hansa.client.ledger_store import LEDGER_NAME, LedgerStore
from hansa.client.node.outbox import Outbox
from hansa.core.errors import HansaError
from hansa.core.privacy.accounting import epsilon_reference
from hansa.core.privacy.bodies import Commit, Release, Reserve
from hansa.core.privacy.entries import Entry
from hansa.core.privacy.ledger import Ledger
from hansa.core.privacy.plan import PrivacyPlan
from tests.integration.crash_world import MILL, PLAN, RUN, TASK, CrashWorld, Fuse

COST = epsilon_reference([PrivacyPlan.of(PLAN).round_event()], 1e-5)

WAYS = {
    "a small update in its message": {"inline": True},
    "a large update as an upload": {"inline": False},
    "a task that is given up once it is paid": {"gives_up": True},
}


class Stage:
    """Makes worlds that all begin alike."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch, self._count = folder, monkeypatch, 0
        CrashWorld(folder / "template", Fuse()).prepare()

    def play(self, at: set[int], **way: bool) -> CrashWorld:
        """A world in which somebody died at these points, after all came to its end."""
        self._count += 1
        folder = self._folder / str(self._count)
        shutil.copytree(self._folder / "template", folder)
        world = CrashWorld(folder, Fuse(at), **way)
        with world.lit(self._monkeypatch):
            world.carry_out()
        return world


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def check(world: CrashWorld) -> None:
    """What must hold whoever died, and wherever."""
    lines = (world.site.ledger / LEDGER_NAME).read_bytes().splitlines()
    ledger = Ledger([Entry.parse(line, "line") for line in lines])  # every signature and rule
    bodies = [entry.body for entry in ledger.entries]
    reserved = [body for body in bodies if isinstance(body, Reserve)]
    committed = [body for body in bodies if isinstance(body, Commit)]
    released = [body for body in bodies if isinstance(body, Release)]
    assert len(world.trainer.results) <= 1, "trained twice"
    assert len(reserved) == 1, "charged twice, or never"
    spent = 0.0 if released else COST
    assert ledger.spent_epsilon() == spent, "not what was spent"
    if world.trainer.results or committed:
        assert not released, "a refund of what was trained"
        assert all(body.sha256 == world.trainer.results[0] for body in committed), "other bytes"
    check_server(world, lines, committed)
    LedgerStore.open(world.site.ledger).close()
    assert Outbox(world.site.outbox).letters() == []


def check_server(world: CrashWorld, lines: list[bytes], committed: list[Commit]) -> None:
    """Its copy is a beginning of the book, and it aggregated the committed bytes or none, once."""
    server = world.server
    held = [line.encode() for line in server.copies.lines(MILL)]
    assert held == lines[: len(held)], "another book at the server"
    rounds = server.runs.rounds(RUN)
    row = world.row()
    if row.state == "done" and not row.reason:
        assert [body.sha256 for body in committed] == [row.result_sha256]
        assert [one.accepted for one in rounds] == [{MILL: row.result_sha256}]
        server.desk.check_booked(row, server.runs.terms(RUN), row.result_sha256)
    else:
        assert rounds == []
        assert row.task_id == TASK


@pytest.mark.parametrize("way", WAYS)
def test_without_a_death_the_task_is_done_once_and_every_point_is_passed(
    way: str, stage: Stage
) -> None:
    world = stage.play(set(), **WAYS[way])
    check(world)
    passed = set(world.fuse.passed)
    assert {"before entry", "after entry", "before fsync", "after replace"} <= passed
    if not WAYS[way].get("gives_up"):
        sends = {"before send of the result", "after send of the result", "before training"}
        assert {"before commit", "after commit", "before unlink", *sends} <= passed
        assert world.row().state == "done"


@pytest.mark.parametrize("way", WAYS)
def test_a_death_at_any_point_changes_nothing_that_was_promised(way: str, stage: Stage) -> None:
    points = len(stage.play(set(), **WAYS[way]).fuse.passed)
    assert points > 15
    for at in range(points):
        world = stage.play({at}, **WAYS[way])
        attempt(world, f"{way}, killed {world.fuse.passed[at]} (point {at})")


@pytest.mark.parametrize("way", WAYS)
def test_two_deaths_change_nothing_either(way: str, stage: Stage) -> None:
    """The second one often comes in the recovery from the first."""
    points = len(stage.play(set(), **WAYS[way]).fuse.passed)
    rng = random.Random(7)
    for _ in range(12):
        first = rng.randrange(points)
        pair = {first, first + rng.randrange(1, points)}
        world = stage.play(pair, **WAYS[way])
        attempt(world, f"{way}, killed at {sorted(pair)}")


def attempt(world: CrashWorld, where: str) -> None:
    try:
        check(world)
    except (AssertionError, HansaError) as error:
        raise AssertionError(f"{where}: {error}") from error
