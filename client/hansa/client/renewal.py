"""Keeps the certificate young while one session stays open for months.

The new certificate is written beside the key and used at the next connection; the session goes on
with the one that it began with, which the server lets pass until a session is opened with the new
one. So the work in hand is not disturbed, and a lost reply locks nobody out.
"""

import datetime as dt
import logging
from collections.abc import Callable

import grpc

from hansa.client.enrol import renew_if_due
from hansa.client.site import Site
from hansa.core.errors import HansaError
from hansa.core.identity import due_from

_log = logging.getLogger(__name__)

_RETRY = dt.timedelta(minutes=1)


class Renewal:
    """Renews at most once in a session.

    A second time would leave the server with two certificates that it issued and never saw: were
    the reply to the second one lost, it would know neither that the first had arrived.
    """

    def __init__(
        self, site: Site, channel: grpc.Channel, server_now: Callable[[], dt.datetime]
    ) -> None:
        """Borrows the session's channel; ``server_now`` is the clock that decides."""
        self._site = site
        self._channel = channel
        self._server_now = server_now
        self._done = False
        self._next = due_from(site.credentials().certificate)

    def check(self) -> None:
        """Renews when it is due; cheap when it is not. A fault is logged and tried again later."""
        now = self._server_now()
        if self._done or now < self._next:
            return
        self._next = now + _RETRY
        try:
            renew_if_due(self._site, self._channel, now)
        except grpc.RpcError as error:
            _log.warning("the certificate was not renewed (%s); trying again", error.code())
        except (HansaError, OSError) as error:
            _log.warning("the certificate was not renewed: %s; trying again", error)
        else:
            self._done = True
            until = self._site.credentials().certificate.not_valid_after_utc
            _log.info("renewed the certificate until %s; the next connection uses it", until)
