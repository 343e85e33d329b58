"""Blobs through the server: in order, in batches, with whatever fault comes first."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.plane.transfers import (
    MEMORY_BYTES,
    SMALLEST_PIECE_BYTES,
    Measure,
    Transfers,
)

MERCHANTS_AT_THE_LEAST_PIECE = MEMORY_BYTES // SMALLEST_PIECE_BYTES // 2


@given(st.integers(0, 10_000))
def test_all_merchants_together_stay_within_the_memory_as_long_as_pieces_can_shrink(n: int) -> None:
    measure = Measure.among(n)
    assert SMALLEST_PIECE_BYTES <= measure.piece_bytes <= CHUNK_BYTES
    assert measure.batch >= 1
    if 1 <= n <= MERCHANTS_AT_THE_LEAST_PIECE:
        assert 2 * n * measure.batch * measure.piece_bytes <= MEMORY_BYTES


def test_a_few_merchants_have_the_fastest_pieces() -> None:
    assert Measure.among(1) == Measure(piece_bytes=CHUNK_BYTES, batch=4)
    assert Measure.among(4) == Measure(piece_bytes=CHUNK_BYTES, batch=1)
    assert Measure.among(64) == Measure(piece_bytes=CHUNK_BYTES // 16, batch=1)


class Sink:
    """Stands for an incoming blob: remembers what it stored, and breaks when told."""

    def __init__(self, *, breaks_at: int | None = None, size: int = -1) -> None:
        self.stored = b""
        self._size = size
        self.batches: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self._breaks_at = breaks_at

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        assert self.go_on.wait(20)
        self.batches.append(len(pieces))
        for piece in pieces:
            if len(self.stored) == self._breaks_at:
                raise ConflictError("a newer upload of this blob took over")
            self.stored += piece

    def ends_with(self, pieces: Sequence[bytes | memoryview]) -> bool:
        return len(self.stored) + sum(map(len, pieces)) == self._size

    def finish(self, pieces: Sequence[bytes | memoryview]) -> bool:
        if pieces:
            self.append(pieces)
        return len(self.stored) == self._size


async def stream(parts: Iterable[object]) -> AsyncIterator[object]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


def receive(parts: Iterable[object], sink: Sink) -> bool:
    return asyncio.run(Transfers().receive(stream(parts), sink))


def test_all_pieces_are_stored_in_their_order() -> None:
    sink = Sink()
    receive([bytes([number]) for number in range(100)], sink)
    assert sink.stored == bytes(range(100))
    assert sum(sink.batches) == 100


def test_a_blob_of_one_piece_is_stored_and_finished_in_one_step() -> None:
    sink = Sink(size=3)
    assert receive([b"abc"], sink)
    assert sink.batches == [1]
    assert not receive([b"d"], Sink(size=3))


@pytest.mark.parametrize("piece", [b"", b"x"])
def test_pieces_without_an_end_after_a_whole_blob_do_not_gather_in_memory(piece: bytes) -> None:
    sink = Sink(size=3)
    receive([b"abc", *[piece] * 100], sink)
    assert max(sink.batches) <= 5


def test_what_gathers_while_the_disk_is_slow_is_bounded() -> None:
    """The first piece is being written; four more are taken from the line, and no fifth."""
    sink, taken = Sink(), []
    sink.go_on.clear()

    def parts() -> Iterable[bytes]:
        for number in range(20):
            taken.append(number)
            yield bytes([number])

    async def watched() -> None:
        receiving = asyncio.create_task(Transfers().receive(stream(parts()), sink))
        await asyncio.sleep(0.2)
        assert len(taken) <= 6
        sink.go_on.set()
        await receiving

    asyncio.run(watched())
    assert sink.stored == bytes(range(20))
    assert max(sink.batches) <= 4


def test_between_two_pieces_of_whatever_streams_other_calls_get_their_turn() -> None:
    """All pieces of 16 streams are there at once; whoever else runs meets one or two at a time."""
    taken, met = 0, []

    async def ready() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(10):
            taken += 1
            yield b"x"

    async def others() -> None:
        while True:
            met.append(taken)
            await asyncio.sleep(0)

    async def all_at_once() -> None:
        transfers = Transfers()
        watching = asyncio.create_task(others())
        await asyncio.gather(*(transfers.receive(ready(), Sink()) for _ in range(16)))
        watching.cancel()

    asyncio.run(all_at_once())
    first = met.index(16)  # each stream has asked once
    steps = [later - earlier for earlier, later in pairwise(met[first:])]
    assert taken == 160
    assert max(steps) <= 2


def test_a_stream_that_is_silent_stops_no_other() -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def both() -> Sink:
        transfers, sink = Transfers(), Sink()
        stuck = asyncio.create_task(transfers.receive(silent(), Sink()))
        await asyncio.wait_for(transfers.receive(stream([b"y"] * 20), sink), 20)
        stuck.cancel()
        return sink

    assert asyncio.run(both()).stored == b"y" * 20


def test_a_fault_of_the_disk_ends_the_stream() -> None:
    sink = Sink(breaks_at=3)
    with pytest.raises(ConflictError, match="took over"):
        receive([b"x"] * 1000, sink)
    assert sink.stored == b"xxx"


def test_a_second_header_is_refused() -> None:
    parts = [b"x", pb.UploadMessage(header=pb.UploadHeader(task_id="another"))]
    with pytest.raises(InvalidInputError, match="nothing but data"):
        receive(parts, Sink())


def test_a_stream_without_data_stores_nothing() -> None:
    sink = Sink()
    receive([], sink)
    assert sink.stored == b""


def test_pieces_are_sent_in_their_order() -> None:
    async def sent() -> list[bytes]:
        pieces = iter([bytes([number]) for number in range(11)])
        return [piece async for piece in Transfers().send(pieces)]

    assert b"".join(asyncio.run(sent())) == bytes(range(11))
