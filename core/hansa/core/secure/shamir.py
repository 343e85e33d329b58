"""Shamir's secret sharing over the prime field of order 2^521 - 1.

The prime is the Mersenne prime on which the curve P-521 is built (FIPS 186); it is the smallest one
of that form above the 256 bits of our secrets. With fewer shares than the threshold every secret is
equally likely, whatever computing power is at hand.

Written here because no kept library fits: PyCryptodome shares 16 bytes at a time and draws its own
randomness; the others that we found draw their own too, or are no longer kept.

References:
    Shamir, "How to share a secret", Communications of the ACM 22 (1979).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from hansa.core.errors import InvalidInputError
from hansa.core.privacy.mechanism import Entropy

PRIME: Final = 2**521 - 1
"""The order of the field."""

SECRET_BYTES: Final = 32
"""Length of a secret."""

SHARE_BYTES: Final = 66
"""Length of a share: a number below the prime, big-endian."""

_TOP_BYTE: Final = 0x01  # 521 = 65 * 8 + 1


def split(secret: bytes, *, threshold: int, shares: int, entropy: Entropy) -> list[bytes]:
    """Shares of a secret; any ``threshold`` of them give it back, fewer say nothing.

    Args:
        secret: 32 bytes.
        threshold: how many shares are needed.
        shares: how many there are; the share at index ``i`` belongs to the point ``i + 1``.
        entropy: the cryptographic source of the polynomial's coefficients.

    Raises:
        InvalidInputError: the secret has another length, or the numbers do not fit.
    """
    if len(secret) != SECRET_BYTES:
        raise InvalidInputError(f"a shared secret has {SECRET_BYTES} bytes")
    if not 1 <= threshold <= shares:
        raise InvalidInputError(f"{shares} shares cannot have a threshold of {threshold}")
    constant = int.from_bytes(secret, "big")
    polynomial = [constant, *(_element(entropy) for _ in range(threshold - 1))]
    return [_value(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in range(1, shares + 1)]


def weights(points: Sequence[int]) -> dict[int, int]:
    """Lagrange's weights, by which shares at these points are summed to the secret.

    They depend on the points alone, so one computation serves all secrets shared with the same
    people.

    Raises:
        InvalidInputError: a point comes twice or is not above 0.
    """
    if len(set(points)) != len(points) or any(not 0 < x < PRIME for x in points):
        raise InvalidInputError("shares belong to distinct points above 0")
    return {x: _weight(x, points) for x in points}


def combine(shares: Mapping[int, bytes], by_point: Mapping[int, int]) -> bytes:
    """The secret of exactly the shares whose points were weighed.

    Args:
        shares: share by point.
        by_point: ``weights`` of the same points.

    Raises:
        InvalidInputError: a share is missing or malformed, or the shares do not belong together;
            not every wrong share shows, so check the secret against what is known of it.
    """
    if shares.keys() != by_point.keys():
        raise InvalidInputError("the weights are those of other shares")
    total = sum(_number(share) * by_point[x] for x, share in shares.items()) % PRIME
    try:
        return total.to_bytes(SECRET_BYTES, "big")
    except OverflowError as error:
        raise InvalidInputError("the shares do not belong together") from error


def _weight(x: int, points: Sequence[int]) -> int:
    above, below = 1, 1
    for other in points:
        if other != x:
            above = above * other % PRIME
            below = below * (other - x) % PRIME
    return above * pow(below, -1, PRIME) % PRIME


def _value(polynomial: Sequence[int], x: int) -> int:
    """Horner's rule."""
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * x + coefficient) % PRIME
    return total


def _element(entropy: Entropy) -> int:
    """A uniform element: of the 2^521 numbers that are drawn only one is drawn again."""
    while True:
        data = bytearray(entropy.random_bytes(SHARE_BYTES))
        data[0] &= _TOP_BYTE
        if (number := int.from_bytes(data, "big")) < PRIME:
            return number


def _number(share: bytes) -> int:
    number = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or number >= PRIME:
        raise InvalidInputError("a share is a number below the prime in 66 bytes")
    return number
