"""``hansa.client.training.worker`` with entropy that repeats itself, for tests only.

Take ``worker=SEEDED`` where ``DeviceTraining`` wants a module. To start the processes once for two
tasks, name a folder with another task in the environment, under ``ALSO``; its result comes there.
"""

import os
import sys
from pathlib import Path

import torch

from hansa.client.site import Site
from hansa.client.training.rank import STORE, TASK, Place
from hansa.client.training.ranks import joined
from hansa.client.training.round_task import RoundTask
from hansa.client.training.worker import main, work
from hansa.client.workshop import open_workshop
from tests.fakes.entropy import SeededEntropy

SEEDED = "tests.fakes.seeded_worker"
ALSO = "HANSA_TEST_ALSO"
SEED = 7


def another(site: Site, folder: Path) -> None:
    task = RoundTask.from_bytes((folder / TASK).read_bytes())
    place, cpu = Place.from_environment(), torch.device("cpu")
    with joined(
        folder / STORE, rank=place.rank, size=place.size, device=cpu, timeout_s=200
    ) as group:
        work(task, open_workshop(site, task.plan), group, folder, SeededEntropy(SEED))


if __name__ == "__main__":
    main(sys.argv[1:], SeededEntropy(SEED))
    if ALSO in os.environ:
        another(Site(Path(sys.argv[1])), Path(os.environ[ALSO]))
