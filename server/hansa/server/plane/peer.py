"""Who is calling: read from the certificate of the connection, checked on every call.

Connections outlive certificates and memberships, so a handshake once passed proves nothing about
now. What a certificate says never changes and is read once; whether it still counts is looked up.
"""

import datetime as dt
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hansa.core.errors import InvalidInputError, UnauthorisedError
from hansa.core.identity import Identity, Role, identity_of
from hansa.core.ids import MerchantId
from hansa.server.state.members import Members

_KNOWN_CERTIFICATES = 4096
_EXPIRED = "the certificate has expired; join again or renew in time"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The caller's identity and the certificate that proves it."""

    identity: Identity
    certificate_der: bytes
    serial: str
    expires: dt.datetime


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
    peer = _peer_of_certificate(auth["x509_pem_cert"][0])
    if peer.expires < now:
        raise UnauthorisedError(_EXPIRED)
    return peer


@functools.lru_cache(maxsize=_KNOWN_CERTIFICATES)
def _peer_of_certificate(pem: bytes) -> Peer:
    """What a certificate says; TLS has verified who signed it."""
    certificate = x509.load_pem_x509_certificate(pem)
    return Peer(
        identity=identity_of(certificate),
        certificate_der=certificate.public_bytes(Encoding.DER),
        serial=format(certificate.serial_number, "x"),
        expires=certificate.not_valid_after_utc,
    )


class Gate:
    """Lets each caller through to what its role permits."""

    def __init__(self, members: Members, now: Callable[[], dt.datetime]) -> None:
        self._members = members
        self._now = now

    def merchant(self, context: Any) -> MerchantId:
        """The calling merchant; on the way of every call, so one look at the database and no more.

        Raises:
            UnauthorisedError: the caller is not a present member with its present certificate.
        """
        peer = self.peer(context, Role.MERCHANT)
        self._members.check_member(peer.identity.name, peer.certificate_der)
        return MerchantId(peer.identity.name)

    def arriving(self, context: Any) -> MerchantId:
        """The merchant that opens a session or renews: its previous certificate ceases to count.

        It has proven that the present one reached it, if that is the one which it shows.

        Raises:
            UnauthorisedError: as for ``merchant``.
        """
        merchant = self.merchant(context)
        peer = self.peer(context, Role.MERCHANT)
        self._members.retire_previous(merchant, peer.certificate_der)
        return merchant

    def peer(self, context: Any, role: Role) -> Peer:
        """The caller, who must hold a role.

        Raises:
            UnauthorisedError: it holds another.
        """
        peer = self.caller(context)
        if peer.identity.role is not role:
            raise UnauthorisedError(
                f"this call is for the role {role}, the certificate says {peer.identity.role}"
            )
        return peer

    def caller(self, context: Any) -> Peer:
        """The caller, whatever its role.

        Raises:
            UnauthorisedError: it shows no certificate that counts.
        """
        return peer_of(context, now=self._now())

    def objections(self, peers: Collection[Peer]) -> dict[Peer, str]:
        """Those of these callers who may not go on with what they began, with the sentence why.

        One look at the database for all, so that it may be asked every second for every open
        stream, and so that a revocation counts which another server process wrote.
        """
        now = self._now()
        refused = {peer: _EXPIRED for peer in peers if peer.expires < now}
        holders = {
            (peer.identity.name, peer.certificate_der): peer
            for peer in peers
            if peer.identity.role is Role.MERCHANT
        }
        gone = self._members.objections(holders.keys()) if holders else {}
        return {holders[holder]: sentence for holder, sentence in gone.items()} | refused
