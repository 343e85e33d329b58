"""Masks: one secret, stretched to as many ring elements as an update has values.

A key agreement gives a secret, HKDF-SHA256 turns it into a key for one purpose in one round between
two named members, and the AES-256-CTR keystream of that key is the mask. Each key makes one stream,
so the counter begins at 0. What one member adds, the other subtracts.

References:
    RFC 7748 (X25519), RFC 5869 (HKDF), NIST SP 800-38A (CTR).
"""

from enum import StrEnum
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hansa.core.canonical import canonical_json
from hansa.core.errors import InvalidInputError
from hansa.core.ids import MerchantId, Sha256
from hansa.core.secure.fixed_point import Ring

KEY_BYTES: Final = 32
"""Length of every secret and key here."""

_ANY_PRIVATE_KEY: Final = X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES))
"""Hides nothing. X25519 makes every private key a multiple of the cofactor 8, so any of them sends
every public key of small order to zero."""

_BLOCK: Final = 1 << 17
"""Ring elements masked at once: fits a processor's cache."""


class Purpose(StrEnum):
    """What a derived key is for; no key serves two purposes."""

    PAIR_MASK = "pair mask"
    SELF_MASK = "self mask"
    SEAL = "seal"


def private_key(secret: bytes) -> X25519PrivateKey:
    """The key to agree with; to make one costs as much as to agree once, so keep it for all others.

    Raises:
        InvalidInputError: the secret has another length than 32 bytes.
    """
    try:
        return X25519PrivateKey.from_private_bytes(secret)
    except ValueError as error:
        raise InvalidInputError("a private key has another length than 32 bytes") from error


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """The secret that two X25519 keys share.

    Raises:
        InvalidInputError: the other side's key is malformed, or of small order.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise InvalidInputError("a key of the round is not a usable X25519 key") from error


def can_agree(public: bytes) -> bool:
    """Whether others can share a secret with the holder of an X25519 public key.

    With one of small order, or none at all, nobody can, whatever the private key on the other side.
    """
    try:
        agree(_ANY_PRIVATE_KEY, public)
    except InvalidInputError:
        return False
    return True


def public_half(private: bytes) -> bytes:
    """The X25519 public key of a private one, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derive(secret: bytes, purpose: Purpose, roster: Sha256, *members: MerchantId) -> bytes:
    """The key of one purpose; ``roster`` stands for run, round, plan and everybody's keys.

    A pair's members are named in an order that both know; a seal's, sender first.
    """
    info = canonical_json(["hansa secure aggregation v1", purpose, roster, list(members)])
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def add_mask(total: Ring, key: bytes, *, sign: int) -> None:
    """Adds (``sign`` 1) or subtracts (-1) the key's mask, in place.

    Args:
        total: shape ``(n,)``, dtype uint32 or uint64.
        key: 32 bytes that make this one mask only.
        sign: 1 or -1.
    """
    stream = Cipher(AES(key), CTR(bytes(16))).encryptor()
    combine: Any = np.add if sign > 0 else np.subtract
    little = total.dtype.newbyteorder("<")
    for start in range(0, len(total), _BLOCK):
        block = total[start : start + _BLOCK]
        mask = np.frombuffer(stream.update(bytes(block.nbytes)), dtype=little)
        combine(block, mask, out=block)
