"""Certificates that make cryptography raise errors without a common base class.

HOSTILE["a doubled extension"](identity, key, issuer)    # DER that issuer has really signed
"""

import datetime as dt
from collections.abc import Callable
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from hansa.core.identity import Credentials, Identity, Key

_EC_KEY = bytes.fromhex("06072a8648ce3d0201")
_ECDSA = bytes.fromhex("06082a8648ce3d040302")
_ISSUER_NAMES = bytes.fromhex("0603551d12")
_SUBJECT_NAMES = bytes.fromhex("0603551d11")
_VERSION_3 = bytes.fromhex("a003020102")
_DIRECTORY_NAME, _X400_ADDRESS = 0xA4, 0xA3

Make = Callable[[Identity, Key, Credentials], bytes]


def _made(
    change: Callable[[bytes], bytes], identity: Identity, key: Key, issuer: Credentials
) -> bytes:
    """A certificate whose signed part is changed, without changing its length, and signed anew."""
    honest = _honest(identity, key, issuer)
    tbs = change(honest.tbs_certificate_bytes)
    assert tbs != honest.tbs_certificate_bytes
    at = tbs.index(_ECDSA[:-1])
    algorithm = _element(0x30, tbs[at : at + len(_ECDSA)])
    signature = issuer.key.sign(tbs, ec.ECDSA(SHA256()))
    return _element(0x30, tbs + algorithm + _element(0x03, b"\x00" + signature))


def _honest(identity: Identity, key: Key, issuer: Credentials) -> x509.Certificate:
    """It has one field for each change below."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
    begin, day = issuer.certificate.not_valid_before_utc, dt.timedelta(days=1)
    names = [x509.UniformResourceIdentifier(identity.uri), x509.DirectoryName(name)]
    return (
        x509.CertificateBuilder(
            issuer.certificate.subject, name, key.public_key(), 1, begin, begin + day
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.IssuerAlternativeName(names[:1]), critical=False)
        .sign(issuer.key, SHA256())
    )


def _x400_address(tbs: bytes) -> bytes:
    """The directory name among the subject's names gets the tag of a kind nobody supports."""
    changed = bytearray(tbs)
    changed[tbs.index(_DIRECTORY_NAME, tbs.index(_SUBJECT_NAMES))] = _X400_ADDRESS
    return bytes(changed)


def _element(tag: int, body: bytes) -> bytes:
    """DER: tag, length, body."""
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes(2, "big")
    return bytes([tag, 0x82]) + length + body


HOSTILE: dict[str, Make] = {
    "a doubled extension": partial(_made, lambda tbs: tbs.replace(_ISSUER_NAMES, _SUBJECT_NAMES)),
    "an unknown kind of key": partial(
        _made, lambda tbs: tbs.replace(_EC_KEY, _EC_KEY[:-1] + b"\x7f")
    ),
    "an unknown kind of name": partial(_made, _x400_address),
    "an unknown signature": partial(_made, lambda tbs: tbs.replace(_ECDSA, _ECDSA[:-1] + b"\x7f")),
    "an unknown version": partial(
        _made, lambda tbs: tbs.replace(_VERSION_3, _VERSION_3[:-1] + b"\x7f")
    ),
}
