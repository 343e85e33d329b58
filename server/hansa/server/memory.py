"""The C library's memory settings, chosen so that the server's size follows its work."""

import ctypes
import logging

_log = logging.getLogger(__name__)

_M_ARENA_MAX = -8  # of <malloc.h>
_ARENAS = 2


def share_arenas() -> None:
    """Lets all threads take memory from the same few places.

    The GNU C library gives each new thread an arena of its own, up to eight for each core, and
    each keeps what its thread once needed: a server that moves large pieces in many threads would
    grow with the number of merchants. Other C libraries have no such setting and need none.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(_M_ARENA_MAX, _ARENAS):
        _log.debug("the C library keeps its own number of arenas")
