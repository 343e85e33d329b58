"""Entropy that repeats itself, for tests only.

Use ``SeededEntropy(7)`` wherever an ``Entropy`` is wanted: equal seeds give equal bytes.
"""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR


class SeededEntropy:
    """A deterministic AES-CTR byte stream; implements ``hansa.core.privacy.mechanism.Entropy``."""

    def __init__(self, seed: int = 0) -> None:
        key = seed.to_bytes(32, "big")
        self._stream = Cipher(AES(key), CTR(bytes(16))).encryptor()

    def random_bytes(self, n: int, /) -> bytes:
        return self._stream.update(bytes(n))
