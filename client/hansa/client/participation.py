"""Taking part in the federation for as long as nobody stops it, and again when it is let."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from hansa.client.halt import HaltSwitch
from hansa.core.errors import HansaError, InvalidInputError

_log = logging.getLogger(__name__)

_LOOK_S = 0.5


class Node(Protocol):
    """The client's life on the line."""

    def run(self, stop: threading.Event, abort: threading.Event) -> None:
        """Serves the federation until ``stop``; ``abort`` throws the work in hand away."""
        ...


class Participation:
    """Runs the node unless the site's kill switch is set; looks at it twice a second."""

    def __init__(self, switch: HaltSwitch, node: Callable[[], Node]) -> None:
        self._switch = switch
        self._node = node

    def run(self, stop: threading.Event) -> None:
        """Takes part until ``stop``.

        What the federation refuses for good, and any fault that nobody foresaw, ends the taking
        part, never the caller's serving: it goes on after the switch was set and cleared, or at the
        next start.
        """
        while not stop.is_set():
            if self._switch.is_set():
                self._wait_for_clearance(stop)
            else:
                self._take_part(stop)

    def _wait_for_clearance(self, stop: threading.Event) -> None:
        _log.warning(
            "this site takes no part in the federation: %s; run 'hansa-client resume' to take part "
            "again; search and recommendation go on",
            self._why(),
        )
        while self._switch.is_set() and not stop.wait(_LOOK_S):
            pass
        if not stop.is_set():
            _log.info("the site may take part in the federation again")

    def _why(self) -> str:
        try:
            halt = self._switch.read()
        except InvalidInputError as error:
            return str(error)
        if halt is None:
            return "it was stopped"
        reason = f" ({halt.reason})" if halt.reason else ""
        return f"it was stopped on {halt.since:%Y-%m-%d %H:%M:%S} UTC{reason}"

    def _take_part(self, stop: threading.Event) -> None:
        end, abort, over = threading.Event(), threading.Event(), threading.Event()
        watch = threading.Thread(
            target=self._watch, args=(stop, end, abort, over), name="halt", daemon=True
        )
        watch.start()
        try:
            self._node().run(end, abort)
        except HansaError as error:
            _log.error(  # no traceback: the sentence says it all
                "%s. This site takes no part in the federation until it is started again; "
                "search and recommendation go on",
                error,
            )
            self._wait_for_news(stop)
        except Exception:  # noqa: BLE001 - the seam: a shop is served whatever happens here
            _log.exception(
                "a fault of this program. This site takes no part in the federation until it is "
                "started again; search and recommendation go on"
            )
            self._wait_for_news(stop)
        finally:
            over.set()

    def _wait_for_news(self, stop: threading.Event) -> None:
        while not stop.is_set() and not self._switch.is_set():
            stop.wait(_LOOK_S)

    def _watch(
        self,
        stop: threading.Event,
        end: threading.Event,
        abort: threading.Event,
        over: threading.Event,
    ) -> None:
        while not over.wait(_LOOK_S):
            if self._switch.is_set():
                if self._at_once():
                    abort.set()
                end.set()
            if stop.is_set():
                end.set()

    def _at_once(self) -> bool:
        """A damaged file stops everything."""
        try:
            halt = self._switch.read()
        except InvalidInputError:
            return True
        return halt is not None and halt.at_once
