"""The signatures over the list of survivors, without which nothing is unmasked.

More than half of the roster must sign, and an honest member signs one list only: so no server can
have two lists signed, unless enough members sign whatever it likes.
"""

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hansa.core.canonical import canonical_json
from hansa.core.errors import QuorumNotMetError, SignatureError
from hansa.core.ids import MerchantId
from hansa.core.secure.messages import UnmaskRequest
from hansa.core.secure.roster import Roster


def ballot(roster: Roster, sharers: Sequence[MerchantId], survivors: Sequence[MerchantId]) -> bytes:
    """What members sign before anything is unmasked."""
    body = [str(roster.round_digest), list(sharers), list(survivors)]
    return b"hansa secure aggregation survivors v1\n" + canonical_json(body)


def check_votes(roster: Roster, sharers: Sequence[MerchantId], asked: UnmaskRequest) -> None:
    """Accepts a list of survivors only when the threshold of them signed it.

    Raises:
        SignatureError: a vote is forged, or cast by somebody outside the list.
        QuorumNotMetError: there are too few.
    """
    message = ballot(roster, sharers, asked.survivors)
    for voter, vote in asked.votes.items():
        if voter not in asked.survivors or not is_vote(roster, voter, vote, message):
            raise SignatureError(f"the vote of {voter} on the survivors does not hold")
    if len(asked.votes) < roster.threshold:
        raise QuorumNotMetError(
            f"{len(asked.votes)} members signed the list of survivors, the threshold is "
            f"{roster.threshold}; nothing is revealed"
        )


def is_vote(roster: Roster, voter: MerchantId, vote: bytes, message: bytes) -> bool:
    """Whether a member signed this ballot."""
    try:
        Ed25519PublicKey.from_public_bytes(roster.keys_of(voter).voice).verify(vote, message)
    except (InvalidSignature, ValueError):
        return False
    return True
