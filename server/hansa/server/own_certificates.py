"""The certificates that the server shows and that the operator's commands call with.

The server renews both while it runs, in the last third of their lives, and at once when it is told
to. It looks at the files at every new connection, so that whoever shares the folder (another server
process, ``hansa-server rotate-certificate``) may renew them: open connections live on with the
certificate that they began with.
"""

import contextlib
import datetime as dt
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from hansa.core.credentials import read_credentials, write_credentials
from hansa.core.errors import InvalidInputError
from hansa.core.identity import (
    SERVER_DNS_NAME,
    Credentials,
    Identity,
    Role,
    due_from,
    issue,
    make_key,
)
from hansa.server.settings import ServerSettings

_log = logging.getLogger(__name__)

SERVER, OPERATOR = "server", "operator"
_NAMES = (SERVER, OPERATOR)


def read_own(folder: Path, name: str) -> Credentials:
    """A key and its certificate, read while nobody replaces them.

    Raises:
        InvalidInputError: a file is missing or damaged, or the two do not belong together.
    """
    with _locked(folder, fcntl.LOCK_SH):
        return _read(folder, name)


class OwnCertificates:
    """Issues the server's and the operator's certificates into the authority's folder."""

    def __init__(
        self, folder: Path, settings: ServerSettings, now: Callable[[], dt.datetime]
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._now = now

    def server(self) -> Credentials:
        """What the server shows to its callers."""
        return read_own(self._folder, SERVER)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Something that changes when the server's files are replaced."""
        paths = (self._folder / f"{SERVER}.key.pem", self._folder / f"{SERVER}.pem")
        return tuple((status.st_ino, status.st_mtime_ns) for status in map(os.stat, paths))

    def rotate(self) -> None:
        """Issues both anew, for new keys.

        Raises:
            InvalidInputError: the authority's own files are missing or damaged.
        """
        with _locked(self._folder, fcntl.LOCK_EX):
            for name in _NAMES:
                self._issue(name)

    def keep_fresh(self) -> dt.datetime:
        """Renews what is due, and mends what is damaged or was left half written.

        Returns:
            When it is worth while to look again.

        Raises:
            InvalidInputError: the authority's own files are missing or damaged.
        """
        with _locked(self._folder, fcntl.LOCK_EX):
            for name in _NAMES:
                if self._is_due(name):
                    self._issue(name)
            return min(due_from(_read(self._folder, name).certificate) for name in _NAMES)

    def is_past(self, moment: dt.datetime) -> bool:
        """Whether the clock has reached a moment."""
        return self._now() >= moment

    def _is_due(self, name: str) -> bool:
        try:
            return self.is_past(due_from(_read(self._folder, name).certificate))
        except InvalidInputError as error:
            _log.warning("%s; a new one is issued", error)
            return True

    def _issue(self, name: str) -> None:
        settings, key = self._settings, make_key()
        authority = read_credentials(self._folder, "authority")
        if name == SERVER:
            identity = Identity(role=Role.SERVER, name=settings.federation)
            valid_for = dt.timedelta(days=settings.server_certificate_days)
            hosts: tuple[str, ...] = (SERVER_DNS_NAME, *settings.hosts)
        else:
            identity = Identity(role=Role.OPERATOR, name="operator")
            valid_for, hosts = dt.timedelta(days=settings.operator_certificate_days), ()
        certificate = issue(
            authority,
            key.public_key(),
            identity,
            now=self._now(),
            valid_for=valid_for,
            hosts=hosts,
        )
        write_credentials(self._folder, name, Credentials(key=key, certificate=certificate))
        until = certificate.not_valid_after_utc
        _log.info("issued the certificate of the %s, valid until %s", name, until)


class ShownCertificate:
    """What gRPC asks for at every new connection: the certificate to show."""

    def __init__(self, own: OwnCertificates, authority_pem: bytes) -> None:
        """Renews first what is due.

        Raises:
            InvalidInputError: the authority's files are damaged.
        """
        self._own = own
        self._authority_pem = authority_pem
        self._due_from = own.keep_fresh()
        self._stamp = own.stamp()
        self._shown = self._given = self._read()
        self._lock = threading.Lock()

    def change(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC is to show from now on, said once; None: what it has.

        gRPC puts whatever it is given in the place of what it has, without a lock, while other
        connections are being opened: given the same at each of them, it crashes now and then.
        """
        with self._lock:
            shown = self()
            if shown is self._given:
                return None
            self._given = shown
            return shown

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        """The present certificate; after a fault in renewing, the one that was shown before."""
        try:
            if self._own.is_past(self._due_from):
                self._due_from = self._own.keep_fresh()
            if (stamp := self._own.stamp()) != self._stamp:
                self._shown, self._stamp = self._read(), stamp
        except (InvalidInputError, OSError):
            _log.exception("the server's certificate was not renewed; the present one stays")
        return self._shown

    def _read(self) -> grpc.ServerCertificateConfiguration:
        own = self._own.server()
        pair = (own.key_pem, own.certificate_pem)
        return grpc.ssl_server_certificate_configuration([pair], self._authority_pem)


def _read(folder: Path, name: str) -> Credentials:
    own = read_credentials(folder, name)
    if not own.belong_together:
        raise InvalidInputError(
            f"the key and the certificate {name!r} in {folder} do not belong together; "
            "run 'hansa-server rotate-certificate'"
        )
    return own


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)
