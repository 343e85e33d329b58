"""A client whose updates are large and leave slowly, as a process that can be killed meanwhile.

``python -m tests.integration.slow_client SITE`` runs until a signal ends it.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hansa.client.node.outbox import Letter, Outbox
from hansa.client.site import Site
from hansa.core.content import Content
from hansa.core.storage import CHUNK_BYTES
from tests.fakes.toy_federation import ToyApplication
from tests.integration.federation_harness import Client

PIECES = 24
PAUSE_S = 0.05


class SlowOutbox(Outbox):
    """Gives a piece at a time; all of an update would take more than a second."""

    def chunks(self, letter: Letter, offset: int, size: int) -> Iterator[bytes]:
        for piece in super().chunks(letter, offset, size):
            time.sleep(PAUSE_S)
            yield piece


def enlarge(reply: Content) -> Content:
    """The reply with 24 MiB of noise; no round takes it, but the plane does not mind."""
    noise = np.random.default_rng(1).bytes(PIECES * CHUNK_BYTES)
    more = {"noise": np.frombuffer(noise, np.uint8)}
    return Content(arrays={**reply.arrays, "more": more}, metrics=reply.metrics)


def main(site: Site) -> None:
    Client(site, ToyApplication(change=enlarge), SlowOutbox).run_here()


if __name__ == "__main__":
    main(Site(Path(sys.argv[1])))
