import hashlib

import pytest

from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import MerchantId
from hansa.core.storage import CHUNK_BYTES, BlobStore
from hansa.server.uploads import MAX_UPLOAD_BYTES, Slot, Uploads

HARBOUR, MARKET = MerchantId("harbour"), MerchantId("market")
DATA = b"x" * 100
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path / "uploads", BlobStore(tmp_path / "blobs"))


def slot(merchant=HARBOUR, sha=SHA, size=100, task="run/1/train/harbour") -> Slot:
    return Slot.checked(merchant, task, sha, size)


def test_a_broken_upload_goes_on_where_it_stopped(uploads) -> None:
    uploads.begin(slot(), 0)(DATA[:30])
    assert uploads.offset(slot()) == 30
    uploads.begin(slot(), 30)(DATA[30:])
    assert uploads.finish(slot())
    assert uploads.is_complete(slot())


def test_an_upload_that_does_not_continue_what_is_stored_is_refused(uploads) -> None:
    uploads.begin(slot(), 0)(DATA[:30])
    for offset in (0, 29, 31):
        with pytest.raises(ConflictError, match="byte 30"):
            uploads.begin(slot(), offset)


def test_bytes_of_another_digest_are_dropped(uploads) -> None:
    uploads.begin(slot(), 0)(b"y" * 100)
    with pytest.raises(InvalidInputError, match="digest"):
        uploads.finish(slot())
    assert uploads.offset(slot()) == 0


def test_more_bytes_than_promised_are_refused(uploads) -> None:
    append = uploads.begin(slot(), 0)
    append(DATA)
    with pytest.raises(InvalidInputError, match="promised"):
        append(b"z")


def test_a_piece_over_one_mebibyte_is_refused(uploads) -> None:
    big = slot(size=4 * CHUNK_BYTES)
    with pytest.raises(InvalidInputError):
        uploads.begin(big, 0)(b"x" * (CHUNK_BYTES + 1))


def test_a_newer_stream_ends_the_older_one(uploads) -> None:
    older = uploads.begin(slot(), 0)
    older(DATA[:10])
    newer = uploads.begin(slot(), 10)
    with pytest.raises(ConflictError, match="newer"):
        older(DATA[10:20])
    newer(DATA[10:])
    assert uploads.finish(slot())


def test_one_merchants_upload_does_not_answer_anothers_task(uploads) -> None:
    uploads.begin(slot(), 0)(DATA)
    uploads.finish(slot())
    assert not uploads.is_complete(slot(merchant=MARKET))
    assert not uploads.is_complete(slot(task="run/2/train/harbour"))
    assert uploads.offset(slot(merchant=MARKET)) == 0


def test_an_unfinished_upload_is_not_complete(uploads) -> None:
    uploads.begin(slot(), 0)(DATA[:-1])
    assert not uploads.finish(slot())
    assert not uploads.is_complete(slot())


@pytest.mark.parametrize("size", [0, -1, MAX_UPLOAD_BYTES + 1])
def test_an_impossible_size_is_refused(size) -> None:
    with pytest.raises(InvalidInputError):
        slot(size=size)


def test_a_digest_that_is_a_path_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        slot(sha="../../../etc/passwd")
