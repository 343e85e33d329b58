"""Removes blobs that no run, release or auditor needs any more.

What is removed was named by something that is over and is needed by nothing else; a blob that
nobody names stays, because it may be on its way. Nothing younger than a day goes either.
"""

import logging
from dataclasses import dataclass

from hansa.core.ids import Sha256
from hansa.core.storage import BlobStore, Stored
from hansa.server.blobs import open_blobs
from hansa.server.initialise import CHANNEL
from hansa.server.releases.keys import load_online_keys
from hansa.server.releases.repository import ReleaseRepository
from hansa.server.settings import StateFolder
from hansa.server.state.database import open_database
from hansa.server.state.references import BlobReferences, References
from hansa.server.state.tasks import Tasks
from hansa.server.state.uploads import Deliveries
from hansa.server.uploads import Uploads

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What was removed, or would be."""

    blobs: int
    size_bytes: int
    kept_blobs: int
    kept_bytes: int


def clean(state: StateFolder, *, now: float, min_age_s: float, dry_run: bool) -> Cleaning:
    """Removes what is not needed any more; a server may run meanwhile.

    Args:
        state: the operator's state.
        now: seconds since 1970.
        min_age_s: only what is older goes, of runs that ended longer ago.
        dry_run: only looks.
    """
    settings = state.settings()
    blobs = open_blobs(state, settings)
    engine = open_database(settings.database_url or state.database)
    try:
        references = _references(state, BlobReferences(engine), over_since=now - min_age_s)
        if not dry_run:
            Uploads(state.uploads, blobs, Deliveries(engine), Tasks(engine)).sweep()
    finally:
        engine.dispose()
    return remove(blobs, references, older_than=now - min_age_s, dry_run=dry_run)


def remove(
    blobs: BlobStore, references: References, *, older_than: float, dry_run: bool
) -> Cleaning:
    """Removes the disposable blobs that were stored, or needed, before a moment."""
    gone, kept = [], []
    for blob in blobs.stored():
        disposable = blob.sha in references.disposable and blob.stored < older_than
        if disposable and (dry_run or _drop(blobs, blob.sha, older_than)):
            gone.append(blob)
        else:
            kept.append(blob)
    return Cleaning(
        blobs=len(gone),
        size_bytes=_total(gone),
        kept_blobs=len(kept),
        kept_bytes=_total(kept),
    )


def _drop(blobs: BlobStore, sha: Sha256, older_than: float) -> bool:
    """Looks at the age once more: somebody may have needed the same bytes since the listing."""
    found = blobs.find(sha)
    if found is None or found.stored >= older_than:
        return False
    blobs.drop(sha)
    _log.info("removed blob %s of %s bytes", sha, found.size_bytes)
    return True


def _references(state: StateFolder, references: BlobReferences, *, over_since: float) -> References:
    """The database's, and the models of the releases from which a run may go on."""
    repository = ReleaseRepository(state.releases, load_online_keys(state.release_keys))
    versions = repository.versions(CHANNEL)
    manifests = [repository.manifest(CHANNEL, version) for version in versions]
    models = {Sha256(manifest.aggregate_sha256) for manifest in manifests}
    read = references.read(over_since=over_since, releases=[int(version) for version in versions])
    return References(needed=read.needed | models, disposable=read.disposable - models)


def _total(blobs: list[Stored]) -> int:
    return sum(blob.size_bytes for blob in blobs)
