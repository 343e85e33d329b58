"""The mask that two members have in common."""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa.core.ids import MerchantId
from hansa.core.secure.fixed_point import Ring
from hansa.core.secure.masks import Purpose, add_mask, agree, derive
from hansa.core.secure.roster import Roster


def add_pair_mask(
    total: Ring, roster: Roster, private: X25519PrivateKey, owner: MerchantId, other: MerchantId
) -> None:
    """Adds, in place, the mask that ``owner`` has with ``other``; theirs cancel in the sum.

    Args:
        total: shape ``(n,)``.
        roster: the round's.
        private: the owner's masking key of this round.
        owner: whose update is masked.
        other: with whom.

    Raises:
        InvalidInputError: the other's key is unusable.
    """
    first, second = sorted((owner, other))
    secret = agree(private, roster.masking_of(other))
    key = derive(secret, Purpose.PAIR_MASK, roster.round_digest, first, second)
    add_mask(total, key, sign=1 if owner == first else -1)
