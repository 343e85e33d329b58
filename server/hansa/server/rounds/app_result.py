"""Catches what ``Strategy.start`` returns within a foreign ServerApp, which keeps it to itself."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from flwr.serverapp.strategy import Result, Strategy

_keep_result: ContextVar[Callable[[Result], None] | None] = ContextVar("keep_result", default=None)


@contextlib.contextmanager
def results_kept(keep: Callable[[Result], None]) -> Iterator[None]:
    """Within this context, what ``Strategy.start`` returns is also given to ``keep``.

    A ServerApp's ``main`` returns nothing, and Flower offers no other way to its result.
    """
    if not hasattr(Strategy.start, "__wrapped__"):
        Strategy.start = _keeping(Strategy.start)  # type: ignore[method-assign]
    token = _keep_result.set(keep)
    try:
        yield
    finally:
        _keep_result.reset(token)


def _keeping(start: Callable[..., Result]) -> Callable[..., Result]:
    @functools.wraps(start)
    def keeping(*args: Any, **kwargs: Any) -> Result:
        result = start(*args, **kwargs)
        keep = _keep_result.get()
        if keep is not None:
            keep(result)
        return result

    return keeping
