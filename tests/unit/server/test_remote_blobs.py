"""Shared blobs and the cache of them: what is believed, what is evicted, what an outage does."""

import os
import time
from pathlib import Path

import pytest

from hansa.core.canonical import sha256_hex
from hansa.core.errors import InvalidInputError, NotFoundError, TransportError
from hansa.server.blobs import Remote, RemoteBlobs, open_blobs
from hansa.server.settings import ServerSettings, StateFolder

HOUR = 3600.0
DATA = b"an update of 400 bytes. ".ljust(400, b".")
SHA = sha256_hex(DATA)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shared(tmp_path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def server(tmp_path, shared, clock):
    """Makes the store of a server with a cache of its own."""

    def server(name: str, limit_bytes: int = 1 << 30) -> RemoteBlobs:
        remote = Remote(f"file://{shared}")
        return RemoteBlobs(tmp_path / name, remote, limit_bytes=limit_bytes, clock=clock)

    return server


def at(shared: Path, sha: str) -> Path:
    return shared / sha[:2] / sha


def cached(blobs: RemoteBlobs) -> set[str]:
    return {path.name for path in blobs.folder.glob("??/*")}


class TestSharing:
    def test_what_one_server_stored_another_reads(self, server) -> None:
        one, other = server("one"), server("other")
        one.put(DATA)
        assert other.has(SHA)
        assert other.size(SHA) == 400
        assert cached(other) == set()
        assert other.read(SHA) == DATA
        assert cached(other) == {SHA}

    def test_what_is_cached_needs_no_remote(self, server, shared) -> None:
        blobs = server("one")
        blobs.put(DATA)
        shared.rename(shared.with_name("away"))
        assert (blobs.has(SHA), blobs.size(SHA), blobs.read(SHA)) == (True, 400, DATA)

    def test_a_cache_that_decayed_is_fetched_again(self, server) -> None:
        blobs = server("one")
        blobs.put(DATA)
        (blobs.folder / SHA[:2] / SHA).write_bytes(b"rotten")
        assert blobs.read(SHA) == DATA
        assert server("one").checked(SHA).read_bytes() == DATA

    def test_strangers_files_in_the_shared_folder_are_no_blobs(self, server, shared) -> None:
        blobs = server("one")
        blobs.put(DATA)
        (shared / "README").write_text("blobs of the federation")
        (at(shared, SHA).parent / f"{SHA}.x.part").write_bytes(b"half")
        assert [blob.sha for blob in blobs.stored()] == [SHA]

    @pytest.mark.parametrize(
        "read",
        [
            lambda blobs: blobs.read(SHA),
            lambda blobs: blobs.checked(SHA),
            lambda blobs: list(blobs.chunks(SHA, 0)),
        ],
        ids=["whole", "in place", "in pieces"],
    )
    def test_a_tampered_object_is_an_error_that_names_it(self, server, shared, read) -> None:
        server("one").put(DATA)
        at(shared, SHA).write_bytes(DATA.replace(b"update", b"attack"))
        other = server("other")
        with pytest.raises(
            NotFoundError, match=f"blob {SHA} in file://.* does not have its digest"
        ):
            read(other)
        assert list(other.folder.rglob("*.*")) == []
        assert cached(other) == set()

    def test_a_tampered_object_does_not_touch_who_has_the_true_bytes(self, server, shared) -> None:
        blobs = server("one")
        blobs.put(DATA)
        at(shared, SHA).write_bytes(b"attack")
        assert blobs.read(SHA) == DATA


class TestAnOutage:
    @pytest.fixture
    def down(self, shared):
        """The place is there, but no folder: nothing can be written or read in it."""
        shared.write_bytes(b"")
        return shared

    def test_what_cannot_be_shared_is_an_error_and_works_later(self, server, down) -> None:
        blobs = server("one")
        with pytest.raises(TransportError, match="cannot be used"):
            blobs.put(DATA)
        down.unlink()
        assert blobs.put(DATA) == SHA
        assert server("other").read(SHA) == DATA

    def test_a_delivered_file_stays_where_it_is_until_it_is_shared(
        self, server, down, tmp_path
    ) -> None:
        blobs, part = server("one"), tmp_path / "upload.part"
        part.write_bytes(DATA)
        with pytest.raises(TransportError):
            blobs.adopt(part)
        assert part.read_bytes() == DATA
        down.unlink()
        assert blobs.adopt(part) == SHA
        assert server("other").read(SHA) == DATA

    def test_init_notices_it(self, down, tmp_path) -> None:
        with pytest.raises(TransportError, match="cannot be used"):
            Remote(f"file://{down}").probe(tmp_path)

    def test_a_probe_leaves_nothing_behind(self, shared, tmp_path) -> None:
        remote = Remote(f"file://{shared}")
        remote.probe(tmp_path)
        assert list(remote.stored()) == []
        assert [path for path in tmp_path.iterdir() if path != shared] == []


class TestTheCache:
    @staticmethod
    def numbered(number: int) -> bytes:
        return DATA[:-1] + bytes([number])

    def test_what_was_used_longest_ago_goes_first(self, server, clock) -> None:
        blobs = server("one", limit_bytes=1000)
        first, second = (blobs.put(self.numbered(number)) for number in (1, 2))
        clock.now += HOUR
        blobs.read(first)
        clock.now += HOUR
        third = blobs.put(self.numbered(3))
        assert cached(blobs) == {first, third}
        assert blobs.read(second) == self.numbered(2)

    def test_what_was_used_just_now_stays_beyond_the_limit(self, server, clock) -> None:
        blobs = server("one", limit_bytes=1000)
        shas = set()
        for number in range(1, 5):
            sha = blobs.put(self.numbered(number))
            blobs.read(sha)
            shas.add(sha)
        assert cached(blobs) == shas

    def test_what_a_round_reads_in_place_stays_for_a_day(self, server, clock) -> None:
        blobs = server("one", limit_bytes=1000)
        path = blobs.checked(blobs.put(self.numbered(1)))
        blobs.read(blobs.put(self.numbered(1)))
        for number in range(2, 6):
            clock.now += 5 * HOUR
            blobs.put(self.numbered(number))
            assert path.exists()
        for number in (8, 9):
            clock.now += 5 * HOUR
            blobs.put(self.numbered(number))
        assert not path.exists()

    def test_what_the_shared_place_lacks_or_has_in_part_never_goes(
        self, server, clock, shared
    ) -> None:
        blobs = server("one", limit_bytes=500)
        lost, cut, whole = (blobs.put(self.numbered(number)) for number in (1, 2, 3))
        at(shared, lost).unlink()
        at(shared, cut).write_bytes(b"half")
        clock.now += 365 * 24 * HOUR
        last = blobs.put(self.numbered(4))
        assert whole not in cached(blobs)
        assert {lost, cut} <= cached(blobs)
        assert blobs.read(last) == self.numbered(4)

    def test_an_unfinished_transfer_never_goes(self, server, clock) -> None:
        blobs = server("one", limit_bytes=0)
        part = blobs.folder / ".0123.part"
        part.write_bytes(b"on its way")
        os.utime(part, (0, 0))
        blobs.put(DATA)
        clock.now += 365 * 24 * HOUR
        blobs.put(self.numbered(1))
        assert part.exists()

    def test_what_another_process_left_in_the_folder_counts(self, server, clock) -> None:
        for number in (1, 2, 3):
            server("one").put(self.numbered(number))
        clock.now += 365 * 24 * HOUR
        blobs = server("one", limit_bytes=1000)
        last = blobs.put(self.numbered(4))
        assert len(cached(blobs)) == 2
        assert last in cached(blobs)


def test_a_blob_that_is_needed_again_is_young_again_in_the_shared_place(
    server, clock, shared
) -> None:
    """Who tidies up on another server goes by its age."""
    blobs = server("one")
    blobs.put(DATA)
    os.utime(at(shared, SHA), (clock.now - 48 * HOUR,) * 2)
    blobs.put(DATA)
    assert clock.now - blobs.find(SHA).stored < 24 * HOUR


class TestOpening:
    def settings(self, url: str | None) -> ServerSettings:
        return ServerSettings(address="127.0.0.1:1", base_models={}, blobs_url=url)

    def test_without_a_url_blobs_are_in_the_state_folder_alone(self, tmp_path) -> None:
        blobs = open_blobs(StateFolder(tmp_path), self.settings(None))
        assert blobs.put(DATA) == SHA
        assert not isinstance(blobs, RemoteBlobs)

    def test_with_one_they_are_shared(self, tmp_path, shared) -> None:
        open_blobs(StateFolder(tmp_path), self.settings(f"file://{shared}")).put(DATA)
        assert at(shared, SHA).read_bytes() == DATA

    def test_an_unknown_protocol_is_refused_with_a_sentence(self, tmp_path) -> None:
        with pytest.raises(InvalidInputError, match=r"cannot use nowhere://x for blobs"):
            open_blobs(StateFolder(tmp_path), self.settings("nowhere://x"))

    def test_a_password_is_not_repeated(self) -> None:
        with pytest.raises(InvalidInputError) as caught:
            Remote("nowhere://user:correct-horse@host/x")
        assert "correct-horse" not in str(caught.value)
