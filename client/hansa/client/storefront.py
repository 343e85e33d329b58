"""Keeps the newest verified release in service: fetch, verify, index, swap, report.

Serving never depends on the server: a failed update is noted, and the present release goes on
answering.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

from hansa.client.channel import open_channel
from hansa.client.contract_offer import takes_releases
from hansa.client.dataset import Dataset
from hansa.client.plans import PlanShelf
from hansa.client.retrieval.embedding_cache import EmbeddingCache
from hansa.client.retrieval.index import CatalogueIndex
from hansa.client.retrieval.serving_model import ServingModel
from hansa.client.serving.retail import ActiveRelease
from hansa.client.serving.server import RetailServer
from hansa.client.site import Site, SiteSettings
from hansa.client.updates.guard import SiteGuard, StatementGuard
from hansa.client.updates.release_source import GrpcReleaseSource
from hansa.client.updates.updater import Updater
from hansa.core.cold import is_cold
from hansa.core.errors import HansaError, TransportError, UnauthorisedError
from hansa.core.release import ReleaseManifest

_log = logging.getLogger(__name__)

CHANNEL = "stable"


class Storefront:
    """The on-site service and the thread that keeps it up to date."""

    def __init__(self, site: Site, settings: SiteSettings, server: RetailServer) -> None:
        self._site = site
        self._settings = settings
        self._server = server

    def run(self, stop: threading.Event) -> None:
        """Serves what is installed, then looks for updates until told to stop."""
        self._attempt("cannot serve the installed release", self._serve_current)
        if not takes_releases(self._site):
            _log.warning("the contract lets no release be taken: the present one goes on")
            return
        while not stop.wait(self._settings.update_period_s):
            self._attempt("no update", self._update)

    def _attempt(self, what: str, action: Callable[[GrpcReleaseSource], None]) -> None:
        try:
            with self._channel() as channel:
                action(GrpcReleaseSource(channel, address=self._settings.server_address))
        except HansaError as error:
            _log.warning("%s: %s", what, error)

    def _channel(self) -> grpc.Channel:
        credentials = self._site.credentials()
        return open_channel(
            self._settings.server_address,
            authority_pem=self._site.authority_pem(),
            key_pem=credentials.key_pem,
            certificate_pem=credentials.certificate_pem,
        )

    def _update(self, source: GrpcReleaseSource) -> None:
        updater = self._updater(source, SiteGuard(self._site, self._settings.merchant))
        if updater.refresh_and_fetch(CHANNEL) is not None or self._server.active is None:
            self._serve_current(source)

    def _updater(self, source: GrpcReleaseSource, guard: StatementGuard | None = None) -> Updater:
        return Updater(self._site.releases, source, self._site.tuf_root(), guard=guard)

    def _serve_current(self, source: GrpcReleaseSource) -> None:
        updater = self._updater(source)
        folder, manifest = updater.current(), updater.current_manifest()
        if folder is None or manifest is None:
            return
        try:
            self._server.activate(self._indexed(folder, manifest))
        except HansaError as error:
            self._report(source, manifest, serving=False, sentence=str(error))
            raise
        _log.info("serving release %s", manifest.version)
        self._report(source, manifest, serving=True, sentence="")

    def _indexed(self, folder: Path, manifest: ReleaseManifest) -> ActiveRelease:
        dataset = Dataset.load(self._site.dataset)
        model = ServingModel.load(folder, threads=self._settings.threads)
        texts = [item.text for item in dataset.items]
        index = CatalogueIndex(
            dataset.items,
            model,
            EmbeddingCache(self._site.cache).embeddings(model, texts),
            rng=np.random.default_rng(),
            new_item_ids=self._new_items(dataset, manifest.plan_digest),
            threads=self._settings.threads,
        )
        return ActiveRelease(index=index, version=manifest.release_version)

    def _new_items(self, dataset: Dataset, plan_digest: str) -> set[str]:
        """Items that the release's run never trained on."""
        plan = PlanShelf(self._site.plans).find(plan_digest)
        if plan is None:
            return set()
        return {item.item_id for item in dataset.items if is_cold(item.key, plan.task)}

    @staticmethod
    def _report(
        source: GrpcReleaseSource, manifest: ReleaseManifest, *, serving: bool, sentence: str
    ) -> None:
        """An operator that cannot be told does not keep the shop from serving."""
        try:
            source.report_health(
                channel=manifest.channel,
                version=manifest.release_version,
                serving=serving,
                sentence=sentence[:500],
            )
        except (TransportError, UnauthorisedError) as error:
            _log.warning("the operator could not be told: %s", error)
