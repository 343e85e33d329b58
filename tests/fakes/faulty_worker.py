"""Ranks that fail as the name in ``FAULT`` says, once all of them have met; for tests only.

Each writes its process id to ``rank-N.pid`` in the folder that the site argument names.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from hansa.client.training.rank import STORE, Place, end_with_launcher, faults_reported
from hansa.client.training.ranks import joined
from hansa.core.errors import InvalidInputError

FAULTY = "tests.fakes.faulty_worker"
FAULT = "HANSA_TEST_FAULT"


def main(pids: Path, folder: Path) -> None:
    place = Place.from_environment()
    end_with_launcher(folder)
    cpu = torch.device("cpu")
    with faults_reported(folder, place):
        store = folder / STORE
        with (
            joined(store, rank=place.rank, size=place.size, device=cpu, timeout_s=200) as group,
            faults_reported(folder, place),
        ):
            group.total(torch.ones(3))
            (pids / f"rank-{place.rank}.pid").write_text(str(os.getpid()))
            if place.rank == 1:
                _fail(os.environ[FAULT])
            group.total(torch.ones(3))


def _fail(fault: str) -> None:
    match fault:
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raises":
            raise InvalidInputError("the data set is damaged")
        case "hangs":
            time.sleep(600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
