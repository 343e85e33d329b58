"""Writes of many threads share transactions, and each thread learns what became of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hansa.server.state.batches import Batches


class Disk:
    """Stands for the database: slow at its first write, so that others gather meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()
        self.began = threading.Event()

    def write(self, items: list[int]) -> None:
        self.batches.append(list(items))
        self.began.set()
        assert self.go_on.wait(20)
        if -1 in items:
            raise OSError("the disk is full")


def test_one_who_comes_alone_is_written_at_once() -> None:
    disk = Disk()
    disk.go_on.set()
    batches = Batches(disk.write)
    batches.add(1)
    batches.add(2)
    assert disk.batches == [[1], [2]]


def add_while_the_first_is_written(disk: Disk, items: list[int]) -> list[BaseException | None]:
    batches = Batches(disk.write)
    with ThreadPoolExecutor(len(items) + 1) as pool:
        first = pool.submit(batches.add, 0)
        assert disk.began.wait(20)
        others = [pool.submit(batches.add, item) for item in items]
        while len(batches._open.items) < len(items):
            threading.Event().wait(0.001)
        disk.go_on.set()
        return [future.exception(20) for future in (first, *others)]


def test_those_who_come_while_one_writes_are_written_together() -> None:
    disk = Disk()
    assert add_while_the_first_is_written(disk, list(range(1, 31))) == [None] * 31
    assert [sorted(batch) for batch in disk.batches] == [[0], list(range(1, 31))]


def test_a_fault_reaches_all_whose_items_it_took_and_nobody_else() -> None:
    disk = Disk()
    first, *others = add_while_the_first_is_written(disk, [1, -1, 2])
    assert first is None
    assert all(isinstance(fault, OSError) for fault in others)


def test_after_a_fault_the_next_item_is_written() -> None:
    disk = Disk()
    disk.go_on.set()
    batches = Batches(disk.write)
    with pytest.raises(OSError, match="full"):
        batches.add(-1)
    batches.add(3)
    assert disk.batches == [[-1], [3]]
