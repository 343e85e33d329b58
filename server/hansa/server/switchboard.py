"""Wakes those who wait: clients' streams when there is work, the round loop when there are results.

Round loops run in threads, streams in the asyncio loop; this is the one place where the two meet.
Nothing is kept here: a wake-up only says "look at the database again".
"""

import asyncio
import threading
from collections import defaultdict


class Switchboard:
    """Wake-ups by merchant and for completions."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self.closed = False
        """The server is going down: streams end."""

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Names the loop in which the streams live."""
        self._loop = loop

    def listen(self, merchant: str) -> asyncio.Event:
        """An event that is set whenever there may be news for the merchant."""
        event = asyncio.Event()
        with self._lock:
            self._streams[merchant].add(event)
        return event

    def hang_up(self, merchant: str, event: asyncio.Event) -> None:
        """Ends a listening."""
        with self._lock:
            self._streams[merchant].discard(event)

    def wake(self, merchant: str) -> None:
        """Tells a merchant's streams to look again; callable from any thread."""
        with self._lock:
            events = list(self._streams[merchant])
        for event in events:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """Ends all streams, so that the server need not wait for them."""
        self.closed = True
        with self._lock:
            merchants = list(self._streams)
        for merchant in merchants:
            self.wake(merchant)

    def announce(self) -> None:
        """Tells the round loops that something came in."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Blocks a round loop until something came in, at most so long."""
        with self._changed:
            self._changed.wait(seconds)
