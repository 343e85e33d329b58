"""Randomness that repeats itself, so that a simulation does."""

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR


class SeededEntropy:
    """An AES-CTR stream under a public seed: it protects nobody, and no real site may use it.

    Implements ``hansa.core.privacy.mechanism.Entropy``. Each label has a stream of its own, so that
    it does not matter in which order, or in which process, virtual merchants work.
    """

    def __init__(self, seed: int, label: str) -> None:
        key = hashlib.sha256(f"hansa:simulation:{seed}:{label}".encode()).digest()
        self._stream = Cipher(AES(key), CTR(bytes(16))).encryptor()

    def random_bytes(self, n: int, /) -> bytes:
        """The stream's next ``n`` bytes."""
        return self._stream.update(bytes(n))
