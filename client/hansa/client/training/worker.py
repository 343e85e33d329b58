"""One rank of a merchant's training: what ``torchrun`` starts, once for each device.

    python -m torch.distributed.run ... -m hansa.client.training.worker SITE FOLDER

reads the task from ``FOLDER``, and the first rank writes the result there. A rank ends by itself
when the process that launched it is gone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hansa.client.entropy import SystemEntropy
from hansa.client.site import Site
from hansa.client.training.devices import device_name
from hansa.client.training.rank import (
    PATIENCE_S,
    RESULT,
    STORE,
    TASK,
    TRAINED,
    Place,
    end_with_launcher,
    faults_reported,
)
from hansa.client.training.ranks import Group, joined
from hansa.client.training.round import train_round
from hansa.client.training.round_task import RoundTask
from hansa.client.workshop import Workshop, open_workshop
from hansa.core.content import Content
from hansa.core.privacy.mechanism import Entropy
from hansa.core.storage import write_atomically


def main(
    arguments: Sequence[str], entropy: Entropy | None = None, patience_s: float = PATIENCE_S
) -> None:
    """Does one rank's part.

    Args:
        arguments: the site's folder and the task's.
        entropy: the first rank draws from it; absent: from the operating system. It is an argument
            of this function and nothing else, so that nobody outside this process can choose it.
        patience_s: how long to wait for another rank.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    place = Place.from_environment()
    end_with_launcher(options.folder)
    with faults_reported(options.folder, place):
        task = RoundTask.from_bytes((options.folder / TASK).read_bytes())
        workshop = open_workshop(Site(options.site), task.plan)
        device = torch.device(
            device_name(place.rank, wanted=place.size, gpus=torch.cuda.device_count())
        )
        store = options.folder / STORE
        with (
            joined(
                store, rank=place.rank, size=place.size, device=device, timeout_s=patience_s
            ) as group,
            faults_reported(options.folder, place),
        ):
            work(task, workshop, group, options.folder, entropy or SystemEntropy())


def work(task: RoundTask, workshop: Workshop, group: Group, folder: Path, entropy: Entropy) -> None:
    """Trains together with the other ranks; the first one writes the result.

    Raises:
        ConflictError: the ranks read different data.
        InvalidInputError: the task's arrays are not those of the plan's model.
    """
    shoppers = b"".join(items.tobytes() + b"." for items in workshop.examples.training)
    group.agree(shoppers + workshop.embeddings.tobytes())
    trained = train_round(task, workshop, entropy, group)
    if group.is_first:
        write_atomically(folder / RESULT, Content(arrays={TRAINED: trained}).to_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
