"""Calls of one merchant take turns, so that however many it makes, the others' wait for none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

AT_ONCE = 2
"""A result that is being checked must not hold up the heartbeat of the same client."""


class Turns:
    """Lets a few calls of each merchant at the server's threads at a time; the rest queue."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._at_once = at_once
        # One is forgotten as soon as no call holds it or waits for it.
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def __len__(self) -> int:
        """Merchants with a call under way."""
        return len(self._of)

    @contextlib.asynccontextmanager
    async def of(self, merchant: str) -> AsyncIterator[None]:
        """Waits for the merchant's turn."""
        turn = self._of.get(merchant)
        if turn is None:
            turn = self._of[merchant] = asyncio.Semaphore(self._at_once)
        async with turn:
            yield
