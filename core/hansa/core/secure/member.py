"""A member's side of a secure round, as functions from a state and a request to the next state.

Every request comes from a server that may lie. A member accepts a roster only with everybody's
signature, masks for one list of sharers, signs one list of survivors, and gives shares for that
list alone, of exactly one secret of each other member. In a block of rounds all of this holds for
each round by itself; keys and shares are given once, for all of them.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hansa.core.content import Content
from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.ids import MerchantId
from hansa.core.privacy.mechanism import Entropy
from hansa.core.secure import shamir
from hansa.core.secure.commitments import commit_seed, commit_share
from hansa.core.secure.fixed_point import Ring
from hansa.core.secure.masks import (
    KEY_BYTES,
    Purpose,
    add_mask,
    agree,
    derive,
    private_key,
    public_half,
)
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
from hansa.core.secure.state import MemberState, RoundSecrets, decoded, encoded
from hansa.core.secure.votes import ballot, check_votes


@dataclass(frozen=True, kw_only=True)
class Member:
    """One merchant in one round, which may be one of a block."""

    setting: Setting
    merchant: MerchantId

    def advertise(
        self, request: bytes, *, sign: Sign, certificate: bytes, entropy: Entropy
    ) -> MemberState:
        """Stage 1: draws the secrets of every round; the answer holds their signed public halves.

        Args:
            request: the server's content file.
            sign: signs with the key of the certificate.
            certificate: DER.
            entropy: the cryptographic source of all secrets.

        Raises:
            ConflictError: the round is not the first of its block.
        """
        self.setting.check_begins()
        sealing, voice = (entropy.random_bytes(KEY_BYTES) for _ in range(2))
        drawn = [
            (entropy.random_bytes(KEY_BYTES), entropy.random_bytes(KEY_BYTES))
            for _ in range(self.setting.rounds)
        ]
        public = {
            "sealing": public_half(sealing),
            "masking": b"".join(public_half(masking) for masking, _ in drawn),
            "voice": _voice(voice).public_key().public_bytes_raw(),
        }
        keys = Keys.signed(self.setting, self.merchant, public, sign=sign, certificate=certificate)
        secrets = (RoundSecrets(masking=masking.hex(), seed=seed.hex()) for masking, seed in drawn)
        state = MemberState(sealing=sealing.hex(), voice=voice.hex(), secrets=tuple(secrets))
        return state.answering(KEYS, request, keys.to_content().to_bytes())

    def share(
        self, state: MemberState, request: bytes, *, trust: Trust, entropy: Entropy
    ) -> MemberState:
        """Stage 2: checks the roster and deals shares of each round's two secrets to each member.

        Raises:
            InvalidInputError: the roster is malformed, or a key in it unusable.
            UnauthorisedError, SignatureError: somebody in it is not who it says.
            ConflictError: a key comes twice, this member's own keys were changed, or the round is
                not the first of its block.
            QuorumNotMetError: it is too small.
        """
        self.setting.check_begins()
        roster = Roster.parse(self.setting, Content.from_bytes(request))
        self._check_own_keys(state, roster)
        roster.check(trust)
        pairs = [_split(one, roster, entropy) for one in state.secrets]
        own = roster.positions[self.merchant] - 1
        kept = (
            one.model_copy(update={"own_shares": tuple(share.hex() for share in dealt[own])})
            for one, dealt in zip(state.secrets, pairs, strict=True)
        )
        return state.answering(
            SHARES,
            request,
            Deal.content_of(self._deals(state, roster, pairs, entropy)).to_bytes(),
            roster=encoded(request),
            secrets=tuple(kept),
        )

    def begin_masking(self, state: MemberState, request: bytes) -> MemberState:
        """Stage 3, before any data are touched: notes for whom the update will be masked.

        Raises:
            InvalidInputError: the request names no sharers of this round.
            QuorumNotMetError: they are fewer than the threshold.
            ConflictError: the stage comes too early or again, or leaves this member out.
            NotFoundError: a later round of the block has begun, so this one's secrets are gone.
        """
        if TRAIN in state.turn(self.setting.at).answers:
            raise ConflictError("the update of this round was masked before; it is not made twice")
        roster = self._roster(state)
        if state.secrets[self.setting.at].are_erased:
            raise NotFoundError(
                f"the secrets of round {self.setting.round_number} are not here any more: a later "
                "round has begun"
            )
        record = Content.from_bytes(request).configs.get(SECURE, {})
        sharers = roster.subset(record.get("sharers"), "the list of sharers")
        if self.merchant not in sharers:
            raise ConflictError("the list of sharers leaves this member out")
        return state.answering(TRAIN, request, at=self.setting.at, sharers=sharers)

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
        roster, secrets = self._roster(state), state.secrets[self.setting.at]
        seed, masking = bytes.fromhex(secrets.seed), private_key(bytes.fromhex(secrets.masking))
        own_key = derive(seed, Purpose.SELF_MASK, roster.round_digest, self.merchant)
        add_mask(total, own_key, sign=1)
        for name in _names(state.turn(self.setting.at).sharers):
            if name != self.merchant:
                add_pair_mask(total, roster, masking, self.merchant, name)
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
        at = self.setting.at
        turn = state.turn(at)
        if TRAIN not in turn.answers or self.merchant not in survivors:
            raise ConflictError("this member has sent no update that the list could count")
        if not set(survivors) <= set(turn.sharers):
            raise InvalidInputError("the list of survivors names somebody who gave no shares")
        message = ballot(roster, _names(turn.sharers), survivors)
        vote = vote_content(_voice(bytes.fromhex(state.voice)).sign(message))
        return state.answering(SURVIVORS, request, vote.to_bytes(), at=at, survivors=survivors)

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
        turn = state.turn(self.setting.at)
        if not turn.survivors or asked.survivors != turn.survivors:
            raise ConflictError(
                "shares are asked for another list of survivors than this member signed"
            )
        check_votes(roster, _names(turn.sharers), asked)
        given = np.zeros(len(roster.members), np.uint8)
        shares = np.zeros((len(roster.members), shamir.SHARE_BYTES), np.uint8)
        sealing = private_key(bytes.fromhex(state.sealing))
        for dealer in _names(turn.sharers):
            box = asked.sealed.get(dealer, b"")
            pair = self._opened(state, roster, dealer, box, sealing)
            if pair is not None:
                row = roster.positions[dealer] - 1
                share = pair[1] if dealer in turn.survivors else pair[0]
                given[row], shares[row] = 1, np.frombuffer(share, np.uint8)
        reply = Reveal(given=given, shares=shares).to_content().to_bytes()
        return state.answering(UNMASK, request, reply, at=self.setting.at)

    def _roster(self, state: MemberState) -> Roster:
        """The roster that was checked in stage 2, as this round of the block sees it."""
        if not state.roster:
            raise ConflictError("a stage of the secure round comes before the roster")
        return _accepted(self.setting.turn(0), state.roster).of_round(self.setting.at)

    def _check_own_keys(self, state: MemberState, roster: Roster) -> None:
        if self.merchant not in roster.positions:
            raise ConflictError("the roster leaves this member out")
        own = Content.from_bytes(state.reply(KEYS))
        given = Keys.parse(self.merchant, own, self.setting.rounds)
        if roster.keys_of(self.merchant) != given:
            raise ConflictError("the roster shows other keys of this member than it gave")

    def _deals(
        self,
        state: MemberState,
        roster: Roster,
        pairs: Sequence[Sequence[tuple[bytes, bytes]]],
        entropy: Entropy,
    ) -> list[Deal]:
        """One deal for each round; ``pairs`` holds each round's two shares for each member."""
        own = private_key(bytes.fromhex(state.sealing))
        agreed = {
            member.merchant: agree(own, member.sealing)
            for member in roster.members
            if member.merchant != self.merchant
        }
        return [
            self._deal(roster.of_round(at), bytes.fromhex(one.seed), agreed, dealt, entropy)
            for at, (one, dealt) in enumerate(zip(state.secrets, pairs, strict=True))
        ]

    def _deal(
        self,
        roster: Roster,
        seed: bytes,
        agreed: Mapping[MerchantId, bytes],
        pairs: Sequence[tuple[bytes, bytes]],
        entropy: Entropy,
    ) -> Deal:
        digest = roster.round_digest
        sealed = np.zeros((len(pairs), SEALED_BYTES), np.uint8)
        commitments = np.zeros((len(pairs), 2 * DIGEST_BYTES), np.uint8)
        for row, (member, pair) in enumerate(zip(roster.members, pairs, strict=True)):
            name = member.merchant
            digests = [commit_share(digest, self.merchant, name, share) for share in pair]
            commitments[row] = np.frombuffer(b"".join(digests), np.uint8)
            if name != self.merchant:
                key = derive(agreed[name], Purpose.SEAL, digest, self.merchant, name)
                nonce = entropy.random_bytes(NONCE_BYTES)
                box = nonce + ChaCha20Poly1305(key).encrypt(nonce, b"".join(pair), None)
                sealed[row] = np.frombuffer(box, np.uint8)
        promise = commit_seed(digest, self.merchant, seed)
        return Deal(sealed=sealed, commitments=commitments, seed_commitment=promise)

    def _opened(
        self,
        state: MemberState,
        roster: Roster,
        dealer: MerchantId,
        box: bytes,
        sealing: X25519PrivateKey,
    ) -> tuple[bytes, bytes] | None:
        """The shares of a dealer's masking key and seed; the key binds dealer, round and reader."""
        if dealer == self.merchant:
            key_share, seed_share = state.secrets[self.setting.at].own_shares
            return bytes.fromhex(key_share), bytes.fromhex(seed_share)
        secret = agree(sealing, roster.keys_of(dealer).sealing)
        key = derive(secret, Purpose.SEAL, roster.round_digest, dealer, self.merchant)
        try:
            plain = ChaCha20Poly1305(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):
            return None
        if len(plain) != 2 * shamir.SHARE_BYTES:
            return None
        return plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :]


@functools.lru_cache(maxsize=32)
def _accepted(setting: Setting, content: str) -> Roster:
    """A roster that this member checked before; public, so that it may stay in memory."""
    return Roster.parse(setting, Content.from_bytes(decoded(content)))


def _split(secrets: RoundSecrets, roster: Roster, entropy: Entropy) -> list[tuple[bytes, bytes]]:
    """For each member a share of the masking key and one of the seed."""
    by_secret = (
        shamir.split(
            bytes.fromhex(secret),
            threshold=roster.threshold,
            shares=len(roster.members),
            entropy=entropy,
        )
        for secret in (secrets.masking, secrets.seed)
    )
    return list(zip(*by_secret, strict=True))


def _voice(private: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(private)


def _names(names: Sequence[str]) -> list[MerchantId]:
    return [MerchantId(name) for name in names]
