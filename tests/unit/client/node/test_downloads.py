"""What a task's blobs are on a site."""

from pathlib import Path

import numpy as np
import pytest

from hansa.client.node.downloads import Downloads
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.storage import BlobStore
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb

MODEL = Content(arrays={"arrays": {"weights": np.arange(3, dtype=np.float32)}})
SETTINGS = Content(configs={"config": {"server-round": 2}})
CONTEXT = Content(arrays={"public": {"negatives": np.zeros(2)}})


class Line:
    """Stands for the wire: puts what the server has into the store, and counts."""

    def __init__(self, *contents: Content) -> None:
        self._blobs = {sha256_hex(data): data for data in (one.to_bytes() for one in contents)}
        self.fetched = 0

    def download(self, _task_id: str, blob: common.BlobRef, store: BlobStore) -> Path:
        if not store.has(blob.sha256):
            self.fetched += 1
            store.put(self._blobs[blob.sha256])
        return store.path(blob.sha256)


def ref(content: Content) -> common.BlobRef:
    data = content.to_bytes()
    return common.BlobRef(sha256=sha256_hex(data), size_bytes=len(data))


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads(BlobStore(tmp_path / "contexts"))


def task(content: Content = MODEL, **fields: object) -> pb.Task:
    return pb.Task(task_id="t", content=ref(content), **fields)


def test_content_and_settings_are_one_message(downloads) -> None:
    data = downloads.content(task(settings=SETTINGS.to_bytes()), Line(MODEL))
    assert data == Content.merged([MODEL, SETTINGS]).to_bytes()


def test_a_content_that_holds_all_is_taken_as_it_is(downloads) -> None:
    """So does a server of version 1.0 send it."""
    assert downloads.content(task(), Line(MODEL)) == MODEL.to_bytes()


@pytest.mark.parametrize("settings", [b"x", MODEL.to_bytes()[:20]])
def test_settings_that_are_no_message_are_refused(downloads, settings: bytes) -> None:
    with pytest.raises(InvalidInputError):
        downloads.content(task(settings=settings), Line(MODEL))


def test_a_context_is_fetched_once_for_all_tasks(downloads) -> None:
    line = Line(MODEL, SETTINGS, CONTEXT)
    for content in (MODEL, SETTINGS):
        contents = downloads.all(task(content, context=ref(CONTEXT)), line)
        assert contents == [content.to_bytes(), CONTEXT.to_bytes()]
    assert line.fetched == 3


def test_the_last_tasks_content_and_what_broke_off_make_room(downloads, tmp_path: Path) -> None:
    folder = tmp_path / "contexts" / "tasks"
    line = Line(MODEL, SETTINGS)
    downloads.content(task(MODEL), line)
    (folder / f"{'0' * 64}.part").write_bytes(b"half of something")
    downloads.content(task(SETTINGS), line)
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [ref(SETTINGS).sha256]


def test_the_part_of_the_same_content_stays(downloads, tmp_path: Path) -> None:
    part = tmp_path / "contexts" / "tasks" / f"{ref(MODEL).sha256}.part"
    part.write_bytes(b"half of it")
    downloads.content(task(MODEL), Line(MODEL))
    assert part.exists()


@pytest.mark.parametrize("settings", [b"", SETTINGS.to_bytes()])
def test_a_content_or_context_of_no_bytes_is_refused(downloads, settings: bytes) -> None:
    nothing = common.BlobRef(sha256=sha256_hex(b""), size_bytes=0)
    for broken in (
        pb.Task(task_id="t", content=nothing, settings=settings),
        task(context=nothing, settings=settings),
    ):
        with pytest.raises(InvalidInputError, match="empty"):
            downloads.all(broken, Line(MODEL))


def test_a_content_whose_name_is_no_digest_is_refused(downloads) -> None:
    named = pb.Task(task_id="t", content=common.BlobRef(sha256="../up", size_bytes=1))
    with pytest.raises(InvalidInputError):
        downloads.content(named, Line())
