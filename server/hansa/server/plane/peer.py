"""Who is calling: read from the certificate of the connection, checked on every call.

Connections outlive certificates and memberships, so a handshake once passed proves nothing about
now.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.identity import Identity, Role, identity_of
from hansa.core.ids import MerchantId
from hansa.server.state.members import Members


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The caller's identity and the certificate that proves it."""

    identity: Identity
    certificate_der: bytes
    serial: str


def peer_of(context: Any, *, now: dt.datetime) -> Peer:
    """The caller of a gRPC call.

    Raises:
        UnauthorisedError: the connection is not TLS 1.3, or the certificate is absent, has expired
            or names no identity.
        InvalidInputError: the call has no deadline.
    """
    if context.time_remaining() is None:
        raise InvalidInputError("every call needs a deadline; set a timeout")
    auth = context.auth_context()
    if "x509_pem_cert" not in auth:
        raise UnauthorisedError("this server speaks only with holders of a certificate")
    if auth.get("ssl_tls_version", [b""])[0] != b"TLSv1.3":
        raise UnauthorisedError("only TLS 1.3 is spoken here; update the client's TLS library")
    certificate = x509.load_pem_x509_certificate(auth["x509_pem_cert"][0])
    if certificate.not_valid_after_utc < now:
        raise UnauthorisedError("the certificate has expired; join again or renew in time")
    return Peer(
        identity=identity_of(certificate),
        certificate_der=certificate.public_bytes(Encoding.DER),
        serial=format(certificate.serial_number, "x"),
    )


class Gate:
    """Lets each caller through to what its role permits."""

    def __init__(self, members: Members, now: Callable[[], dt.datetime]) -> None:
        self._members = members
        self._now = now

    def merchant(self, context: Any) -> MerchantId:
        """The calling merchant.

        Raises:
            UnauthorisedError: the caller is not a present member with its present certificate.
        """
        peer = self.peer(context, Role.MERCHANT)
        self._members.check_member(peer.identity.name, peer.certificate_der)
        return MerchantId(peer.identity.name)

    def peer(self, context: Any, role: Role) -> Peer:
        """The caller, who must hold a role.

        Raises:
            UnauthorisedError: it holds another.
        """
        peer = peer_of(context, now=self._now())
        if peer.identity.role is not role:
            raise UnauthorisedError(
                f"this call is for the role {role}, the certificate says {peer.identity.role}"
            )
        return peer
