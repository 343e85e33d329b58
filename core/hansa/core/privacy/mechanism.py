"""The random parts of the mechanism: Poisson sampling, choice of records, Gaussian noise.

All randomness comes from a cryptographic source that is handed in; whoever can predict it can
subtract the noise. Nothing here keeps, logs or returns a key.

References:
    Mironov, "On significance of the least significant bits for differential privacy", CCS 2012.
    Holohan and Braghin, "Secure random sampling in differential privacy", arXiv:2107.10138 (the
    sum of several draws that defeats floating-point attacks on the Gaussian).
"""

import math
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from hansa.core.errors import InvalidInputError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16
DRAWS: Final = 4
"""Independent Gaussians that make one noise value (Holohan and Braghin's mitigation)."""

_UNIFORM_STEP: Final = 2.0**-53

_BLOCK: Final = 1 << 15
"""Values that are made together, so that what lies between fits into the processor's cache."""


class Entropy(Protocol):
    """A source of bytes that nobody can predict."""

    def random_bytes(self, n: int, /) -> bytes:
        """``n`` independent, uniform bytes."""
        ...


def _words(data: bytes) -> npt.NDArray[np.uint64]:
    """The 53 upper bits of each 8 bytes, as integers."""
    return np.frombuffer(data, dtype="<u8").astype(np.uint64) >> np.uint64(11)


class AesNormal:
    """A stream of Gaussian noise from the AES-256-CTR keystream.

    The stream is secret: one key and nonce serve one object, and are then forgotten.
    """

    def __init__(self, *, key: bytes, nonce: bytes) -> None:
        """Starts the stream.

        Args:
            key: 32 secret bytes, fresh from the entropy source.
            nonce: 16 bytes, never used twice with the same key.

        Raises:
            InvalidInputError: the key or the nonce has another length.
        """
        if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
            raise InvalidInputError("AES noise needs a key of 32 bytes and a nonce of 16 bytes")
        self._stream = Cipher(AES(key), CTR(nonce)).encryptor()

    @classmethod
    def fresh(cls, entropy: Entropy) -> "AesNormal":
        """A stream under a key and nonce that no one has seen."""
        return cls(key=entropy.random_bytes(KEY_BYTES), nonce=entropy.random_bytes(NONCE_BYTES))

    def __repr__(self) -> str:
        """Shows nothing of the key."""
        return "AesNormal(...)"

    def uniforms(self, n: int) -> npt.NDArray[np.float64]:
        """Uniforms on the open interval (0, 1), shape ``(n,)``."""
        words = _words(self._stream.update(bytes(8 * n)))
        return (words.astype(np.float64) + 0.5) * _UNIFORM_STEP

    def _draw(self, n: int) -> npt.NDArray[np.float64]:
        """Standard Gaussians by Box and Muller, shape ``(n,)``.

        Cosine and sine of the angle come from the tangent of its half, within one unit in the last
        place: one vectorised function instead of two slow ones.
        """
        pairs = (n + 1) // 2
        uniforms = self.uniforms(2 * pairs)
        tangent = np.tan(math.pi * uniforms[pairs:])
        square = tangent * tangent
        scale = np.sqrt(-2.0 * np.log(uniforms[:pairs])) / (1.0 + square)
        return np.concatenate([scale * (1.0 - square), scale * (2.0 * tangent)])[:n]

    def normal(self, size: int, *, std: float = 1.0) -> npt.NDArray[np.float64]:
        """Independent Gaussian noise.

        Args:
            size: number of values.
            std: standard deviation, in the unit of what it is added to.

        Returns:
            Noise of shape ``(size,)``, float64: the sum of four draws, divided by two.

        Raises:
            InvalidInputError: the size is negative, or the standard deviation negative or not
                finite.
        """
        if size < 0 or not (math.isfinite(std) and std >= 0.0):
            raise InvalidInputError(
                "noise needs a size and a finite standard deviation of at least 0"
            )
        total = np.zeros(size, dtype=np.float64)
        for start in range(0, size, _BLOCK):
            block = total[start : start + _BLOCK]
            for _ in range(DRAWS):
                block += self._draw(len(block))
            block *= std / math.sqrt(DRAWS)
        return total


def poisson_sample(n: int, q: float, entropy: Entropy) -> npt.NDArray[np.int64]:
    """Which of ``n`` shoppers take part in a step: each one independently with probability ``q``.

    The result is private, and may be empty: an empty step still adds noise and is still booked.

    Args:
        n: number of shoppers; private, hence an argument and never part of a plan.
        q: sampling rate, public.
        entropy: the cryptographic source.

    Returns:
        Ascending indices below ``n``, shape ``(taking part,)``.

    Raises:
        InvalidInputError: ``n`` is negative, or ``q`` is no probability.
    """
    if n < 0 or not 0.0 <= q <= 1.0:
        raise InvalidInputError("Poisson sampling needs a count and a probability between 0 and 1")
    uniforms = _words(entropy.random_bytes(8 * n)).astype(np.float64) * _UNIFORM_STEP
    return np.flatnonzero(uniforms < q).astype(np.int64)


def choose_records(count: int, k: int, entropy: Entropy) -> npt.NDArray[np.int64]:
    """Which of one shopper's records enter a step: at most ``k``, uniformly without replacement.

    Records are ranked by random 64-bit keys, whose ties (chance below ``count**2 / 2**65``) go to
    the earlier record.

    Returns:
        Ascending indices below ``count``, shape ``(min(count, k),)``.

    Raises:
        InvalidInputError: an argument is negative.
    """
    if count < 0 or k < 0:
        raise InvalidInputError("a number of records is at least 0")
    if count <= k:
        return np.arange(count, dtype=np.int64)
    keys = np.frombuffer(entropy.random_bytes(8 * count), dtype="<u8")
    return np.sort(np.argsort(keys, kind="stable")[:k]).astype(np.int64)
