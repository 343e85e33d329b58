"""Lets work in hand be given up between two steps.

The work runs inside a Flower app, whose calls have no place for such a wish; so it is carried by a
context variable. Work that never asks goes on to its end, and its result is thrown away.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hansa.core.errors import HansaError

_UNWANTED: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)


class WorkInterruptedError(HansaError):
    """The work is not wanted any more; what was reserved for it stays spent."""


@contextmanager
def interruptible(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Within this context, work of this thread asks ``unwanted`` whether it is to end."""
    token = _UNWANTED.set(unwanted)
    try:
        yield
    finally:
        _UNWANTED.reset(token)


def is_unwanted() -> bool:
    """Whether the work in hand is to end."""
    return _UNWANTED.get()()


def check_wanted() -> None:
    """Raises WorkInterruptedError: the work in hand is to end."""
    if is_unwanted():
        raise WorkInterruptedError("the work is not wanted any more")
