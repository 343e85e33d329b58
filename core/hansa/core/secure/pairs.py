"""The mask that two members have in common."""

from hansa.core.ids import MerchantId
from hansa.core.secure.fixed_point import Ring
from hansa.core.secure.masks import Purpose, add_mask, agree, derive
from hansa.core.secure.roster import Roster


def add_pair_mask(
    total: Ring, roster: Roster, private: bytes, owner: MerchantId, other: MerchantId
) -> None:
    """Adds, in place, the mask that ``owner`` has with ``other``; theirs cancel in the sum.

    Args:
        total: shape ``(n,)``.
        roster: the round's.
        private: the owner's masking key.
        owner: whose update is masked.
        other: with whom.

    Raises:
        InvalidInputError: the other's key is unusable.
    """
    first, second = sorted((owner, other))
    secret = agree(private, roster.keys_of(other).masking)
    key = derive(secret, Purpose.PAIR_MASK, roster.digest, first, second)
    add_mask(total, key, sign=1 if owner == first else -1)
