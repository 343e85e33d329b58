"""Pseudonyms of shoppers: HMAC-SHA256 under a random key that each site makes and keeps.

Without the key a pseudonym cannot be turned back by trying ids, and the same shopper has unrelated
pseudonyms at two sites. Whoever loses the key file loses nothing but the link to earlier ingests.

References:
    RFC 2104, HMAC: Keyed-Hashing for Message Authentication.
"""

import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path

from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.storage import fsync_directory

KEY_BYTES = 32
_OWNER_ONLY = 0o600


@dataclass(frozen=True, kw_only=True)
class PseudonymKey:
    """A site's secret; two uses never give the same pseudonym.

    Raises:
        InvalidInputError: the secret is not 32 bytes long.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuses a secret of another length."""
        if len(self.secret) != KEY_BYTES:
            raise InvalidInputError(
                f"a pseudonym key is {KEY_BYTES} bytes long, not {len(self.secret)}; "
                "restore the key file from a backup or remove it and ingest again"
            )

    def shopper(self, shopper_id: str) -> str:
        """The shopper's pseudonym, 64 hexadecimal digits."""
        return self._digest("shopper", shopper_id)

    def session(self, session_id: str) -> str:
        """The session's pseudonym, 64 hexadecimal digits."""
        return self._digest("session", session_id)

    def _digest(self, use: str, name: str) -> str:
        return hmac.digest(self.secret, f"{use}:{name}".encode(), "sha256").hex()


def read_key(path: Path) -> PseudonymKey:
    """The key in a file that only its owner may read.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: others may read the file, or it does not hold a key.
    """
    try:
        mode = path.stat().st_mode
        secret = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no pseudonym key {path}; create one first") from error
    except OSError as error:
        raise InvalidInputError(
            f"cannot read the pseudonym key {path}: {error.strerror}; check the path"
        ) from error
    if mode & 0o077:
        raise InvalidInputError(f"others may read {path}; run chmod 600 on it")
    return PseudonymKey(secret=secret)


def create_key(path: Path, entropy: bytes) -> PseudonymKey:
    """A new key file, mode 0600, whole or absent; ``entropy`` is 32 bytes of a secure generator.

    Raises:
        ConflictError: the file exists; a key is never overwritten.
        InvalidInputError: the entropy is not 32 bytes long.
    """
    key = PseudonymKey(secret=entropy)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
    with os.fdopen(handle, "wb") as file:
        file.write(entropy)
        file.flush()
        os.fsync(file.fileno())
    try:
        path.hardlink_to(part)
    except FileExistsError as error:
        raise ConflictError(f"the key {path} exists; keep it, or move it away first") from error
    finally:
        part.unlink()
    fsync_directory(path.parent)
    return key


def read_or_create_key(path: Path, entropy: bytes) -> PseudonymKey:
    """The site's key; made from ``entropy`` on the first call, read on every later one.

    Raises:
        InvalidInputError: the file is not a key, or others may read it.
    """
    try:
        return create_key(path, entropy)
    except ConflictError:
        return read_key(path)
