"""Makes the operator's state, once."""

import datetime as dt

from hansa.core.errors import InvalidInputError
from hansa.server.authority import create_authority
from hansa.server.releases.ceremony import create_repository
from hansa.server.releases.keys import create_keys, load_offline_keys, load_online_keys
from hansa.server.settings import ServerSettings, StateFolder
from hansa.server.state.database import open_database

CHANNEL = "stable"
"""The one channel of releases."""


def initialise(state: StateFolder, settings: ServerSettings, now: dt.datetime) -> None:
    """Writes authority, release keys, repository, database and, to mark the end, the settings.

    Raises:
        ConflictError: there is a server's state already.
        InvalidInputError: a folder or file that the settings name is missing.
    """
    _check(settings)
    state.refuse_if_initialised()
    create_authority(state.authority, federation=settings.federation, host=settings.host, now=now)
    create_keys(state.release_keys, state.offline_keys, [CHANNEL])
    create_repository(
        state.releases,
        online=load_online_keys(state.release_keys),
        offline=load_offline_keys(state.offline_keys),
        now=now,
    )
    open_database(state.database).dispose()
    state.write(settings)


def _check(settings: ServerSettings) -> None:
    for name, folder in settings.base_models.items():
        if not (folder / "config.json").is_file():
            raise InvalidInputError(
                f"base model {name!r}: {folder} is no Hugging Face folder (no config.json)"
            )
    catalogue = settings.public_catalogue
    if catalogue is not None and not catalogue.is_file():
        raise InvalidInputError(f"the public catalogue {catalogue} does not exist")
