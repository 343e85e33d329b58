"""Cleaning up: what anything still needs stays, what is over goes, on either database."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from hansa.core.ids import MerchantId, RunId, Sha256, task_id
from hansa.core.plan import parse_plan
from hansa.core.storage import BlobStore
from hansa.server import housekeeping
from hansa.server.blobs import Remote, RemoteBlobs
from hansa.server.releases.keys import load_online_keys
from hansa.server.releases.repository import ReleaseRepository
from hansa.server.settings import ServerSettings, StateFolder
from hansa.server.state.database import open_database, writing
from hansa.server.state.references import BlobReferences, References
from hansa.server.state.runs import RoundRecord, Runs
from hansa.server.state.tables import RunRow
from hansa.server.state.tasks import NewTask, Result, Tasks
from hansa.server.state.uploads import Deliveries
from tests.fakes.release_world import TODAY, ReleaseWorld, manifest_of

HARBOUR = MerchantId("harbour")
DAY = 86_400.0
NOW = 1_800_000_000.0
PLAN = parse_plan(
    {
        "name": "plan",
        "privacy": {"sampling_rate": 0.5, "expected_shoppers": 30, "noise_multiplier": 2.0},
        "federation": {"rounds": 9, "quorum": 1},
    },
    "plan",
)


@dataclass
class World:
    """A server's books and blobs; each blob is a word, and old enough to go."""

    runs: Runs
    tasks: Tasks
    deliveries: Deliveries
    blobs: BlobStore
    references: BlobReferences

    def blob(self, word: str) -> Sha256:
        sha = self.blobs.put(word.encode())
        os.utime(self.blobs.path(sha), (NOW - 30 * DAY,) * 2)
        return sha

    def words(self) -> set[str]:
        return {self.blobs.read(blob.sha).decode() for blob in self.blobs.stored()}

    def run(self, name: str, rounds: int, *, plan: dict | None = None) -> None:
        """A run with so many aggregated rounds and one more that is open."""
        self.runs.queue(RunId(name), PLAN, b"signed")
        if plan is not None:
            with writing(self.runs._engine) as session:
                session.execute(update(RunRow).where(RunRow.run_id == name).values(plan=plan))
        self.runs.note_context(name, self.blob(f"{name} context"))
        self.runs.enter(name, "running")
        for number in range(1, rounds + 1):
            self.round(name, number)
        self.post(name, rounds + 1)

    def round(self, name: str, number: int) -> None:
        update_sha = self.answer(name, number)
        self.runs.checkpoint(
            name,
            RoundRecord(
                number=number,
                cohort=[HARBOUR],
                accepted={HARBOUR: update_sha},
                refused={},
                aggregate_sha256=self.blob(f"{name} aggregate {number}"),
                seconds=1.0,
                down_bytes=1,
                up_bytes=1,
                strategy_sha256=self.blob(f"{name} strategy {number}"),
            ),
        )

    def post(self, name: str, number: int) -> str:
        task = task_id(RunId(name), number, "train", HARBOUR)
        content = self.blob(f"{name} content {number}")
        self.tasks.post([NewTask(
            task_id=task, run_id=RunId(name), round_number=number, phase="train",
            merchant=HARBOUR, content_sha256=content, content_bytes=1, deadline=9e9,
        )])  # fmt: skip
        return task

    def answer(self, name: str, number: int, word: str | None = None) -> Sha256:
        task = self.post(name, number)
        sha = self.blob(word or f"{name} update {number}")
        self.deliveries.note(HARBOUR, task, sha)
        self.tasks.complete(task, HARBOUR, Result(sha256=sha, size_bytes=1))
        return sha

    def end(self, name: str, at: float = NOW - 10 * DAY, state: str = "completed") -> None:
        self.runs._clock = lambda: at
        self.runs.enter(name, state)

    def clean(self, *, releases=(), models=(), dry_run=False) -> housekeeping.Cleaning:
        read = self.references.read(over_since=NOW - DAY, releases=releases)
        kept = set(models)
        references = References(needed=read.needed | kept, disposable=read.disposable - kept)
        return housekeeping.remove(self.blobs, references, older_than=NOW - DAY, dry_run=dry_run)


@pytest.fixture
def world(database, tmp_path):
    engine = open_database(database)
    yield World(
        runs=Runs(engine, lambda: NOW - 20 * DAY),
        tasks=Tasks(engine),
        deliveries=Deliveries(engine),
        blobs=BlobStore(tmp_path / "blobs"),
        references=BlobReferences(engine),
    )
    engine.dispose()


def named(run: str, kind: str, *numbers: int) -> set[str]:
    return {f"{run} {kind} {number}" for number in numbers}


