"""The server's side of a secure round, as functions from the members' answers to the next stage.

Everything follows from the answers alone, so that a server that was killed finds the same roster,
lists and sum again. An answer that breaks a rule is left out with its reason and stops nobody
else; with fewer than the threshold nothing is revealed.
"""

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hansa.core.content import Content
from hansa.core.errors import HansaError, InvalidInputError, QuorumNotMetError
from hansa.core.ids import MerchantId
from hansa.core.secure import shamir
from hansa.core.secure.commitments import commit_seed, commit_share
from hansa.core.secure.fixed_point import Ring
from hansa.core.secure.masks import Purpose, add_mask, derive, private_key, public_half
from hansa.core.secure.messages import (
    DIGEST_BYTES,
    Deal,
    Reveal,
    UnmaskRequest,
    masked_values,
    vote_of,
)
from hansa.core.secure.pairs import add_pair_mask
from hansa.core.secure.protocol import Setting
from hansa.core.secure.roster import Keys, Roster, Trust
from hansa.core.secure.votes import ballot, is_vote

_T = TypeVar("_T")

Answers = Mapping[MerchantId, Content]
"""Each is looked up once and then forgotten, so a mapping may read them from the disk."""

Rejected = dict[MerchantId, str]
"""Whose answer does not count, and why."""


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """After stage 2: who gave shares."""

    roster: Roster
    deals: Mapping[MerchantId, Deal]

    @property
    def sharers(self) -> tuple[MerchantId, ...]:
        """By name."""
        return tuple(sorted(self.deals))


@dataclass(frozen=True, kw_only=True)
class Masked:
    """After stage 3: whose masked updates arrived, and their sum, which shows nothing yet."""

    dealt: Dealt
    survivors: tuple[MerchantId, ...]
    total: Ring


class MaskedSum:
    """Adds masked updates up as they come, in any order; each can be freed at once."""

    def __init__(self, dealt: Dealt, size: int) -> None:
        """Begins at zero; ``size`` is the number of values of an update."""
        self._dealt = dealt
        self._total: Ring = np.zeros(size, dealt.roster.setting.coding.dtype)
        self._names: set[MerchantId] = set()

    @property
    def count(self) -> int:
        """How many are in the sum."""
        return len(self._names)

    def add(self, merchant: MerchantId, content: Content) -> None:
        """Adds a sharer's masked update, once.

        Raises:
            InvalidInputError: it is malformed, or not wanted.
        """
        if merchant not in self._dealt.deals or merchant in self._names:
            raise InvalidInputError("no masked update of this member is wanted")
        coding = self._dealt.roster.setting.coding
        self._total += masked_values(content, coding, len(self._total))
        self._names.add(merchant)

    def close(self) -> Masked:
        """The sum, which the masks still hide.

        Raises:
            QuorumNotMetError: fewer than the threshold are in it.
        """
        _check_number(self._dealt.roster, self.count, "sent a masked update")
        return Masked(dealt=self._dealt, survivors=tuple(sorted(self._names)), total=self._total)


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """After stage 4: who signed the list of survivors."""

    masked: Masked
    votes: Mapping[MerchantId, bytes]

    def request_for(self, receiver: MerchantId) -> UnmaskRequest:
        """What a survivor is asked for in stage 5, with the shares that were dealt to it."""
        dealt = self.masked.dealt
        row = dealt.roster.positions[receiver] - 1
        return UnmaskRequest(
            survivors=self.masked.survivors,
            votes=self.votes,
            sealed={
                name: dealt.deals[name].sealed[row].tobytes()
                for name in dealt.sharers
                if name != receiver
            },
        )


