"""The real server with a benchmark's models, as a process of its own.

``python -m benchmarks.federation_parts.server_process STATE`` runs until a signal ends it. All of
it is the product but the models: ``assemble`` and ``running`` of ``hansa.server.serve``, with the
database and the blobs of the state folder.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
from pathlib import Path

from benchmarks.federation_parts.payload import PAYLOADS
from benchmarks.federation_parts.processes import die_with_parent
from hansa.core.content import Content
from hansa.core.plan import RunPlan
from hansa.core.quiet import stay_offline
from hansa.core.storage import BlobStore
from hansa.core.update import Arrays
from hansa.server.serve import assemble, running
from hansa.server.settings import ServerSettings, StateFolder
from tests.fakes.toy_federation import ToyReleases

_log = logging.getLogger(__name__)


class PayloadReleases(ToyReleases):
    """The real repository of releases, and models by the name in the plan."""

    def initial(self, plan: RunPlan, parent: int = 0) -> Arrays:
        """The payload that the plan names."""
        return _model(plan.model.base)

    def context(self, plan: RunPlan, inherited: Content | None = None) -> Content:
        """One small public array, as every run has some."""
        return Content(arrays={"public": {"ids": _model("lora")["layer-000"]}})


@functools.cache
def _model(payload: str) -> Arrays:
    return PAYLOADS[payload].model()


def open_payloads(
    state: StateFolder, _settings: ServerSettings, _blobs: BlobStore
) -> PayloadReleases:
    """What ``assemble`` wants as its ``open_releaser``."""
    return PayloadReleases(state)


async def _serve(state: StateFolder) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with running(assemble(state, open_payloads)):
        await told.wait()


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stay_offline(os.environ)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(StateFolder(Path(sys.argv[1]))))
