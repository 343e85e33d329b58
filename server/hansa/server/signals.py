"""What the operating system may tell a running server."""

import asyncio
import signal
from collections.abc import Callable


async def until_told_to_stop(*, rotate: Callable[[], None]) -> None:
    """Waits for SIGTERM or SIGINT; meanwhile SIGHUP has the certificate rotated."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, rotate)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
