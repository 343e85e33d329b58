"""The last step of a release: asked for a last time, and once for each run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hansa.core.storage import BlobStore
from hansa.server.models import ModelRoom
from hansa.server.releasing import Releaser
from hansa.server.rounds.loop import RunInterrupted
from hansa.server.rounds.worker import Published
from hansa.server.settings import ServerSettings, StateFolder
from tests.fakes.release_world import CHANNEL, TODAY, ReleaseWorld, manifest_of

FILES = {"model.onnx": b"model"}


class Desk:
    """A server that has built the artifact of ``run-1``, beside others at one repository."""

    def __init__(self, folder: Path) -> None:
        self.world = ReleaseWorld(folder / "world")
        state, blobs = StateFolder(folder / "server"), BlobStore(folder / "blobs")
        models = ModelRoom(ServerSettings(address="127.0.0.1:1", base_models={}), folder / "cache")
        self._releaser = Releaser(state, self.world.repository, models, blobs)

    def publish(self, go_on: Callable[[], None]) -> Published:
        return self._releaser._publish(
            self.world.artifact(FILES, 0),
            lambda: manifest_of(FILES, self.world.repository.next_version(CHANNEL)),
            go_on,
        )

    def other_publishes(self, run: str) -> None:
        """Another server is quicker, with an artifact of its own."""
        files = {"model.onnx": b"another"}
        manifest = manifest_of(files, self.world.repository.next_version(CHANNEL), run=run)
        self.world.repository.publish(self.world.artifact(files, 9), manifest, TODAY)

    def runs(self) -> list[str]:
        repository = self.world.repository
        return [repository.manifest(CHANNEL, one).run for one in repository.versions(CHANNEL)]


@pytest.fixture
def desk(tmp_path) -> Desk:
    return Desk(tmp_path)


def once(act: Callable[[], None]) -> Callable[[], None]:
    acts = [act]
    return lambda: acts.pop()() if acts else None


def test_a_run_that_is_to_end_is_not_published(desk: Desk) -> None:
    def stopped() -> None:
        raise RunInterrupted

    with pytest.raises(RunInterrupted):
        desk.publish(stopped)
    assert desk.runs() == []


def test_a_number_that_another_run_has_taken_meanwhile_is_followed_by_the_next(desk: Desk) -> None:
    published = desk.publish(once(lambda: desk.other_publishes("run-2")))
    assert published.version == 2
    assert desk.runs() == ["run-2", "run-1"]


def test_a_run_that_another_server_has_published_meanwhile_is_not_published_twice(
    desk: Desk,
) -> None:
    published = desk.publish(once(lambda: desk.other_publishes("run-1")))
    assert published.version == 1
    assert desk.runs() == ["run-1"]
