"""The stages' messages after the roster, to and from content files.

Whatever comes from outside is checked here for its form: names, lengths, shapes, types. Whether it
is true is checked where it is used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.ids import MerchantId
from hansa.core.secure.fixed_point import FixedPoint, Ring
from hansa.core.secure.roster import Roster, is_name
from hansa.core.secure.shamir import SHARE_BYTES
from hansa.core.tensors import Spec, spec_of
from hansa.core.update import Arrays

SECURE: Final = "secure"
"""The record that the server adds to a task's content for this protocol."""

DIGEST_BYTES: Final = 32
NONCE_BYTES: Final = 12
SEALED_BYTES: Final = NONCE_BYTES + 2 * SHARE_BYTES + 16
"""A nonce, the shares of two secrets, and the tag."""

VOTE_BYTES: Final = 64

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Deal:
    """What a member gives the server in the stage of shares, for one round."""

    sealed: Bytes
    """A sealed pair of shares for each member, shape ``(members, SEALED_BYTES)``; own row zero."""
    commitments: Bytes
    """Digests of each member's two shares, shape ``(members, 2 * DIGEST_BYTES)``."""
    seed_commitment: bytes
    """Digest of the seed of its own mask."""

    @staticmethod
    def content_of(deals: Sequence["Deal"]) -> Content:
        """The member's answer: its deals for all rounds of the block, in order."""
        names = _deal_names(len(deals))
        arrays = {
            name: array
            for (sealed, commitments), deal in zip(names, deals, strict=True)
            for name, array in ((sealed, deal.sealed), (commitments, deal.commitments))
        }
        seeds = b"".join(deal.seed_commitment for deal in deals)
        return Content(arrays={"deal": arrays}, configs={"commitment": {"seed": seeds}})

    @staticmethod
    def check(content: Content, members: int, rounds: int) -> None:
        """Accepts an answer with a deal for each round; what is sealed in it nobody here knows.

        Raises:
            InvalidInputError: it is malformed.
        """
        names = _deal_names(rounds)
        arrays = _only_arrays(content, "deal", (name for pair in names for name in pair))
        for sealed, commitments in names:
            check_spec(spec_of(arrays, sealed), (members, SEALED_BYTES), np.uint8)
            check_spec(spec_of(arrays, commitments), (members, 2 * DIGEST_BYTES), np.uint8)
        seeds = content.configs.get("commitment", {}).get("seed")
        if not isinstance(seeds, bytes) or len(seeds) != DIGEST_BYTES * rounds:
            raise InvalidInputError("the commitment to the seed has another length")

    @staticmethod
    def parse(content: Content, members: int, rounds: int = 1, at: int = 0) -> "Deal":
        """The deal for one round of a block, counted from 0, in a member's answer.

        Raises:
            InvalidInputError: the answer is malformed.
        """
        Deal.check(content, members, rounds)
        sealed, commitments = _deal_names(rounds)[at]
        arrays = content.arrays["deal"]
        seeds = content.configs["commitment"]["seed"]
        if not isinstance(seeds, bytes):
            raise InvalidInputError("the commitment to the seed is not bytes")
        return Deal(
            sealed=arrays[sealed],
            commitments=arrays[commitments],
            seed_commitment=seeds[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES],
        )


@dataclass(frozen=True, kw_only=True)
class UnmaskRequest:
    """What the server sends to one member in the last stage."""

    survivors: tuple[MerchantId, ...]
    votes: Mapping[MerchantId, bytes]
    """Survivors' signatures over the list."""
    sealed: Mapping[MerchantId, bytes]
    """Who dealt a sealed pair of shares to the receiver, and what."""

    def to_content(self) -> Content:
        """The server's message."""
        return Content(
            configs={
                SECURE: {
                    "survivors": [str(name) for name in self.survivors],
                    "voters": [str(name) for name in self.votes],
                    "votes": list(self.votes.values()),
                    "dealers": [str(name) for name in self.sealed],
                    "sealed": list(self.sealed.values()),
                }
            }
        )

    @staticmethod
    def parse(content: Content, roster: Roster) -> "UnmaskRequest":
        """The server's message.

        Raises:
            InvalidInputError: it is malformed.
            QuorumNotMetError: the survivors are fewer than the threshold.
        """
        record = content.configs.get(SECURE, {})
        return UnmaskRequest(
            survivors=roster.subset(record.get("survivors"), "the list of survivors"),
            votes=_pairs(record.get("voters"), record.get("votes"), VOTE_BYTES),
            sealed=_pairs(record.get("dealers"), record.get("sealed"), SEALED_BYTES),
        )


