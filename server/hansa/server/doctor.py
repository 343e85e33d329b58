"""``hansa-server doctor``: looks at the operator's state from all sides; changes nothing.

It works before ``init`` and while the server is down.
"""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from hansa.core.credentials import read_credentials
from hansa.core.diagnosis import (
    Finding,
    authority_certificate,
    certificate,
    clock_went_back,
    expiry,
    not_set_up,
    port,
    private_files,
    problem,
)
from hansa.core.endpoints import endpoints_of
from hansa.core.errors import HansaError
from hansa.core.identity import SERVER_DNS_NAME
from hansa.core.machine import (
    attempted,
    connect_errors,
    machine_findings,
    private_modes,
    shows_certificate_of,
)
from hansa.server.own_certificates import OPERATOR, SERVER
from hansa.server.settings import ServerSettings, StateFolder

_ROTATE = "hansa-server rotate-certificate"
_OFFLINE_EARLY = dt.timedelta(days=60)
_ONLINE_EARLY = dt.timedelta(hours=1)


def examine(state: StateFolder, address: str | None = None) -> list[Finding]:
    """Every check of a server, in the order in which to mend what they find.

    Args:
        state: the operator's state.
        address: HOST:PORT at which to call the server; by default on this machine.
    """
    findings = machine_findings(state.path, "server")
    if not state.is_initialised():
        sentence = f"there is no server in {state.path} yet"
        remedy = "hansa-server init --address HOST:PORT, or name the folder with --state"
        return [*findings, not_set_up("state", sentence, remedy)]
    try:
        settings = state.settings()
    except HansaError as error:
        return [*findings, problem("state", str(error), well="")]
    return [
        *findings,
        problem("state", None, well=f"federation {settings.federation} at {settings.address}"),
        *attempted("base models", lambda: _folders(settings)),
        *attempted("certificates", lambda: _certificates(state)),
        *attempted("permissions", lambda: private_files(private_modes(_private(state)))),
        *attempted("offline keys", lambda: _offline_keys(state)),
        *attempted("releases", lambda: _releases(state)),
        *attempted("database", lambda: _database(state, settings)),
        *attempted("server", lambda: _server(state, address or settings.local_address)),
    ]


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _certificates(state: StateFolder) -> Sequence[Finding]:
    authority = read_credentials(state.authority, "authority").certificate
    return [
        authority_certificate(authority, now=_now()),
        *attempted("server certificate", lambda: _own(state, SERVER, authority)),
        *attempted("operator certificate", lambda: _own(state, OPERATOR, authority)),
    ]


def _own(state: StateFolder, name: str, authority: x509.Certificate) -> Finding:
    return certificate(
        f"{name} certificate",
        read_credentials(state.authority, name),
        authority,
        now=_now(),
        renews_itself=True,
        remedy=_ROTATE,
    )


def _private(state: StateFolder) -> list[Path]:
    folders = (state.authority, state.release_keys, state.offline_keys)
    return [path for folder in folders for path in folder.glob("*") if "key" in path.name]


def _offline_keys(state: StateFolder) -> Finding:
    if state.offline_keys.is_dir() and any(state.offline_keys.iterdir()):
        sentence = f"the root keys of releases still lie in {state.offline_keys}"
        return not_set_up("offline keys", sentence, "move them away, to at least two safe places")
    return problem("offline keys", None, well="not on this machine")


def _folders(settings: ServerSettings) -> Finding:
    missing = [
        f"{name} ({folder})"
        for name, folder in settings.base_models.items()
        if not (folder / "config.json").is_file()
    ]
    catalogue = settings.public_catalogue
    if catalogue is not None and not catalogue.is_file():
        missing.append(f"public catalogue ({catalogue})")
    error = f"missing: {', '.join(missing)}" if missing else None
    well = f"{len(settings.base_models)} found"
    return problem("base models", error, well=well, remedy="mend the path in server.json")


def _releases(state: StateFolder) -> Sequence[Finding]:
    """Root and targets need the offline keys; the rest is renewed by a running server."""
    from hansa.server.releases.files import RepositoryFiles

    files, now = RepositoryFiles(state.releases), _now()
    offline = "renew it with the offline keys; see docs/operations.md"
    ends = {
        "root": (files.newest_root().signed.expires, _OFFLINE_EARLY, offline),
        "targets": (files.role("targets").signed.expires, _OFFLINE_EARLY, offline),
        "timestamp": (files.timestamp().signed.expires, _ONLINE_EARLY, "hansa-server start"),
    }
    return [
        expiry(f"release {role}", end, now=now, early=early, remedy=remedy)
        for role, (end, early, remedy) in ends.items()
    ]


def _database(state: StateFolder, settings: ServerSettings) -> Sequence[Finding]:
    """Whole, of a known version, and not from the future."""
    from hansa.server.state.inspection import inspect_database

    seen = inspect_database(settings.database_url or state.database)
    newest = (
        None if seen.newest_event is None else dt.datetime.fromtimestamp(seen.newest_event, dt.UTC)
    )
    remedy = "stop the server and restore the database from a backup"
    well = f"whole, {seen.merchants} merchants, {seen.runs} runs"
    return [
        problem("database", seen.damage, well=well, remedy=remedy),
        clock_went_back(_now(), newest),
    ]


def _server(state: StateFolder, address: str) -> Finding:
    from hansa.server.operator_client import connect

    if None not in connect_errors(address):
        return port("server", address, taken=False, ours=False, start="hansa-server start")
    authority = state.authority / "authority.pem"
    if not any(
        shows_certificate_of(endpoint, authority, SERVER_DNS_NAME)
        for endpoint in endpoints_of(address)
    ):
        return port("server", address, taken=True, ours=False, start="hansa-server start")
    try:
        with connect(state, address) as client:
            client.merchants()
    except HansaError as error:
        return problem("server", str(error), well="")
    return port("server", address, taken=True, ours=True, start="hansa-server start")
