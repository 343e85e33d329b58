"""Blobs on their way through the server: in batches through threads, in bounded memory.

Hashing and the disk block, so they have threads of their own: the calls of other merchants wait for
none of them. What is under way in memory grows neither with a blob nor with the number of
merchants: the more of them there are, the smaller the pieces become.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import ParamSpec, TypeVar

from hansa.core.errors import InvalidInputError
from hansa.core.storage import CHUNK_BYTES
from hansa.protos.pieces import Data
from hansa.protos.v1 import federation_pb2 as pb
from hansa.server.uploads import Incoming

MEMORY_BYTES = 8 << 20
"""What the pieces under way may take together: an equal share for each connected merchant."""

SMALLEST_PIECE_BYTES = 64 << 10
_LARGEST_BATCH = 4

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """In what portions a blob moves."""

    piece_bytes: int
    """Of one message."""
    batch: int
    """Pieces that go through a thread at once."""

    @staticmethod
    def among(merchants: int) -> "Measure":
        """The portions while so many merchants are connected; one batch gathers, one is written."""
        share = MEMORY_BYTES // max(1, merchants) // 2
        piece = max(SMALLEST_PIECE_BYTES, min(CHUNK_BYTES, share))
        return Measure(piece_bytes=piece, batch=max(1, min(_LARGEST_BATCH, share // piece)))


class Transfers:
    """Moves the bytes of blobs between streams and files."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor((os.cpu_count() or 1) + 2, "transfers")
        self._merchants = 0
        self._turnstile = asyncio.Lock()
        """Of all streams one asks for its next piece in a turn of the event loop."""

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Counts a merchant in while it is connected."""
        self._merchants += 1
        try:
            yield
        finally:
            self._merchants -= 1

    @property
    def measure(self) -> Measure:
        """The portions of this moment."""
        return Measure.among(self._merchants)

    async def run(
        self,
        work: Callable[_Arguments, _Value],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Value:
        """Does blocking work in a thread of its own kind."""
        return await self.begin(work, *args, **kwargs)

    def begin(
        self,
        work: Callable[_Arguments, _Value],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> "asyncio.Future[_Value]":
        """The same, for whoever need not wait for its end."""
        begun = asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))
        begun.add_done_callback(_look_at)
        return begun

    async def send(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces, several of them read at once."""
        while batch := await self.run(_take, pieces, self.measure.batch):
            for piece in batch:
                yield piece

    async def receive(
        self, stream: AsyncIterator[pb.UploadMessage | Data], incoming: Incoming
    ) -> bool:
        """Stores what the stream brings: while one batch is written, the next one gathers.

        Returns:
            Whether the blob is whole now.

        Raises:
            InvalidInputError: something other than data came, or a rule of ``Incoming`` is broken.
            ConflictError: a newer stream took over.
        """
        batch: list[Data] = []
        writing: asyncio.Future[None] | None = None
        async for part in stream:
            if isinstance(part, pb.UploadMessage):
                raise InvalidInputError("after its header an upload holds nothing but data")
            batch.append(part)
            if writing is not None and (writing.done() or len(batch) >= self.measure.batch):
                await writing
                writing = None
            # The last batch is stored by whoever finishes the blob: one step for a small one.
            last = len(batch) <= self.measure.batch and incoming.ends_with(batch)
            if writing is None and not last:
                writing, batch = self.begin(incoming.append, batch), []
            await self._pass_turnstile()  # last, whatever the writing waited for
        if writing is not None:
            await writing
        return await self.run(incoming.finish, batch)

    async def _pass_turnstile(self) -> None:
        """Lets other calls through between two pieces: gRPC hands out all that it has at once.

        Copying a piece holds the event loop; with a piece of each of 64 streams in one turn, a
        heartbeat waits for all of them, several times over. Nobody holds the turnstile while it
        waits for the network, so that a stream that is silent stops no other.
        """
        async with self._turnstile:
            await asyncio.sleep(0)


def _take(pieces: Iterator[bytes], count: int) -> list[bytes]:
    return list(islice(pieces, count))


def _look_at(begun: "asyncio.Future[_Value]") -> None:
    """Whoever waited for it may be gone; a fault that nobody looks at would be logged as lost."""
    if not begun.cancelled():
        begun.exception()
