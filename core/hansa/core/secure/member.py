"""A member's side of a secure round, as functions from a state and a request to the next state.

Every request comes from a server that may lie. A member accepts a roster only with everybody's
signature, masks for one list of sharers, signs one list of survivors, and gives shares for that
list alone, of exactly one secret of each other member.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hansa.core.content import Content
from hansa.core.errors import ConflictError, InvalidInputError
from hansa.core.ids import MerchantId
from hansa.core.privacy.mechanism import Entropy
from hansa.core.secure import shamir
from hansa.core.secure.commitments import commit_seed, commit_share
from hansa.core.secure.fixed_point import Ring
from hansa.core.secure.masks import KEY_BYTES, Purpose, add_mask, agree, derive, public_half
from hansa.core.secure.messages import (
    DIGEST_BYTES,
    NONCE_BYTES,
    SEALED_BYTES,
    SECURE,
    Deal,
    Reveal,
    UnmaskRequest,
    masked_content,
    vote_content,
)
from hansa.core.secure.pairs import add_pair_mask
from hansa.core.secure.protocol import KEYS, SHARES, SURVIVORS, TRAIN, UNMASK, Setting
from hansa.core.secure.roster import Keys, Roster, Sign, Trust
from hansa.core.secure.state import MemberState, decoded, encoded
from hansa.core.secure.votes import ballot, check_votes


@dataclass(frozen=True, kw_only=True)
class Member:
    """One merchant in one round."""

    setting: Setting
    merchant: MerchantId

    def advertise(
        self, request: bytes, *, sign: Sign, certificate: bytes, entropy: Entropy
    ) -> MemberState:
        """Stage 1: draws the round's secrets; the answer holds their signed public halves.

        Args:
            request: the server's content file.
            sign: signs with the key of the certificate.
            certificate: DER.
            entropy: the cryptographic source of all secrets.
        """
        sealing, masking, voice, seed = (entropy.random_bytes(KEY_BYTES) for _ in range(4))
        public = {
            "sealing": public_half(sealing),
            "masking": public_half(masking),
            "voice": _voice(voice).public_key().public_bytes_raw(),
        }
        keys = Keys.signed(self.setting, self.merchant, public, sign=sign, certificate=certificate)
        state = MemberState(
            sealing=sealing.hex(), masking=masking.hex(), voice=voice.hex(), seed=seed.hex()
        )
        return state.answering(KEYS, request, keys.to_content().to_bytes())

    def share(
        self, state: MemberState, request: bytes, *, trust: Trust, entropy: Entropy
    ) -> MemberState:
        """Stage 2: checks the roster and deals a share of both secrets to each member.

        Raises:
            InvalidInputError: the roster is malformed, or a key in it unusable.
            UnauthorisedError, SignatureError: somebody in it is not who it says.
            ConflictError: a key comes twice, or this member's own keys were changed.
            QuorumNotMetError: it is too small.
        """
        roster = Roster.parse(self.setting, Content.from_bytes(request))
        self._check_own_keys(state, roster)
        roster.check(trust)
        key_shares, seed_shares = (
            shamir.split(
                bytes.fromhex(secret),
                threshold=roster.threshold,
                shares=len(roster.members),
                entropy=entropy,
            )
            for secret in (state.masking, state.seed)
        )
        deal = self._deal(state, roster, list(zip(key_shares, seed_shares, strict=True)), entropy)
        own = roster.positions[self.merchant] - 1
        return state.answering(
            SHARES,
            request,
            deal.to_content().to_bytes(),
            roster=encoded(request),
            own_shares=(key_shares[own].hex(), seed_shares[own].hex()),
        )

    def begin_masking(self, state: MemberState, request: bytes) -> MemberState:
        """Stage 3, before any data are touched: notes for whom the update will be masked.

        Raises:
            InvalidInputError: the request names no sharers of this round.
            QuorumNotMetError: they are fewer than the threshold.
            ConflictError: the stage comes too early or again, or leaves this member out.
        """
        if TRAIN in state.answers:
            raise ConflictError("the update of this round was masked before; it is not made twice")
        roster = self._roster(state)
        record = Content.from_bytes(request).configs.get(SECURE, {})
        sharers = roster.subset(record.get("sharers"), "the list of sharers")
        if self.merchant not in sharers:
            raise ConflictError("the list of sharers leaves this member out")
        return state.answering(TRAIN, request, sharers=sharers)

    def masked(self, state: MemberState, values: npt.NDArray[Any]) -> Content:
        """Stage 3: the update's difference from the model, in fixed point and masked.

        Args:
            state: after ``begin_masking``.
            values: shape ``(n,)``; called once in a round, since two updates under the same masks
                would show their difference.

        Raises:
            InvalidInputError: a value is not finite.
        """
        return self._hidden(state, self.setting.coding.encode(values))

    def masked_integers(self, state: MemberState, steps: npt.NDArray[np.int64]) -> Content:
        """Stage 3 for values that are steps of the coding's grid already, shape ``(n,)``."""
        return self._hidden(state, steps.astype(self.setting.coding.dtype))

    def _hidden(self, state: MemberState, total: Ring) -> Content:
        roster = self._roster(state)
        own_key = derive(bytes.fromhex(state.seed), Purpose.SELF_MASK, roster.digest, self.merchant)
        add_mask(total, own_key, sign=1)
        for name in map(MerchantId, state.sharers):
            if name != self.merchant:
                add_pair_mask(total, roster, bytes.fromhex(state.masking), self.merchant, name)
        return masked_content(total)

    def vote(self, state: MemberState, request: bytes) -> MemberState:
        """Stage 4: signs the one list of survivors for which it will give shares.

        Raises:
            InvalidInputError: the list names others than sharers.
            QuorumNotMetError: they are fewer than the threshold.
            ConflictError: the stage comes too early, or the list leaves this member out.
        """
        roster = self._roster(state)
        record = Content.from_bytes(request).configs.get(SECURE, {})
        survivors = roster.subset(record.get("survivors"), "the list of survivors")
        if TRAIN not in state.answers or self.merchant not in survivors:
            raise ConflictError("this member has sent no update that the list could count")
        if not set(survivors) <= set(state.sharers):
            raise InvalidInputError("the list of survivors names somebody who gave no shares")
        message = ballot(roster, _names(state.sharers), survivors)
        signature = _voice(bytes.fromhex(state.voice)).sign(message)
        return state.answering(
            SURVIVORS, request, vote_content(signature).to_bytes(), survivors=survivors
        )

    def reveal(self, state: MemberState, request: bytes) -> MemberState:
        """Stage 5: gives one share for each sharer: a survivor's seed, a drop-out's masking key.

        A sealed pair that cannot be opened is left out; the sums need only the threshold's.

        Raises:
            InvalidInputError: the request is malformed.
            ConflictError: the stage comes too early, or for another list than was signed.
            SignatureError: a vote is forged.
            QuorumNotMetError: fewer than the threshold signed the list.
        """
        roster = self._roster(state)
        asked = UnmaskRequest.parse(Content.from_bytes(request), roster)
        if not state.survivors or asked.survivors != state.survivors:
            raise ConflictError(
                "shares are asked for another list of survivors than this member signed"
            )
        check_votes(roster, _names(state.sharers), asked)
        given = np.zeros(len(roster.members), np.uint8)
        shares = np.zeros((len(roster.members), shamir.SHARE_BYTES), np.uint8)
        for dealer in _names(state.sharers):
            pair = self._opened(state, roster, dealer, asked.sealed.get(dealer, b""))
            if pair is not None:
                at = roster.positions[dealer] - 1
                share = pair[1] if dealer in state.survivors else pair[0]
                given[at], shares[at] = 1, np.frombuffer(share, np.uint8)
        reply = Reveal(given=given, shares=shares).to_content().to_bytes()
        return state.answering(UNMASK, request, reply)

    def _roster(self, state: MemberState) -> Roster:
        """The roster that was checked in stage 2."""
        if not state.roster:
            raise ConflictError("a stage of the secure round comes before the roster")
        return Roster.parse(self.setting, Content.from_bytes(decoded(state.roster)))

    def _check_own_keys(self, state: MemberState, roster: Roster) -> None:
        if self.merchant not in roster.positions:
            raise ConflictError("the roster leaves this member out")
        own = Content.from_bytes(state.reply(KEYS))
        if roster.keys_of(self.merchant) != Keys.parse(self.merchant, own):
            raise ConflictError("the roster shows other keys of this member than it gave")

    def _deal(
        self,
        state: MemberState,
        roster: Roster,
        pairs: Sequence[tuple[bytes, bytes]],
        entropy: Entropy,
    ) -> Deal:
        sealed = np.zeros((len(pairs), SEALED_BYTES), np.uint8)
        commitments = np.zeros((len(pairs), 2 * DIGEST_BYTES), np.uint8)
        for at, (member, pair) in enumerate(zip(roster.members, pairs, strict=True)):
            digests = [
                commit_share(roster.digest, self.merchant, member.merchant, share) for share in pair
            ]
            commitments[at] = np.frombuffer(b"".join(digests), np.uint8)
            if member.merchant != self.merchant:
                secret = agree(bytes.fromhex(state.sealing), member.sealing)
                key = derive(secret, Purpose.SEAL, roster.digest, self.merchant, member.merchant)
                nonce = entropy.random_bytes(NONCE_BYTES)
                box = nonce + ChaCha20Poly1305(key).encrypt(nonce, b"".join(pair), None)
                sealed[at] = np.frombuffer(box, np.uint8)
        seed = commit_seed(roster.digest, self.merchant, bytes.fromhex(state.seed))
        return Deal(sealed=sealed, commitments=commitments, seed_commitment=seed)

    def _opened(
        self, state: MemberState, roster: Roster, dealer: MerchantId, box: bytes
    ) -> tuple[bytes, bytes] | None:
        """The shares of a dealer's masking key and seed; the key binds dealer, round and reader."""
        if dealer == self.merchant:
            key_share, seed_share = state.own_shares
            return bytes.fromhex(key_share), bytes.fromhex(seed_share)
        secret = agree(bytes.fromhex(state.sealing), roster.keys_of(dealer).sealing)
        key = derive(secret, Purpose.SEAL, roster.digest, dealer, self.merchant)
        try:
            plain = ChaCha20Poly1305(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            return None
        if len(plain) != 2 * shamir.SHARE_BYTES:
            return None
        return plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :]


def _voice(private: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(private)


def _names(names: Sequence[str]) -> list[MerchantId]:
    return [MerchantId(name) for name in names]
