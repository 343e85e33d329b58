"""What every blob store promises: on this disk alone, or shared through fsspec."""

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.ids import Sha256
from hansa.core.storage import CHUNK_BYTES, BlobStore
from hansa.server.blobs import Remote, RemoteBlobs
from tests.fakes.object_store import ObjectStore, running_object_store

KINDS = ("local", "file", "memory", "s3")
ABSENT = Sha256("0" * 64)


@pytest.fixture(scope="module")
def object_store() -> Iterator[ObjectStore]:
    with running_object_store() as store:
        yield store


@pytest.fixture(params=KINDS)
def blobs(request, tmp_path) -> BlobStore:
    if request.param == "local":
        return BlobStore(tmp_path / "blobs")
    urls = {
        "file": lambda: f"file://{tmp_path}/shared",
        "memory": lambda: f"memory://{uuid.uuid4().hex}",
        "s3": lambda: request.getfixturevalue("object_store").url(uuid.uuid4().hex),
    }
    remote = Remote(urls[request.param]())
    return RemoteBlobs(tmp_path / "blobs", remote, limit_bytes=1 << 30, clock=time.time)


def part_of(tmp_path, data: bytes):
    path = tmp_path / "incoming.part"
    path.write_bytes(data)
    return path


def test_a_blob_is_named_by_its_digest_and_stored_once(blobs) -> None:
    assert blobs.put(b"hello") == blobs.put(b"hello") == sha256_hex(b"hello")
    assert [blob.sha for blob in blobs.stored()] == [sha256_hex(b"hello")]


def test_what_was_put_is_read_whole_in_pieces_and_in_place(blobs) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    sha = blobs.put(data)
    assert blobs.has(sha)
    assert blobs.size(sha) == len(data)
    assert blobs.read(sha) == data
    assert b"".join(blobs.chunks(sha, 3)) == data[3:]
    assert blobs.checked(sha).read_bytes() == data


def test_pieces_make_one_blob(blobs) -> None:
    sha = blobs.write([b"he", memoryview(b"ll"), b"o"])
    assert (sha, blobs.read(sha)) == (sha256_hex(b"hello"), b"hello")


def test_a_whole_file_is_taken_over(blobs, tmp_path) -> None:
    path = part_of(tmp_path, b"hello")
    sha = blobs.adopt(path)
    assert not path.exists()
    assert blobs.read(sha) == b"hello"
    assert blobs.adopt(part_of(tmp_path, b"hello"), sha) == sha


def test_an_empty_blob_is_a_blob(blobs) -> None:
    sha = blobs.put(b"")
    assert sha == hashlib.sha256(b"").hexdigest()
    assert (blobs.read(sha), blobs.size(sha), list(blobs.chunks(sha, 0))) == (b"", 0, [])


def test_what_is_not_there_is_not_found(blobs) -> None:
    assert not blobs.has(ABSENT)
    assert blobs.find(ABSENT) is None
    for ask in (blobs.size, blobs.read, blobs.checked, lambda sha: list(blobs.chunks(sha, 0))):
        with pytest.raises(NotFoundError):
            ask(ABSENT)


def test_what_was_dropped_is_gone_and_dropping_twice_does_no_harm(blobs) -> None:
    sha = blobs.put(b"hello")
    for _attempt in range(2):
        blobs.drop(sha)
        assert not blobs.has(sha)
    with pytest.raises(NotFoundError):
        blobs.read(sha)
    assert blobs.read(blobs.put(b"hello")) == b"hello"


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 63, "A" * 64])
def test_only_a_digest_names_a_blob(blobs, name) -> None:
    for ask in (blobs.has, blobs.read, blobs.drop, blobs.find):
        with pytest.raises(InvalidInputError):
            ask(name)


@pytest.mark.parametrize("offset", [-1, 6])
def test_an_offset_outside_the_blob_is_refused(blobs, offset) -> None:
    sha = blobs.put(b"hello")
    with pytest.raises(InvalidInputError, match="outside"):
        list(blobs.chunks(sha, offset))


def test_a_listing_says_how_large_and_how_old(blobs) -> None:
    before = time.time()
    shas = {blobs.put(bytes(size)): size for size in (1, 10, 100)}
    listed = {blob.sha: blob for blob in blobs.stored()}
    assert {sha: blob.size_bytes for sha, blob in listed.items()} == shas
    for sha, blob in listed.items():
        found = blobs.find(sha)
        assert abs(found.stored - blob.stored) < 2.0
        assert abs(blob.stored - before) < 60.0


def test_the_same_bytes_from_many_threads_are_one_whole_blob(blobs) -> None:
    data, barrier = os.urandom(300_000), threading.Barrier(6)

    def put_and_read(_number: int) -> bytes:
        barrier.wait()
        return blobs.read(blobs.put(data))

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(put_and_read, range(6))) == {data}
    assert len(list(blobs.stored())) == 1
