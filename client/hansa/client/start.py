"""Runs a site: the federation's tasks, the updates and the on-site service, until told to stop."""

import datetime as dt
import logging
import signal
import threading
import time

from hansa.client.application import FlowerApplication
from hansa.client.entropy import SystemEntropy
from hansa.client.halt import HaltSwitch
from hansa.client.ledger_store import LedgerStore
from hansa.client.node.codec import TaskCodec
from hansa.client.node.guests import Guests
from hansa.client.node.loop import NodeLoop
from hansa.client.node.outbox import MAX_LETTER_BYTES, Outbox
from hansa.client.node.secure import SecureRounds
from hansa.client.node.work import Worker
from hansa.client.participation import Participation
from hansa.client.serving.server import RetailServer, ServingSettings, TlsFiles
from hansa.client.site import Site, SiteSettings
from hansa.client.storefront import Storefront
from hansa.client.witness import Witness
from hansa.core.credentials import read_credentials
from hansa.core.storage import BlobStore

_log = logging.getLogger(__name__)

_GRACE_S = 3.0


def utc_now() -> dt.datetime:
    """The present moment, aware of its zone."""
    return dt.datetime.now(dt.UTC)


def start(site: Site) -> None:
    """Runs the site until SIGTERM or SIGINT.

    What the federation refuses ends the taking part, never the serving.

    Raises:
        HansaError: the site cannot run: not joined, ledger in use or broken, port taken.
    """
    settings = site.settings()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = _retail_server(site, settings)
    server.start()
    _log.info("search and recommendation on %s:%s", settings.serving_listen, server.port)
    storefront = Storefront(site, settings, server)
    thread = threading.Thread(target=storefront.run, args=(stop,), name="storefront", daemon=True)
    thread.start()
    try:
        _take_part(site, settings, stop)
        stop.wait()
    finally:
        stop.set()
        thread.join(timeout=_GRACE_S)
        server.stop(_GRACE_S)


def _take_part(site: Site, settings: SiteSettings, stop: threading.Event) -> None:
    """Serves the federation unless the site was stopped; the shop is served in any case."""
    with LedgerStore.open(site.ledger) as store:
        Participation(HaltSwitch(site.halt), lambda: _node(site, settings, store)).run(stop)


def _node(site: Site, settings: SiteSettings, store: LedgerStore) -> NodeLoop:
    application = FlowerApplication(site)
    most = min(MAX_LETTER_BYTES, store.ledger.contract.max_up_bytes_per_round)
    outbox, contexts = Outbox(site.outbox, most), BlobStore(site.contexts)
    codec = TaskCodec.of(site, store.ledger)
    secure = SecureRounds(site, SystemEntropy(), utc_now)
    guests = Guests(site, settings, store, outbox, utc_now)
    parts = (settings, store, outbox, contexts, application, utc_now, codec, secure, guests)
    worker = Worker(*parts, Witness.of(site))
    return NodeLoop(site, settings, worker)


def _retail_server(site: Site, settings: SiteSettings) -> RetailServer:
    own = read_credentials(site.applications, "service")
    authority = (site.applications / "authority.pem").read_bytes()
    tls = TlsFiles(key=own.key_pem, chain=own.certificate_pem, client_authority=authority)
    where = ServingSettings(host=settings.serving_listen, port=settings.serving_port)
    return RetailServer(where, tls, clock=time.monotonic)
