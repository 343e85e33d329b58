"""The client's life on the line: connect, register, work, and connect again after any fault."""

import datetime as dt
import logging
import queue
import random
import threading
import time
from collections.abc import Callable

import grpc

from hansa.client.channel import CALL_TIMEOUT_S, open_channel, translated
from hansa.client.enrol import renew_if_due
from hansa.client.node.wire import Wire
from hansa.client.node.work import Worker
from hansa.client.site import Site, SiteSettings
from hansa.client.version import PROTOCOL, SOFTWARE
from hansa.core.errors import ConflictError, TransportError
from hansa.protos.v1 import federation_pb2 as pb
from hansa.protos.v1 import federation_pb2_grpc as rpc

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LOOK_S = 0.1


class NodeLoop:
    """Keeps a session with the server open until it is told to stop."""

    def __init__(self, site: Site, settings: SiteSettings, worker: Worker) -> None:
        self._site = site
        self._settings = settings
        self._worker = worker
        self._pause_s = _FIRST_PAUSE_S

    def run(self, stop: threading.Event) -> None:
        """Serves the federation; only a refusal that waiting cannot mend ends it.

        Raises:
            UnauthorisedError: the membership was revoked or the certificate replaced.
            InvalidInputError: the server speaks another version.
            ConflictError: another client of the same merchant took over.
            LedgerError: the server has seen more of the ledger than this site holds.
        """
        while not stop.is_set():
            try:
                self._connect(stop)
            except TransportError as error:
                _log.warning("%s; trying again in %.1f s", error, self._pause_s)
                stop.wait(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnections only
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _connect(self, stop: threading.Event) -> None:
        address = self._settings.server_address
        credentials = self._site.credentials()
        channel = open_channel(
            address,
            authority_pem=self._site.authority_pem(),
            key_pem=credentials.key_pem,
            certificate_pem=credentials.certificate_pem,
        )
        with channel, translated(address):
            request = pb.RegisterRequest(protocol=PROTOCOL, software=SOFTWARE)
            session = rpc.FederationStub(channel).Register(request, timeout=CALL_TIMEOUT_S)
            _log.info("connected to %s as %s", address, session.merchant)
            self._worker.check_seen(session.next_ledger_position)
            if renew_if_due(self._site, channel, dt.datetime.now(dt.UTC)):
                _log.info("renewed the certificate; connecting again with it")
                return
            self._pause_s = _FIRST_PAUSE_S
            _Session(
                Wire(channel, session), self._worker, session.heartbeat_period_ms / 1000
            ).serve(stop)


class _Session:
    """One registration: a thread reads events, a thread beats, the caller's thread works."""

    def __init__(self, wire: Wire, worker: Worker, period_s: float) -> None:
        self._wire = wire
        self._worker = worker
        self._period_s = period_s
        self._tasks: queue.Queue[pb.Task] = queue.Queue()
        self._cancelled: set[str] = set()
        self._over = threading.Event()
        self._fault: Exception | None = None

    def serve(self, stop: threading.Event) -> None:
        """Works until told to stop or until the line breaks."""
        for target in (self._read, self._beat):
            threading.Thread(target=self._watched(target), daemon=True).start()
        try:
            while not stop.is_set() and not self._over.is_set():
                self._work_once()
        finally:
            self._over.set()
        if self._fault is not None and not stop.is_set():
            raise self._fault

    def _work_once(self) -> None:
        try:
            task = self._tasks.get(timeout=_LOOK_S)
        except queue.Empty:
            return
        if task.task_id not in self._cancelled:
            self._worker.do(task, self._wire)

    def _read(self) -> None:
        for event in self._wire.events():
            match event.WhichOneof("event"):
                case "task":
                    self._tasks.put(event.task)
                case "cancel":
                    self._cancelled.add(event.cancel.task_id)
            if self._over.is_set():
                return

    def _beat(self) -> None:
        while not self._over.wait(self._period_s / 2):
            started = time.monotonic()
            if not self._wire.heartbeat():
                raise ConflictError(
                    "another client of this merchant took over; stop one of the two"
                )
            _log.debug("heartbeat took %.3f s", time.monotonic() - started)

    def _watched(self, target: Callable[[], None]) -> Callable[[], None]:
        """A thread's fault becomes the session's, once."""

        def watched() -> None:
            try:
                target()
            except (grpc.RpcError, ConflictError) as error:
                self._fault = self._fault or error
            finally:
                self._over.set()

        return watched
