"""Makes the operator's state, once."""

import datetime as dt
from pathlib import Path

from hansa.core.errors import ConflictError, InvalidInputError
from hansa.server.authority import create_authority
from hansa.server.blobs import Remote
from hansa.server.releases.ceremony import create_repository
from hansa.server.releases.keys import create_keys, load_offline_keys, load_online_keys
from hansa.server.settings import ServerSettings, StateFolder
from hansa.server.state.database import open_database, shown
from hansa.server.state.members import Members
from hansa.server.state.runs import Runs

CHANNEL = "stable"
"""The one channel of releases."""


def initialise(state: StateFolder, settings: ServerSettings, now: dt.datetime) -> None:
    """Writes authority, release keys, repository, database and, to mark the end, the settings.

    Raises:
        ConflictError: there is a server's state already, or the database is not empty.
        InvalidInputError: a folder, file or database that the settings name is missing.
        TransportError: the place for blobs cannot be used.
    """
    _check(settings)
    state.refuse_if_initialised()
    _prepare_database(settings.database_url or state.database)
    if settings.blobs_url is not None:
        Remote(settings.blobs_url).probe(state.path)
    create_authority(state.authority, settings, now)
    create_keys(state.release_keys, state.offline_keys, [CHANNEL])
    create_repository(
        state.releases,
        online=load_online_keys(state.release_keys),
        offline=load_offline_keys(state.offline_keys),
        now=now,
    )
    state.write(settings)


def _prepare_database(where: Path | str) -> None:
    engine = open_database(where)
    try:
        if Runs(engine, lambda: 0.0).newest_first() or Members(engine, lambda: 0.0).everyone():
            raise ConflictError(
                f"the database {shown(where)} holds a federation already; name an empty one"
            )
    finally:
        engine.dispose()


def _check(settings: ServerSettings) -> None:
    for name, folder in settings.base_models.items():
        if not (folder / "config.json").is_file():
            raise InvalidInputError(
                f"base model {name!r}: {folder} is no Hugging Face folder (no config.json)"
            )
    catalogue = settings.public_catalogue
    if catalogue is not None and not catalogue.is_file():
        raise InvalidInputError(f"the public catalogue {catalogue} does not exist")
