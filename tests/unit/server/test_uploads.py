import hashlib
import os
import threading
import time
from dataclasses import replace

import pytest

from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import MerchantId, RunId, Sha256, TaskId
from hansa.core.storage import CHUNK_BYTES, BlobStore
from hansa.server.state.database import open_database
from hansa.server.state.runs import Runs
from hansa.server.state.tasks import NewTask, Tasks
from hansa.server.state.uploads import Deliveries
from hansa.server.uploads import MAX_UNFINISHED_BYTES, MAX_UPLOAD_BYTES, Slot, Uploads
from tests.fakes.toy_federation import toy_plan

HARBOUR, MARKET = MerchantId("harbour"), MerchantId("market")
DATA = b"x" * 100
SHA = hashlib.sha256(DATA).hexdigest()
TASKS = ("run/1/train/harbour", "run/2/train/harbour", "run/1/train/market")


@pytest.fixture
def engine(tmp_path):
    engine = open_database(tmp_path / "hansa.db")
    Runs(engine, time.time).queue(RunId("run"), toy_plan(), b"")
    yield engine
    engine.dispose()


@pytest.fixture
def tasks(engine):
    """Three open tasks."""
    tasks = Tasks(engine)
    tasks.post([new_task(name) for name in TASKS])
    return tasks


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def uploads(tmp_path, engine, tasks, blobs):
    return Uploads(tmp_path / "uploads", blobs, Deliveries(engine), tasks)


def new_task(name: str) -> NewTask:
    run, number, phase, merchant = name.split("/")
    return NewTask(
        task_id=TaskId(name),
        run_id=RunId(run),
        round_number=int(number),
        phase=phase,
        merchant=MerchantId(merchant),
        content_sha256=Sha256("0" * 64),
        content_bytes=1,
        deadline=9e9,
    )


def slot(merchant=HARBOUR, sha=SHA, size=100, task="run/1/train/harbour") -> Slot:
    return Slot.checked(merchant, task, sha, size)


def store(uploads: Uploads, slot: Slot, offset: int, *pieces: bytes) -> None:
    """A stream that breaks off after these pieces."""
    incoming = uploads.begin(slot, offset)
    incoming.append(pieces)
    uploads.end(incoming)


def deliver(uploads: Uploads, slot: Slot, data: bytes, offset: int = 0) -> bool:
    """A stream that comes to its end."""
    incoming = uploads.begin(slot, offset)
    try:
        incoming.append([data])
        return incoming.finish()
    finally:
        uploads.end(incoming)


def test_a_broken_upload_goes_on_where_it_stopped(uploads, blobs) -> None:
    store(uploads, slot(), 0, DATA[:30])
    assert uploads.offset(slot()) == 30
    assert deliver(uploads, slot(), DATA[30:], offset=30)
    assert uploads.is_complete(slot())
    assert blobs.read(SHA) == DATA


def test_bytes_that_survived_a_restart_are_counted_in_the_digest(
    tmp_path, uploads, engine, tasks, blobs
) -> None:
    store(uploads, slot(), 0, DATA[:30])
    restarted = Uploads(tmp_path / "uploads", blobs, Deliveries(engine), tasks)
    assert deliver(restarted, slot(), DATA[30:], offset=30)
    assert restarted.is_complete(slot())


def test_an_upload_that_does_not_continue_what_is_stored_is_refused(uploads) -> None:
    store(uploads, slot(), 0, DATA[:30])
    for offset in (0, 29, 31):
        with pytest.raises(ConflictError, match="byte 30"):
            uploads.begin(slot(), offset)


def test_bytes_of_another_digest_are_dropped(uploads) -> None:
    with pytest.raises(InvalidInputError, match="digest"):
        deliver(uploads, slot(), b"y" * 100)
    assert uploads.offset(slot()) == 0


