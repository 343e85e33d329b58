"""A server with toy models as a process, to be killed.

``python -m tests.fakes.toy_server STATE PORT`` runs until a signal ends it.
"""

import asyncio
import sys
from pathlib import Path

from hansa.server.serve import assemble, running
from hansa.server.settings import StateFolder
from tests.fakes.toy_federation import open_toy_releases


async def main(state: StateFolder, port: int) -> None:
    async with running(assemble(state, open_toy_releases, port=port)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(StateFolder(Path(sys.argv[1])), int(sys.argv[2])))
