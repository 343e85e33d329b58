"""One process of several: its number, its files, and its ties to the process that launched it."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hansa.core.storage import write_atomically

TASK: Final = "task.safetensors"
RESULT: Final = "result.safetensors"
STORE: Final = "store"
LAUNCHER: Final = "launcher"
"""A file that the launching process holds locked as long as it lives."""
TRAINED: Final = "trained"
"""The record of the result."""

PATIENCE_S: Final = 600.0
"""A rank that waits longer for another one fails; a step never takes so long."""

_LOOK_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank stands; ``torchrun`` says it in the environment."""

    rank: int
    size: int

    @classmethod
    def from_environment(cls) -> "Place":
        """This process's place."""
        return cls(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))


def end_with_launcher(folder: Path) -> None:
    """Ends this process, without a word, soon after the launching one has ended."""
    lock = (folder / LAUNCHER).open("rb")

    def watch() -> None:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK_S)
            else:
                os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


@contextmanager
def faults_reported(folder: Path, place: Place) -> Iterator[None]:
    """Writes down why this rank failed, for the launcher, and ends it with that error.

    Use it within the group as well as around it: a rank that leaves the group is a fault to all
    others, and the first one that was written down is taken for the reason.
    """
    try:
        yield
    except Exception as error:
        path = folder / f"fault-{place.rank}.json"
        fault = {"rank": place.rank, "kind": type(error).__name__, "sentence": str(error)[:2000]}
        if not path.exists():
            write_atomically(path, json.dumps(fault).encode())
        raise
