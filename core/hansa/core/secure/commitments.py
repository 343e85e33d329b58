"""Digests by which the server tells a wrong share from a right one, and who gave it.

What is committed to has at least 256 bits of entropy, so the digest alone tells nothing.
"""

from hashlib import sha256

from hansa.core.canonical import canonical_json
from hansa.core.ids import MerchantId, Sha256


def commit_share(a_round: Sha256, dealer: MerchantId, receiver: MerchantId, share: bytes) -> bytes:
    """The digest of one share, bound to dealer, receiver and round (``Roster.round_digest``)."""
    return _digest("share", [a_round, dealer, receiver], share)


def commit_seed(a_round: Sha256, dealer: MerchantId, seed: bytes) -> bytes:
    """The digest of the seed of a member's own mask."""
    return _digest("seed", [a_round, dealer], seed)


def _digest(kind: str, names: list[str], secret: bytes) -> bytes:
    return sha256(canonical_json(["hansa secure aggregation v1", kind, *names]) + secret).digest()
