import os
import stat

import pytest

from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, NotFoundError
from hansa.core.storage import CHUNK_BYTES, BlobStore, write_atomically


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


def test_a_blob_is_named_by_its_content_and_stored_once(blobs) -> None:
    first, second = blobs.put(b"hello"), blobs.put(b"hello")
    assert first == second == sha256_hex(b"hello")
    assert blobs.read(first) == b"hello"


def test_a_blob_is_read_from_any_offset_in_pieces(blobs) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    pieces = list(blobs.chunks(blobs.put(data), 3))
    assert b"".join(pieces) == data[3:]
    assert max(map(len, pieces)) == CHUNK_BYTES


@pytest.mark.parametrize("offset", [-1, 6])
def test_an_offset_outside_the_blob_is_refused(blobs, offset) -> None:
    with pytest.raises(InvalidInputError):
        list(blobs.chunks(blobs.put(b"hello"), offset))


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 65])
def test_only_a_digest_names_a_blob(blobs, name) -> None:
    with pytest.raises(InvalidInputError):
        blobs.path(name)


def test_a_blob_that_decayed_on_disk_is_not_handed_out(blobs) -> None:
    sha = blobs.put(b"hello")
    blobs.path(sha).write_bytes(b"jello")
    with pytest.raises(NotFoundError, match="damaged"):
        blobs.read(sha)


def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def power_cut(_descriptor) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_file_is_readable_by_its_owner_alone(tmp_path) -> None:
    write_atomically(tmp_path / "key", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