class TestAFinishedRun:
    def test_leaves_its_last_aggregate_alone(self, world) -> None:
        world.run("old", 3)
        world.end("old")
        cleaning = world.clean()
        assert world.words() == {"old aggregate 3"}
        # 3 updates, 2 aggregates, 3 strategies' states, 4 contents, 1 context.
        assert (cleaning.blobs, cleaning.kept_blobs) == (13, 1)

    @pytest.mark.parametrize("state", ["failed", "stopped"])
    def test_is_cleaned_however_it_ended(self, world, state) -> None:
        world.run("old", 2)
        world.end("old", state=state)
        world.clean()
        assert world.words() == {"old aggregate 2"}

    def test_keeps_everything_for_a_day(self, world) -> None:
        world.run("fresh", 2)
        before = world.words() - named("fresh", "update", 1)
        world.end("fresh", at=NOW - DAY / 2)
        world.clean()
        assert world.words() == before

    def test_that_made_a_release_keeps_what_the_next_run_goes_on_from(self, world) -> None:
        world.run("old", 2)
        world.runs.note_release("old", 7)
        world.end("old")
        model = world.blob("the released model")
        world.clean(releases=[7], models=[model])
        assert world.words() == {"old aggregate 2", "old context", "the released model"}

    def test_what_an_unfinished_run_shares_with_it_stays(self, world) -> None:
        """The same public records, and by chance the same bytes as an update."""
        world.run("old", 2)
        world.end("old")
        world.run("new", 0)
        world.runs.note_context("new", world.blob("old context"))
        world.answer("new", 1, word="old update 1")
        world.clean()
        assert {"old context", "old update 1"} <= world.words()


class TestAnUnfinishedRun:
    def test_loses_only_updates_that_an_aggregate_has_taken_in(self, world) -> None:
        world.run("live", 4)
        before = world.words()
        world.clean()
        assert before - world.words() == named("live", "update", 1, 2, 3)

    def test_an_update_that_waits_for_its_round_stays(self, world) -> None:
        world.run("live", 2)
        world.answer("live", 3)
        world.clean()
        assert named("live", "update", 2, 3) <= world.words()

    def test_an_old_update_that_is_sent_once_more_stays(self, world) -> None:
        """A free rider's trick must not make the server delete what an open round needs."""
        world.run("live", 3)
        world.answer("live", 4, word="live update 1")
        world.clean()
        assert "live update 1" in world.words()

    def test_a_stale_update_belongs_to_the_round_that_took_it_in(self, world) -> None:
        """Asynchronous: the task of round 1 is part of aggregate 2."""
        world.run("live", 0)
        sha = world.answer("live", 1)
        for number, began in ((1, {}), (2, {HARBOUR: 1}), (3, {})):
            world.runs.checkpoint(
                "live",
                RoundRecord(
                    number=number,
                    cohort=[HARBOUR],
                    accepted={HARBOUR: sha} if number == 2 else {},
                    refused={},
                    aggregate_sha256=world.blob(f"live aggregate {number}"),
                    seconds=1.0,
                    down_bytes=1,
                    up_bytes=1,
                    began=began,
                ),
            )
        world.clean()
        assert "live update 1" not in world.words()
        assert named("live", "aggregate", 1, 2, 3) <= world.words()

    def test_a_flower_app_keeps_all_its_answers(self, world) -> None:
        """After a restart it is given them once more, from the first on."""
        world.run("app", 4, plan={"kind": "flower-app", "name": "app"})
        before = world.words()
        world.clean()
        assert world.words() == before


class TestOpenWork:
    def test_what_an_open_task_hands_out_stays_though_its_run_is_over(self, world) -> None:
        """Without it every subscription of the merchant that holds the task would break."""
        world.run("old", 1)
        world.end("old")
        task = world.post("old", 3)
        world.clean()
        assert {"old context", "old content 3"} <= world.words()
        world.tasks.expire([task])
        world.clean()
        assert world.words() == {"old aggregate 1"}