def collect_keys(
    setting: Setting,
    answers: Answers,
    trust: Trust,
    answered: Mapping[MerchantId, dt.datetime] | None = None,
) -> tuple[Roster, Rejected]:
    """Stage 1: the roster of all members whose keys are usable and properly signed.

    Args:
        setting: the round.
        answers: the members'.
        trust: whose certificates count.
        answered: when each answer came, where its certificate is to be judged at that moment, so
            that the roster is the same whenever it is made; else all are judged at ``trust.now``.

    Raises:
        QuorumNotMetError: they are too few.
        InvalidInputError: they are more than the plan's sums hold.
    """

    def read(merchant: MerchantId, content: Content) -> Keys:
        keys = Keys.parse(merchant, content, setting.rounds)
        keys.check(setting, trust if answered is None else trust.at(answered.get(merchant)))
        return keys

    valid, rejected = _sorted(answers, answers, read)
    for merchant in _with_copied_keys(valid.values()):
        del valid[merchant]
        rejected[merchant] = "one of its keys is also another merchant's"
    return Roster.of(setting, list(valid.values())), rejected


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """After stage 2: what all rounds of the block begin with."""

    roster: Roster
    answers: Answers
    """Of those who gave shares for every round; read again for each."""

    def dealt(self, at: int, among: Collection[MerchantId] | None = None) -> "Dealt":
        """One round of the block, counted from 0.

        Args:
            at: the round.
            among: who takes part in it; all who gave shares, if None.

        Raises:
            QuorumNotMetError: they are fewer than the threshold.
        """
        roster = self.roster.of_round(at)
        members, rounds = len(roster.members), roster.setting.rounds
        wanted = self.answers if among is None else [one for one in self.answers if one in among]
        deals, _ = _sorted(
            self.answers, wanted, lambda _, content: Deal.parse(content, members, rounds, at)
        )
        _check_number(roster, len(deals), "gave shares" if among is None else "take part")
        return Dealt(roster=roster, deals=deals)


def prepare(roster: Roster, answers: Answers) -> tuple[Prepared, Rejected]:
    """Stage 2: who gave a pair of shares for each member, for every round of the block.

    Raises:
        QuorumNotMetError: they are fewer than the threshold.
    """
    members, rounds = len(roster.members), roster.setting.rounds

    def check(_: MerchantId, content: Content) -> Content:
        Deal.check(content, members, rounds)
        return content

    valid, rejected = _sorted(answers, roster.positions, check)
    _check_number(roster, len(valid), "gave shares")
    return Prepared(roster=roster, answers=valid), rejected


def collect_shares(roster: Roster, answers: Answers) -> tuple[Dealt, Rejected]:
    """Stage 2 for the block's first round alone.

    Raises:
        QuorumNotMetError: as for ``prepare``.
    """
    prepared, rejected = prepare(roster, answers)
    return prepared.dealt(0), rejected


def collect_masked(dealt: Dealt, answers: Answers, size: int) -> tuple[Masked, Rejected]:
    """Stage 3: the sum of the masked updates; ``size`` is the number of values of each.

    Raises:
        QuorumNotMetError: they are fewer than the threshold.
    """
    total = MaskedSum(dealt, size)
    _, rejected = _sorted(answers, dealt.sharers, total.add)
    return total.close(), rejected


def collect_votes(masked: Masked, answers: Answers) -> tuple[Agreed, Rejected]:
    """Stage 4: the valid signatures over the list of survivors.

    Raises:
        QuorumNotMetError: they are fewer than the threshold.
    """
    roster = masked.dealt.roster
    message = ballot(roster, masked.dealt.sharers, masked.survivors)

    def read(merchant: MerchantId, content: Content) -> bytes:
        vote = vote_of(content)
        if not is_vote(roster, merchant, vote, message):
            raise InvalidInputError("its vote on the survivors does not hold")
        return vote

    votes, rejected = _sorted(answers, masked.survivors, read)
    _check_number(roster, len(votes), "signed the list of survivors")
    return Agreed(masked=masked, votes=votes), rejected


def unmask(agreed: Agreed, answers: Answers) -> tuple[npt.NDArray[np.float64], Rejected]:
    """Stage 5: the sum of the survivors' updates, shape ``(size,)``, float64.

    A share that is not the one its dealer committed to does not count.

    Raises:
        QuorumNotMetError: for some member fewer than the threshold of right shares came, or its
            dealer had given out wrong ones; the sentence names it.
    """
    secrets, rejected = _secrets(agreed, answers)
    masked = agreed.masked
    total = masked.total.copy()
    for name, secret in secrets.items():
        if name in masked.survivors:
            key = derive(secret, Purpose.SELF_MASK, masked.dealt.roster.round_digest, name)
            add_mask(total, key, sign=-1)
        else:
            # The survivors' masks with a drop-out: adding the drop-out's own cancels them.
            masking = private_key(secret)
            for survivor in masked.survivors:
                add_pair_mask(total, masked.dealt.roster, masking, name, survivor)
    return masked.dealt.roster.setting.coding.decode(total), rejected


