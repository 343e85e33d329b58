"""The operator's trust: certificate authority, the server's own credentials, plan key, TUF root.

All of it lies in one folder, made by ``hansa-server init``; private keys have mode 0600.
"""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hansa.core.credentials import read_credentials, write_credentials
from hansa.core.errors import InvalidInputError
from hansa.core.identity import (
    Credentials,
    Identity,
    Role,
    issue,
    make_authority,
    make_key,
    public_key_of_request,
)
from hansa.core.invitation import Invitation
from hansa.core.storage import write_atomically
from hansa.server.own_certificates import OwnCertificates
from hansa.server.settings import ServerSettings

_AUTHORITY_VALID = dt.timedelta(days=3650)

Now = Callable[[], dt.datetime]


def create_authority(folder: Path, settings: ServerSettings, now: dt.datetime) -> None:
    """Makes the CA, the server's and the operator's certificates, and the key that signs plans."""
    name = f"Hansa federation {settings.federation}"
    authority = make_authority(name, now=now, valid_for=_AUTHORITY_VALID)
    write_credentials(folder, "authority", authority)
    OwnCertificates(folder, settings, lambda: now).rotate()
    plan_key = Ed25519PrivateKey.generate()
    pem = plan_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_atomically(folder / "plan.key.pem", pem, mode=0o600)


class Authority:
    """Signs certificates, invitations and plans for the federation."""

    def __init__(
        self, folder: Path, *, settings: ServerSettings, tuf_root: bytes, now: Now
    ) -> None:
        self._now = now
        self._merchants_valid = dt.timedelta(days=settings.client_certificate_days)
        self._authority = read_credentials(folder, "authority")
        self._plan_key = read_plan_key(folder / "plan.key.pem")
        self.tuf_root = tuf_root
        self.own = OwnCertificates(folder, settings, now)
        """What the server itself shows, and the operator's commands."""

    @property
    def authority_pem(self) -> bytes:
        """The CA's certificate."""
        return self._authority.certificate_pem

    @property
    def certificate(self) -> x509.Certificate:
        """The same, as an object."""
        return self._authority.certificate

    @property
    def plan_key(self) -> Ed25519PrivateKey:
        """Signs run plans."""
        return self._plan_key

    @property
    def plan_public_key(self) -> bytes:
        """Raw Ed25519 public key of the plan key, 32 bytes."""
        return self._plan_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def certify(self, merchant: str, request_der: bytes) -> tuple[bytes, float]:
        """A merchant's certificate in DER and its expiry (seconds since 1970).

        Raises:
            InvalidInputError: the request is malformed.
        """
        identity = Identity(role=Role.MERCHANT, name=merchant)
        key = public_key_of_request(request_der)
        certificate = issue(
            self._authority, key, identity, now=self._now(), valid_for=self._merchants_valid
        )
        return certificate.public_bytes(Encoding.DER), certificate.not_valid_after_utc.timestamp()

    def certify_auditor(
        self, name: str, request_der: bytes, valid_for: dt.timedelta
    ) -> tuple[bytes, float]:
        """An auditor's certificate in DER and its expiry (seconds since 1970).

        Raises:
            InvalidInputError: the request is malformed.
        """
        identity = Identity(role=Role.AUDITOR, name=name)
        key = public_key_of_request(request_der)
        certificate = issue(self._authority, key, identity, now=self._now(), valid_for=valid_for)
        return certificate.public_bytes(Encoding.DER), certificate.not_valid_after_utc.timestamp()

    def invite(
        self, merchant: str, address: str, valid_for: dt.timedelta
    ) -> tuple[Invitation, str, float]:
        """A new invitation, its certificate's serial number (hex) and expiry (Unix seconds)."""
        key = make_key()
        identity = Identity(role=Role.INVITATION, name=merchant)
        certificate = issue(
            self._authority, key.public_key(), identity, now=self._now(), valid_for=valid_for
        )
        credentials = Credentials(key=key, certificate=certificate)
        invitation = Invitation(
            merchant=merchant,
            address=address,
            authority_pem=self.authority_pem.decode(),
            certificate_pem=credentials.certificate_pem.decode(),
            key_pem=credentials.key_pem.decode(),
        )
        expires = certificate.not_valid_after_utc.timestamp()
        return invitation, format(certificate.serial_number, "x"), expires


def read_plan_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs plans and terms.

    Raises:
        InvalidInputError: the file is missing, or holds no such key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read the plan key {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInputError(f"{path} must hold an Ed25519 key")
    return key