@dataclass(frozen=True, kw_only=True)
class Reveal:
    """What a member gives in the last stage: for each other one share, or none."""

    given: Bytes
    """1 where there is a share, shape ``(members,)``."""
    shares: Bytes
    """Shape ``(members, SHARE_BYTES)``."""

    def to_content(self) -> Content:
        """The member's answer."""
        return Content(arrays={"reveal": {"given": self.given, "shares": self.shares}})

    @staticmethod
    def parse(content: Content, members: int) -> "Reveal":
        """A member's answer.

        Raises:
            InvalidInputError: it is malformed.
        """
        given = _only_array(content, "reveal", "given", ("shares",))
        shares = content.arrays["reveal"]["shares"]
        check_array(given, (members,), np.uint8)
        check_array(shares, (members, SHARE_BYTES), np.uint8)
        return Reveal(given=given, shares=shares)


def masked_content(values: Ring) -> Content:
    """A member's masked update."""
    return Content(arrays={"masked": {"values": values}})


def masked_values(content: Content, coding: FixedPoint, size: int) -> Ring:
    """The ring elements of a member's masked update, shape ``(size,)``.

    Raises:
        InvalidInputError: it is malformed.
    """
    values: Ring = _only_array(content, "masked", "values", ())
    if content.configs:
        raise InvalidInputError("a masked update holds nothing but its values")
    check_array(values, (size,), coding.dtype)
    return values


def vote_content(signature: bytes) -> Content:
    """A member's signature over the list of survivors."""
    return Content(configs={"vote": {"signature": signature}})


def vote_of(content: Content) -> bytes:
    """The signature in a member's answer.

    Raises:
        InvalidInputError: there is none of the right length.
    """
    signature = content.configs.get("vote", {}).get("signature")
    if not isinstance(signature, bytes) or len(signature) != VOTE_BYTES:
        raise InvalidInputError("the vote is not a signature")
    return signature


def names_content(**names: Sequence[MerchantId]) -> Content:
    """A server's message that holds lists of members."""
    return Content(configs={SECURE: {key: list(value) for key, value in names.items()}})


def check_array(array: npt.NDArray[Any], shape: tuple[int, ...], dtype: Any) -> None:
    """Accepts one shape and type only.

    Raises:
        InvalidInputError: the array has another.
    """
    check_spec(Spec(dtype=array.dtype, shape=array.shape), shape, dtype)


def check_spec(spec: Spec, shape: tuple[int, ...], dtype: Any) -> None:
    """As ``check_array``, for an array that was not read.

    Raises:
        InvalidInputError: the array has another shape or type.
    """
    if spec.shape != shape or spec.dtype != np.dtype(dtype):
        raise InvalidInputError(
            f"an array is {spec.dtype}{list(spec.shape)}, not {np.dtype(dtype)}{list(shape)}"
        )


def _only_array(
    content: Content, record: str, name: str, others: tuple[str, ...]
) -> npt.NDArray[Any]:
    return _only_arrays(content, record, (name, *others))[name]


def _only_arrays(content: Content, record: str, names: Iterable[str]) -> Arrays:
    arrays = content.arrays.get(record, {})
    if set(content.arrays) != {record} or set(arrays) != set(names) or content.metrics:
        raise InvalidInputError(f"the answer does not hold the arrays of '{record}', and only them")
    return arrays


def _deal_names(rounds: int) -> list[tuple[str, str]]:
    """What the arrays of each round's deal are called: sealed shares, and commitments."""
    if rounds == 1:
        return [("sealed", "commitments")]
    return [(f"sealed-{at}", f"commitments-{at}") for at in range(rounds)]


def _pairs(names: object, values: object, length: int) -> dict[MerchantId, bytes]:
    if not isinstance(names, list) or not isinstance(values, list) or len(names) != len(values):
        raise InvalidInputError("names and values differ in number")
    if not all(is_name(name) for name in names) or len(set(names)) != len(names):
        raise InvalidInputError("names must be merchants', and distinct")
    if any(not isinstance(value, bytes) or len(value) != length for value in values):
        raise InvalidInputError(f"a value has not {length} bytes")
    return dict(zip(map(MerchantId, names), values, strict=True))