class TestCare:
    def test_a_dry_run_says_the_same_and_removes_nothing(self, world) -> None:
        world.run("old", 3)
        world.end("old")
        before = world.words()
        said = world.clean(dry_run=True)
        assert world.words() == before
        assert world.clean() == said

    def test_a_blob_that_nobody_names_stays(self, world) -> None:
        """It may be on its way into the database."""
        world.blob("an orphan")
        world.clean()
        assert world.words() == {"an orphan"}

    def test_a_young_blob_stays_whoever_named_it(self, world) -> None:
        world.run("old", 1)
        world.end("old")
        sha = world.blob("old context")
        os.utime(world.blobs.path(sha), (NOW - DAY / 2,) * 2)
        world.clean()
        assert "old context" in world.words()

    def test_a_blob_that_is_needed_again_after_the_listing_stays(self, world) -> None:
        world.run("old", 1)
        world.end("old")
        context = world.blob("old context")

        class Listed(BlobStore):
            """A run begins between the listing and the removal, with the same public records."""

            def stored(self):
                listing = list(super().stored())
                os.utime(self.path(context), (NOW, NOW))
                return iter(listing)

        world.blobs = Listed(world.blobs.folder)
        world.clean()
        assert "old context" in world.words()

    def test_cleaning_twice_removes_nothing_more(self, world) -> None:
        world.run("old", 2)
        world.end("old")
        world.run("live", 2)
        world.clean()
        assert world.clean().blobs == 0

    def test_what_servers_share_is_cleaned_at_its_place(self, world, tmp_path) -> None:
        remote = Remote(f"file://{tmp_path}/shared")
        blobs = RemoteBlobs(tmp_path / "cache", remote, limit_bytes=1 << 20, clock=time.time)
        world.blobs = blobs
        world.run("old", 2)
        world.end("old")
        for path in (tmp_path / "shared").glob("??/*"):
            os.utime(path, (NOW - 30 * DAY,) * 2)
        world.clean()
        assert [path.read_bytes() for path in (tmp_path / "shared").glob("??/*")] == [
            b"old aggregate 2"
        ]


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_nothing_that_is_referenced_is_ever_removed(tmp_path, data) -> None:
    """Against a second, plainer reading of the rule, over random books."""
    folder = tmp_path / "random"
    shutil.rmtree(folder, ignore_errors=True)
    engine = open_database(folder / "hansa.db")
    world = World(
        runs=Runs(engine, lambda: NOW - 20 * DAY),
        tasks=Tasks(engine),
        deliveries=Deliveries(engine),
        blobs=BlobStore(folder / "blobs"),
        references=BlobReferences(engine),
    )
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    must_stay: set[str] = set()
    for index, rounds in enumerate(sizes):
        name = f"run{index}"
        world.run(name, rounds)
        must_stay |= named(name, "aggregate", rounds) if rounds else set()
        if data.draw(st.booleans()):
            world.end(name)
            if data.draw(st.booleans()):
                world.runs.note_release(name, index + 1)
                must_stay |= {f"{name} context"}
            continue
        must_stay |= {f"{name} context"} | named(name, "content", *range(1, rounds + 2))
        must_stay |= named(name, "aggregate", *range(1, rounds + 1))
        must_stay |= named(name, "strategy", *range(1, rounds + 1))
        must_stay |= named(name, "update", rounds) if rounds else set()
        if data.draw(st.booleans()):
            # The open round is answered, perhaps with bytes that an earlier round had.
            other = data.draw(st.sampled_from([*range(1, rounds + 2)]))
            world.answer(name, rounds + 1, word=f"{name} update {other}")
            must_stay |= named(name, "update", other)
    world.clean(releases=range(1, len(sizes) + 1))
    assert must_stay <= world.words()
    engine.dispose()


def test_the_command_keeps_the_models_of_all_listed_releases(tmp_path: Path, database) -> None:
    """The whole way: settings, releases, database, blobs and the parts of uploads."""
    state = StateFolder(tmp_path / "server")
    releases = ReleaseWorld(tmp_path / "world")
    shutil.copytree(releases.repository_folder, state.releases)
    shutil.copytree(releases.online, state.release_keys)
    url = None if isinstance(database, Path) else database
    if url is None:
        state.database.parent.mkdir(parents=True, exist_ok=True)
    state.write(ServerSettings(address="127.0.0.1:1", base_models={}, database_url=url))
    engine = open_database(url or state.database)
    world = World(
        runs=Runs(engine, lambda: NOW - 20 * DAY),
        tasks=Tasks(engine),
        deliveries=Deliveries(engine),
        blobs=BlobStore(state.blobs),
        references=BlobReferences(engine),
    )
    world.run("old", 2)
    world.runs.note_release("old", 1)
    world.end("old")
    files = {"model.onnx": b"model"}
    manifest = manifest_of(files, 1, run="old", aggregate_sha256=world.blob("old update 1"))
    repository = ReleaseRepository(state.releases, load_online_keys(state.release_keys))
    repository.publish(releases.artifact(files, 1), manifest, TODAY)
    engine.dispose()
    said = housekeeping.clean(state, now=NOW, min_age_s=DAY, dry_run=True)
    done = housekeeping.clean(state, now=NOW, min_age_s=DAY, dry_run=False)
    assert said == done
    assert world.words() == {"old aggregate 2", "old context", "old update 1"}