def test_more_bytes_than_promised_are_refused(uploads) -> None:
    incoming = uploads.begin(slot(), 0)
    incoming.append([DATA])
    with pytest.raises(InvalidInputError, match="promised"):
        incoming.append([b"z"])
    uploads.end(incoming)


def test_a_piece_over_one_mebibyte_is_refused(uploads) -> None:
    incoming = uploads.begin(slot(size=4 * CHUNK_BYTES), 0)
    with pytest.raises(InvalidInputError):
        incoming.append([b"x" * (CHUNK_BYTES + 1)])
    uploads.end(incoming)


def test_a_newer_stream_ends_the_older_one(uploads) -> None:
    older = uploads.begin(slot(), 0)
    older.append([DATA[:10]])
    newer = uploads.begin(slot(), 10)
    for late in (lambda: older.append([DATA[10:20]]), older.finish):
        with pytest.raises(ConflictError, match="newer"):
            late()
    uploads.end(older)
    newer.append([DATA[10:]])
    assert newer.finish()
    uploads.end(newer)


def test_a_newer_stream_waits_for_what_the_older_one_is_writing(uploads, monkeypatch) -> None:
    """Else it would begin at an offset that is not the end of the file any more."""
    older, writing, go_on = uploads.begin(slot(), 0), threading.Event(), threading.Event()
    append = older._part.append

    def slowly(piece: bytes) -> None:
        writing.set()
        assert go_on.wait(20)
        append(piece)

    monkeypatch.setattr(older._part, "append", slowly)
    thread = threading.Thread(target=older.append, args=([DATA[:10]],))
    thread.start()
    assert writing.wait(20)
    threading.Timer(0.05, go_on.set).start()
    newer = uploads.begin(slot(), 10)
    thread.join()
    newer.append([DATA[10:]])
    assert newer.finish()
    uploads.end(newer)


def test_one_merchants_upload_does_not_answer_anothers_task(uploads) -> None:
    deliver(uploads, slot(), DATA)
    assert not uploads.is_complete(slot(merchant=MARKET))
    assert not uploads.is_complete(slot(task="run/2/train/harbour"))
    assert uploads.offset(slot(merchant=MARKET)) == 0


def test_another_server_knows_what_was_delivered_here(tmp_path, uploads, engine, tasks, blobs):
    deliver(uploads, slot(), DATA)
    other = Uploads(tmp_path / "elsewhere", blobs, Deliveries(engine), tasks)
    assert other.is_complete(slot())
    assert other.offset(slot()) == 100


def test_a_blob_that_was_delivered_is_taken_no_second_time(uploads) -> None:
    deliver(uploads, slot(), DATA)
    incoming = uploads.begin(slot(), 100)
    assert incoming.finish()
    with pytest.raises(ConflictError, match="nothing more"):
        incoming.append([b"more"])
    uploads.end(incoming)


def test_a_closed_task_takes_no_bytes_and_says_that_none_are_needed(tmp_path, uploads) -> None:
    """Else a merchant could fill the store with blobs for tasks of long ago."""
    closed = replace(slot(), wanted=False)
    assert uploads.offset(closed) == closed.size_bytes
    incoming = uploads.begin(closed, 0)
    with pytest.raises(ConflictError, match="nothing more"):
        incoming.append([DATA])
    uploads.end(incoming)
    assert list((tmp_path / "uploads").glob("*/*")) == []


def test_an_unfinished_upload_is_not_complete(uploads) -> None:
    assert not deliver(uploads, slot(), DATA[:-1])
    assert not uploads.is_complete(slot())


def test_a_full_disk_loses_nothing_that_was_stored(uploads, monkeypatch) -> None:
    store(uploads, slot(), 0, DATA[:30])
    incoming = uploads.begin(slot(), 30)
    path, file = incoming._part.path, incoming._part._file

    class FullDisk:
        """Takes ten bytes more."""

        left = 10

        def write(self, piece: memoryview) -> int:
            if not self.left:
                raise OSError(28, "No space left on device")
            count, self.left = file.write(piece[: self.left]), 0
            return count

        def close(self) -> None:
            file.close()

    monkeypatch.setattr(incoming._part, "_file", FullDisk())
    with pytest.raises(OSError, match="No space"):
        incoming.append([DATA[30:]])
    uploads.end(incoming)
    assert uploads.offset(slot()) == path.stat().st_size == 40
    assert deliver(uploads, slot(), DATA[40:], offset=40)