def _secrets(agreed: Agreed, answers: Answers) -> tuple[dict[MerchantId, bytes], Rejected]:
    """A survivor's seed and a drop-out's masking key, each checked against what is known of it."""
    dealt = agreed.masked.dealt
    reveals, rejected = _sorted(
        answers,
        agreed.masked.survivors,
        lambda _, content: Reveal.parse(content, len(dealt.roster.members)),
    )
    _check_number(dealt.roster, len(reveals), "gave shares to unmask the sum")
    book = _Shares(agreed, reveals)
    return {name: book.secret(name) for name in dealt.sharers}, rejected


class _Shares:
    """The shares that came, each checked against its dealer's commitment."""

    def __init__(self, agreed: Agreed, reveals: Mapping[MerchantId, Reveal]) -> None:
        self._dealt = agreed.masked.dealt
        self._survivors = frozenset(agreed.masked.survivors)
        self._reveals = reveals
        self._weights: dict[tuple[int, ...], dict[int, int]] = {}

    def secret(self, dealer: MerchantId) -> bytes:
        """A survivor's seed, or a drop-out's masking key."""
        shares = self._right_shares(dealer)
        threshold = self._dealt.roster.threshold
        if len(shares) < threshold:
            raise QuorumNotMetError(
                f"{len(shares)} right shares of {dealer} came, the threshold is {threshold}; "
                "nothing is revealed"
            )
        chosen = dict(sorted(shares.items())[:threshold])
        points = tuple(chosen)
        if points not in self._weights:
            self._weights[points] = shamir.weights(points)
        try:
            secret = shamir.combine(chosen, self._weights[points])
        except InvalidInputError as error:
            raise _dealt_wrongly(dealer) from error
        if not self._is_right(dealer, secret):
            raise _dealt_wrongly(dealer)
        return secret

    def _is_right(self, dealer: MerchantId, secret: bytes) -> bool:
        roster = self._dealt.roster
        if dealer in self._survivors:
            promised = self._dealt.deals[dealer].seed_commitment
            return commit_seed(roster.round_digest, dealer, secret) == promised
        return public_half(secret) == roster.masking_of(dealer)

    def _right_shares(self, dealer: MerchantId) -> dict[int, bytes]:
        roster = self._dealt.roster
        row = roster.positions[dealer] - 1
        kind = slice(DIGEST_BYTES, None) if dealer in self._survivors else slice(DIGEST_BYTES)
        right = {}
        for name, reveal in self._reveals.items():
            at = roster.positions[name]
            share = reveal.shares[row].tobytes()
            promised = self._dealt.deals[dealer].commitments[at - 1, kind].tobytes()
            if not reveal.given[row]:
                continue
            if commit_share(roster.round_digest, dealer, name, share) == promised:
                right[at] = share
        return right


def _dealt_wrongly(name: MerchantId) -> QuorumNotMetError:
    return QuorumNotMetError(
        f"{name} dealt shares that do not fit together, so the sum cannot be unmasked; "
        "leave this merchant out of the next run"
    )


def _check_number(roster: Roster, number: int, did: str) -> None:
    if number < roster.threshold:
        raise QuorumNotMetError(
            f"{number} of {len(roster.members)} members {did}, the threshold is "
            f"{roster.threshold}; nothing is revealed"
        )


def _sorted(
    answers: Answers, members: Iterable[MerchantId], read: Callable[[MerchantId, Content], _T]
) -> tuple[dict[MerchantId, _T], Rejected]:
    """What can be read by merchant, and the reason for every other."""
    valid: dict[MerchantId, _T] = {}
    rejected: Rejected = {}
    for merchant in sorted(name for name in members if name in answers):
        try:
            valid[merchant] = read(merchant, answers[merchant])
        except HansaError as error:
            rejected[merchant] = str(error)
    return valid, rejected


def _with_copied_keys(keys: Iterable[Keys]) -> set[MerchantId]:
    """Whoever shows a key that somebody else shows too, or one key twice."""
    holders: dict[bytes, list[MerchantId]] = {}
    for member in keys:
        for key in member.every_key:
            holders.setdefault(key, []).append(member.merchant)
    return {name for names in holders.values() if len(names) > 1 for name in names}
