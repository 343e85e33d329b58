"""One merchant's calls must not stand in the way of the others'."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace

import grpc

from hansa.server.plane.standing import OpenStreams
from hansa.server.plane.turns import AT_ONCE, Turns


def test_however_many_calls_one_merchant_makes_another_is_served_at_once() -> None:
    async def scenario() -> list[str]:
        turns, served, gate = Turns(), [], asyncio.Event()

        async def call(merchant: str) -> None:
            async with turns.of(merchant):
                served.append(merchant)
                if merchant == "greedy":
                    await gate.wait()

        greedy = [asyncio.create_task(call("greedy")) for _ in range(50)]
        await asyncio.sleep(0)
        await call("harbour")
        before = list(served)
        gate.set()
        await asyncio.gather(*greedy)
        assert served.count("greedy") == 50
        return before

    assert asyncio.run(scenario()) == ["greedy"] * AT_ONCE + ["harbour"]


def test_a_call_that_fails_gives_its_turn_back() -> None:
    async def scenario() -> None:
        turns = Turns(at_once=1)
        for _ in range(3):
            try:
                async with turns.of("harbour"):
                    raise RuntimeError
            except RuntimeError:
                continue

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_merchants_that_are_gone_are_forgotten() -> None:
    async def scenario() -> Turns:
        turns = Turns()
        for number in range(100):
            async with turns.of(f"merchant-{number}"):
                pass
        return turns

    turns = asyncio.run(scenario())
    gc.collect()
    assert len(turns) == 0


@dataclass(frozen=True)
class Stream:
    peer: str


def test_who_may_stay_is_looked_up_while_every_other_thread_is_busy() -> None:
    """Calls that keep the server's threads must not put off their own caller's end."""

    async def scenario() -> list[str]:
        looked: list[str] = []
        gate = SimpleNamespace(objections=lambda peers: looked.extend(peers) or {})
        streams = OpenStreams(gate)
        streams._open.add(Stream("a caller"))
        release = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        busy = [loop.run_in_executor(None, release.wait) for _ in range(10)]
        try:
            await asyncio.wait_for(streams.check(), 30)
        finally:
            release.set()
            await asyncio.gather(*busy)
        return looked

    assert asyncio.run(scenario()) == ["a caller"]


class Context:
    """Stands for gRPC's: a call can be aborted once."""

    def __init__(self) -> None:
        self.aborted = 0

    def done(self) -> bool:
        return False

    async def abort(self, _code: object, _sentence: str) -> None:
        self.aborted += 1
        if self.aborted > 1:
            raise grpc.aio.UsageError("Abort already called!")
        await asyncio.sleep(0.01)
        raise grpc.aio.AbortError


@dataclass(frozen=True)
class Caller:
    identity: SimpleNamespace = field(compare=False)


@dataclass(frozen=True, eq=False)
class OpenStream:
    peer: Caller
    context: Context
    task: asyncio.Task[None]


def test_of_two_looks_at_the_same_moment_one_ends_a_stream() -> None:
    """The look of every second, and that of a revocation."""

    async def scenario() -> tuple[int, bool]:
        caller, context = Caller(SimpleNamespace(name="harbour")), Context()
        streams = OpenStreams(SimpleNamespace(objections=lambda peers: dict.fromkeys(peers, "out")))
        task = asyncio.create_task(asyncio.sleep(60))
        streams._open.add(OpenStream(caller, context, task))
        await asyncio.gather(streams.check(), streams.check())
        await asyncio.wait([task])
        return context.aborted, task.cancelled()

    assert asyncio.run(scenario()) == (1, True)
