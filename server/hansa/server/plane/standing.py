"""Open streams end when their caller's certificate ceases to count.

A stream may be open for an hour, or wait for a client that sends nothing. So the streams do not
look themselves: one round a second looks for all of them, with one query, and ends those whose
caller was revoked, replaced or has expired, whatever they are waiting for. It finds what another
server process wrote into the database as well.
"""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from hansa.core.errors import HansaError
from hansa.server.plane.peer import Gate, Peer

_log = logging.getLogger(__name__)

LOOK_PERIOD_S = 1.0
"""A caller that may not go on is cut off after so long and the time of one query."""

_TELL_S = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Open:
    """A stream at work."""

    peer: Peer
    context: Any
    task: "asyncio.Task[Any]"


class OpenStreams(grpc.aio.ServerInterceptor):
    """Keeps the list of open streams and goes round it."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._open: set[_Open] = set()
        # Of its own: calls that keep the other threads busy must not put off their own end.
        self._thread = ThreadPoolExecutor(1, "standing")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Has every stream noted for as long as it is open, now and in services to come."""
        handler = await continuation(handler_call_details)
        if handler is None or not (handler.request_streaming or handler.response_streaming):
            return handler
        make = {
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        inner = handler.unary_stream or handler.stream_stream or handler.stream_unary
        noted = self._many if inspect.isasyncgenfunction(inner) else self._one
        return make(noted(inner), handler.request_deserializer, handler.response_serializer)

    def _many(self, inner: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._noted(context):
                async for reply in inner(request, context):
                    yield reply

        return call

    def _one(self, inner: Callable[[Any, Any], Awaitable[Any]]) -> Callable[..., Any]:
        """For a method that returns its one reply, or writes its replies to the context."""

        async def call(requests: Any, context: Any) -> Any:
            with self._noted(context):
                return await inner(requests, context)

        return call

    @contextlib.contextmanager
    def _noted(self, context: Any) -> Iterator[None]:
        task = asyncio.current_task()
        try:
            peer = self._gate.caller(context)
        except HansaError:
            yield  # The method refuses the caller itself, with the proper status.
            return
        if task is None:
            raise RuntimeError("a stream is served within a task")
        stream = _Open(peer=peer, context=context, task=task)
        self._open.add(stream)
        try:
            yield
        finally:
            self._open.discard(stream)

    async def check_for_ever(self) -> None:
        """Goes round for ever."""
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            try:
                await self.check()
            except Exception:  # noqa: BLE001 - the seam of the task: a busy database must not end it
                _log.exception("the callers of the open streams were not checked; trying again")

    async def check(self) -> None:
        """One round: ends the streams of those who may not go on."""
        peers = {stream.peer for stream in self._open}
        if not peers:
            return
        loop = asyncio.get_running_loop()
        refused = await loop.run_in_executor(self._thread, self._gate.objections, peers)
        falling = [stream for stream in self._open if stream.peer in refused]
        self._open.difference_update(falling)  # a look beside this one must not end them as well
        await asyncio.gather(*(_end(stream, refused[stream.peer]) for stream in falling))


async def _end(stream: _Open, sentence: str) -> None:
    """Tells the client why, then stops the method wherever it waits."""
    if stream.task.done() or stream.context.done():
        return
    _log.info("cut off a stream of %s: %s", stream.peer.identity.name, sentence)
    abort = stream.context.abort(grpc.StatusCode.PERMISSION_DENIED, sentence)
    # A client that reads nothing does not get the status either: it must not hold up the others.
    # Nor is it a fault where the method has said its own last word meanwhile.
    with contextlib.suppress(grpc.aio.AbortError, grpc.aio.UsageError, TimeoutError):
        await asyncio.wait_for(abort, _TELL_S)
    stream.task.cancel()
