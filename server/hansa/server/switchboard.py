"""Wakes those who wait: clients' streams when there is work, the round loop when there are results.

Round loops run in threads, streams in the asyncio loop; this is the one place where the two meet.
Nothing is kept here: a wake-up only says "look at the database again". Where several server
processes share a database, a relay carries each wake-up to the others.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

_ANNOUNCEMENT = "announcement"
_WAKE = "wake "


class Relay(Protocol):
    """Carries short texts between the server processes at one database."""

    def start(self, receive: Callable[[str], None]) -> None:
        """Begins; ``receive`` is called for each text of another process, in any thread.

        An empty text says that texts may have been lost.
        """
        ...

    def send(self, text: str) -> None:
        """Hands a text to the other processes; returns at once."""
        ...

    def stop(self) -> None:
        """Ends; texts that were not sent yet are dropped."""
        ...


class Switchboard:
    """Wake-ups by merchant and for completions, in this process and through the relay."""

    def __init__(self, relay: Relay | None = None) -> None:
        self._relay = relay
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._announced = 0
        self.closed = False
        """The server is going down: streams end."""

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Names the loop in which the streams live; from here other processes are heard."""
        self._loop = loop
        if self._relay is not None:
            self._relay.start(self._hear)

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
        self._wake_here(merchant)
        if self._relay is not None:
            self._relay.send(f"{_WAKE}{merchant}")

    def _wake_here(self, merchant: str) -> None:
        with self._lock:
            events = list(self._streams.get(merchant, ()))
        for event in events:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        """Ends all streams, so that the server need not wait for them."""
        self.closed = True
        self._wake_everyone_here()
        if self._relay is not None:
            self._relay.stop()

    def _wake_everyone_here(self) -> None:
        with self._lock:
            merchants = list(self._streams)
        for merchant in merchants:
            self._wake_here(merchant)

    def _hear(self, text: str) -> None:
        """Another process woke somebody who may be here."""
        if text.startswith(_WAKE):
            self._wake_here(text.removeprefix(_WAKE))
            return
        if not text:
            self._wake_everyone_here()
        self._announce_here()

    def announce(self) -> None:
        """Tells the round loops that something came in."""
        self._announce_here()
        if self._relay is not None:
            self._relay.send(_ANNOUNCEMENT)

    def _announce_here(self) -> None:
        with self._changed:
            self._announced += 1
            self._changed.notify_all()

    @property
    def announced(self) -> int:
        """How often something came in; read it before looking, and hand it to ``wait``."""
        return self._announced

    def wait(self, seconds: float, seen: int | None = None) -> None:
        """Blocks a round loop until something came in since ``seen``, at most so many seconds."""
        with self._changed:
            if seen is None or seen == self._announced:
                self._changed.wait(seconds)
