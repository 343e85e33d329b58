"""The client's life on the line: connect, register, work, and connect again after any fault."""

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator

import grpc
from cryptography import x509

from hansa.client.channel import open_channel, translated
from hansa.client.contract_offer import OfferShelf
from hansa.client.enrol import renew_if_due
from hansa.client.interruption import interruptible
from hansa.client.node.wire import Wire
from hansa.client.node.work import Worker
from hansa.client.registration import register
from hansa.client.renewal import Renewal
from hansa.client.site import Site, SiteSettings
from hansa.core.errors import ConflictError, TransportError, UnauthorisedError
from hansa.protos.v1 import federation_pb2 as pb

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
        self._shown: x509.Certificate | None = None
        self._offers = OfferShelf(site.offered_terms, settings.plan_public_key)

    def run(self, stop: threading.Event, abort: threading.Event | None = None) -> None:
        """Serves the federation; only a refusal that waiting cannot mend ends it.

        Args:
            stop: ends it once the work in hand is delivered.
            abort: cuts the line at once and gives up the work in hand; nothing leaves any more.

        Raises:
            UnauthorisedError: the membership was revoked or the certificate replaced.
            InvalidInputError: the server speaks another version.
            ConflictError: another client of the same merchant took over.
            LedgerError: the server has seen more of the ledger than this site holds.
        """
        aborted = abort or threading.Event()
        while not stop.is_set():
            try:
                self._connect(stop, aborted)
            except UnauthorisedError:
                if self._site.credentials().certificate == self._shown:
                    raise
                _log.info("this certificate was renewed meanwhile; connecting with the new one")
            except TransportError as error:
                if aborted.is_set():
                    return
                _log.warning("%s; trying again in %.1f s", error, self._pause_s)
                self._wait(stop)
            except OSError as error:
                # A full disk, for example: what was written whole is there, the rest comes again.
                _log.error("%s; mend this; trying again in %.1f s", error, self._pause_s)
                self._wait(stop)

    def _wait(self, stop: threading.Event) -> None:
        stop.wait(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnections only
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _connect(self, stop: threading.Event, abort: threading.Event) -> None:
        address = self._settings.server_address
        credentials = self._site.credentials()
        channel = open_channel(
            address,
            authority_pem=self._site.authority_pem(),
            key_pem=credentials.key_pem,
            certificate_pem=credentials.certificate_pem,
        )
        self._shown = credentials.certificate
        with channel, translated(address, self._shown):
            registration = register(channel)
            session = registration.session
            _log.info("connected to %s as %s", address, session.merchant)
            self._worker.check_seen(session.next_ledger_position)
            self._worker.check_clock(registration.ahead)
            self._offers.note(session.signed_terms)
            if renew_if_due(self._site, channel, registration.server_now()):
                _log.info("renewed the certificate; connecting again with it")
                return
            self._pause_s = _FIRST_PAUSE_S
            period_s = session.heartbeat_period_ms / 1000
            with _cut_by(abort, channel):
                renewal = Renewal(self._site, channel, registration.server_now)
                wire = Wire(channel, session)
                self._worker.settle(wire)
                _Session(wire, self._worker, period_s, renewal.check).serve(stop, abort)


@contextlib.contextmanager
def _cut_by(abort: threading.Event, channel: grpc.Channel) -> Iterator[None]:
    """Closes the channel as soon as ``abort`` is set, whatever this thread is doing."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if abort.wait(_LOOK_S):
                _log.warning("told to stop at once: the line is cut")
                channel.close()
                return

    threading.Thread(target=watch, name="abort", daemon=True).start()
    try:
        yield
    except ValueError:
        # What gRPC raises for a call on a channel that was closed meanwhile.
        if not abort.is_set():
            raise
    finally:
        over.set()


class _Session:
    """One registration: a thread reads events, a thread beats, the caller's thread works."""

    def __init__(
        self, wire: Wire, worker: Worker, period_s: float, renew: Callable[[], None]
    ) -> None:
        self._wire = wire
        self._worker = worker
        self._period_s = period_s
        self._renew = renew
        self._tasks: queue.Queue[pb.Task] = queue.Queue()
        self._cancelled: set[str] = set()
        self._over = threading.Event()
        self._fault: Exception | None = None

    def serve(self, stop: threading.Event, abort: threading.Event) -> None:
        """Works until told to stop or until the line breaks."""
        for target in (self._read, self._beat):
            threading.Thread(target=self._watched(target), daemon=True).start()
        try:
            while not stop.is_set() and not self._over.is_set():
                self._work_once(abort)
        finally:
            self._over.set()
        if self._fault is not None and not stop.is_set():
            raise self._fault

    def _work_once(self, abort: threading.Event) -> None:
        try:
            task = self._tasks.get(timeout=_LOOK_S)
        except queue.Empty:
            return
        if task.task_id not in self._cancelled:
            with interruptible(lambda: abort.is_set() or task.task_id in self._cancelled):
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
        while not self._over.wait(self._period_s):
            self._renew()
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
            except ValueError:
                # What gRPC raises for a call on a channel that was closed meanwhile.
                self._fault = self._fault or TransportError("the line was cut")
            finally:
                self._over.set()

        return watched
