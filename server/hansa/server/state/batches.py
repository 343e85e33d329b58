"""Writes that many threads want at the same moment, in one transaction.

A commit waits for the disk and for its turn. Whoever gets the turn writes what all the others have
brought meanwhile, so that sixty-four merchants who answer at once cost a few commits, not
sixty-four, and one who answers alone waits for nobody.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class _Batch(Generic[_Item]):
    """Items that will be written together."""

    def __init__(self) -> None:
        self.items: list[_Item] = []
        self.written = False
        self.fault: BaseException | None = None


class Batches(Generic[_Item]):
    """Collects items and writes them; every caller returns when its own is written."""

    def __init__(self, write: Callable[[list[_Item]], None]) -> None:
        """``write`` writes all items or none; it is called by one thread at a time."""
        self._write = write
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._open: _Batch[_Item] = _Batch()

    def add(self, item: _Item) -> None:
        """Writes an item.

        Raises:
            Exception: what ``write`` raised for the items that this one was written with.
        """
        with self._lock:
            batch = self._open
            batch.items.append(item)
        with self._turn:
            if not batch.written:
                self._close(batch)
        if batch.fault is not None:
            raise batch.fault

    def _close(self, batch: _Batch[_Item]) -> None:
        with self._lock:
            self._open = _Batch()
        try:
            self._write(batch.items)
        except BaseException as fault:  # noqa: BLE001 - each of those who wait raises it
            batch.fault = fault
        batch.written = True
