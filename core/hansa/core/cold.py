"""Which items no training ever sees, so that a release can be judged on newly listed products.

The rule is a public hash of the item's public key: server and merchants agree on it without a word,
and no private fact enters it.
"""

import hashlib

from hansa.core.plan import TaskSpec

_BUCKETS = 2**64


def is_cold(key: str, task: TaskSpec) -> bool:
    """Whether the item with this public key is kept out of all training, at every merchant."""
    return bucket("cold-item", key) < task.cold_item_fraction * _BUCKETS


def is_held_out(pseudonym: str, task: TaskSpec) -> bool:
    """Whether the shopper with this pseudonym (a keyed hash) is only judged on."""
    return bucket("held-out-shopper", pseudonym) < task.held_out_shopper_fraction * _BUCKETS


def bucket(purpose: str, text: str) -> int:
    """A place between 0 and 2^64 that depends on the text and the purpose alone."""
    digest = hashlib.sha256(f"hansa:{purpose}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
