"""The operating system's randomness, behind the core's seam."""

import os


class SystemEntropy:
    """Cryptographic bytes from the kernel; implements ``hansa.core.privacy.mechanism.Entropy``."""

    def random_bytes(self, n: int, /) -> bytes:
        """``n`` independent, uniform bytes."""
        return os.urandom(n)
