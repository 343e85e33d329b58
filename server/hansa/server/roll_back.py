"""Restores an earlier release: published again under the next version, and stated in the log."""

import datetime as dt

from sqlalchemy import Engine

from hansa.core.ids import ReleaseVersion
from hansa.server.releases.repository import ReleaseRepository
from hansa.server.state.database import writing
from hansa.server.state.fact_notes import note_fact
from hansa.server.transparency.scribe import release_leaf


def roll_back(
    repository: ReleaseRepository, engine: Engine, channel: str, to: int, now: dt.datetime
) -> int:
    """Restores a release; returns the new version. A running server goes on meanwhile.

    Where an earlier attempt died after it had published, only the log is mended.

    Raises:
        NotFoundError: there is no such release.
        ConflictError: it is the newest already, or another process is writing.
    """
    newest = repository.newest(channel)
    if newest is not None and newest.restores == to:
        version = newest.release_version
    else:
        version = repository.roll_back(channel, ReleaseVersion(to), now)
    leaf = release_leaf(repository.manifest(channel, version).to_bytes())
    with writing(engine) as session:
        note_fact(session, leaf)
    return version
