"""Who somebody is: keys, certificates and the role inside them.

A certificate's URI name ``hansa://ROLE/NAME`` is the only source of identity; no message carries
one. Keys are ECDSA on P-256, which every TLS 1.3 stack speaks.
"""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hansa.core.errors import InvalidInputError, UnauthorisedError

SERVER_DNS_NAME = "hansa-server"
"""The name that clients expect in the server's certificate, whatever address they reached it at."""

Key = ec.EllipticCurvePrivateKey


class Role(StrEnum):
    """What a certificate lets its holder do."""

    SERVER = "server"
    OPERATOR = "operator"
    MERCHANT = "merchant"
    AUDITOR = "auditor"
    INVITATION = "invitation"
    APPLICATION = "application"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A role and a name within it."""

    role: Role
    name: str

    @property
    def uri(self) -> str:
        """The form that stands in a certificate."""
        return f"hansa://{self.role}/{self.name}"

    @staticmethod
    def parse(uri: str) -> "Identity":
        """The identity of a URI name.

        Raises:
            UnauthorisedError: it is not one of ours.
        """
        scheme, _, rest = uri.partition("://")
        role, _, name = rest.partition("/")
        if scheme != "hansa" or not name or role not in set(Role):
            raise UnauthorisedError("the certificate names no Hansa identity")
        return Identity(role=Role(role), name=name)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A private key with its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        """The key, unencrypted PKCS #8; to be written with mode 0600 only."""
        return key_pem(self.key)

    @property
    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def belong_together(self) -> bool:
        """Whether the certificate is for this key."""
        return self.certificate.public_key() == self.key.public_key()


def make_key() -> Key:
    """A fresh private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """The key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> Key:
    """The key in PEM bytes.

    Raises:
        InvalidInputError: the bytes hold no P-256 key.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except ValueError as error:
        raise InvalidInputError(f"this is not a private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInputError("a Hansa key is an ECDSA key on P-256")
    return key


def certificate_of(der: bytes) -> x509.Certificate:
    """The certificate in DER bytes.

    Raises:
        InvalidInputError: the bytes hold none.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise InvalidInputError(f"this is not a certificate: {error}") from error


def due_from(certificate: x509.Certificate) -> dt.datetime:
    """The moment from which a certificate should be renewed: two thirds of its life are over."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return end - (end - begin) / 3


def identity_of(certificate: x509.Certificate) -> Identity:
    """The identity that a certificate gives its holder.

    Raises:
        UnauthorisedError: it holds not exactly one URI name, or a foreign one.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise UnauthorisedError("the certificate names no Hansa identity") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise UnauthorisedError("the certificate names no Hansa identity")
    return Identity.parse(uris[0])


def certificate_request(key: Key, name: str) -> bytes:
    """A PKCS #10 request in DER, signed by ``key``; the issuer decides the identity, not this."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.DER)


def public_key_of_request(der: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request, whose holder has proven that it owns the private one.

    Raises:
        InvalidInputError: the request is malformed, unsigned, or for a key that is not P-256.
    """
    try:
        request = x509.load_der_x509_csr(der)
        valid = request.is_signature_valid
        key = request.public_key()
    except (ValueError, InvalidSignature) as error:
        raise InvalidInputError(f"the certificate request is malformed: {error}") from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InvalidInputError("the certificate request must be signed by an ECDSA key on P-256")
    return key


def make_authority(name: str, *, now: dt.datetime, valid_for: dt.timedelta) -> Credentials:
    """A self-signed certificate authority that can sign end certificates only."""
    key = make_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key.public_key(), now, valid_for)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
    return Credentials(key=key, certificate=builder.sign(key, hashes.SHA256()))


def issue(
    authority: Credentials,
    public_key: ec.EllipticCurvePublicKey,
    identity: Identity,
    *,
    now: dt.datetime,
    valid_for: dt.timedelta,
    hosts: tuple[str, ...] = (),
) -> x509.Certificate:
    """An end certificate for an identity. Only one with ``hosts`` can stand for a TLS server."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name[:64])])
    builder = _builder(subject, authority.certificate.subject, public_key, now, valid_for)
    names = [x509.UniformResourceIdentifier(identity.uri), *map(_host_name, hosts)]
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
    return builder.sign(authority.key, hashes.SHA256())


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    valid_for: dt.timedelta,
) -> x509.CertificateBuilder:
    """Five minutes of grace at the start: merchants' clocks differ."""
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - dt.timedelta(minutes=5),
        not_valid_after=now + valid_for,
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