def test_of_one_task_there_is_one_part(tmp_path, uploads) -> None:
    """A client that trained anew has other bytes; what was left of the first is dropped."""
    store(uploads, slot(sha="1" * 64), 0, DATA[:30])
    store(uploads, slot(sha="2" * 64), 0, DATA[:20])
    assert uploads.offset(slot(sha="1" * 64)) == 0
    assert len(list((tmp_path / "uploads").rglob("*.part"))) == 1


def test_parts_of_closed_tasks_are_removed_at_the_next_upload_and_at_start(
    tmp_path, uploads, tasks
) -> None:
    first, second, others = slot(), slot(task=TASKS[1]), slot(merchant=MARKET, task=TASKS[2])
    for one in (first, others):
        store(uploads, one, 0, DATA[:30])
    tasks.expire([TaskId(TASKS[0]), TaskId(TASKS[2])])
    store(uploads, second, 0, DATA[:30])
    assert [uploads.offset(one) for one in (first, second, others)] == [0, 30, 30]
    uploads.sweep()
    assert [uploads.offset(one) for one in (first, second, others)] == [0, 30, 0]


def test_what_is_left_of_a_task_is_forgotten_when_it_is_answered(tmp_path, uploads) -> None:
    store(uploads, slot(), 0, DATA[:30])
    store(uploads, slot(task=TASKS[1]), 0, DATA[:30])
    uploads.forget(HARBOUR, TASKS[0])
    assert uploads.offset(slot()) == 0
    assert uploads.offset(slot(task=TASKS[1])) == 30


def test_a_merchants_unfinished_parts_have_a_common_limit(tmp_path, uploads, tasks) -> None:
    """Sparse files stand for what two tasks have left; the third may not begin, another's may."""
    names = [f"run/{number}/train/harbour" for number in range(3, 6)]
    tasks.post([new_task(name) for name in names])
    for name in names[:2]:
        one = slot(size=MAX_UPLOAD_BYTES, task=name)
        store(uploads, one, 0, b"x")
        os.truncate(uploads._part(one), MAX_UPLOAD_BYTES)
    with pytest.raises(InvalidInputError, match=str(MAX_UNFINISHED_BYTES)):
        uploads.begin(slot(size=MAX_UPLOAD_BYTES, task=names[2]), 0)
    store(uploads, slot(merchant=MARKET, task=TASKS[2]), 0, b"x")
    tasks.expire([TaskId(names[0])])
    store(uploads, slot(size=MAX_UPLOAD_BYTES, task=names[2]), 0, b"x")


def test_open_streams_count_with_what_they_promise(uploads, tasks) -> None:
    """Many streams that begin at the same moment do not slip under the limit together."""
    names = [f"run/{number}/train/harbour" for number in range(3, 6)]
    tasks.post([new_task(name) for name in names])
    opened = [uploads.begin(slot(size=MAX_UPLOAD_BYTES, task=name), 0) for name in names[:2]]
    with pytest.raises(InvalidInputError, match="unfinished"):
        uploads.begin(slot(size=MAX_UPLOAD_BYTES, task=names[2]), 0)
    for incoming in opened:
        uploads.end(incoming)


@pytest.mark.parametrize("size", [0, -1, MAX_UPLOAD_BYTES + 1])
def test_an_impossible_size_is_refused(size) -> None:
    with pytest.raises(InvalidInputError):
        slot(size=size)


def test_a_digest_that_is_a_path_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        slot(sha="../../../etc/passwd")
