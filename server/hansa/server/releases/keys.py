"""The Ed25519 keys of the release repository, in two folders that must not stay together.

``online`` holds what the server needs every day: the snapshot, timestamp and channel keys.
``offline`` holds the three root keys, of which any two make a new root, and the targets key that
delegates to the channels. The operator moves ``offline`` away from the server: with it, the keys of
a stolen server can be replaced by a new root; without it, a thief can never appoint keys.

Keys come from the operating system's random source, never from an argument: a seeded signing key
would be a way to break a production repository.

References:
    TUF specification 6.1, "Key management and migration".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from hansa.core.errors import ConflictError, InvalidInputError, NotFoundError
from hansa.core.release import check_channel
from hansa.core.storage import write_atomically

ROOT_KEYS = 3
ROOT_THRESHOLD = 2

_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700
_README = """\
Root and targets keys of this release repository.

Move this folder to a medium that is not connected to the server, in at least two places, and
delete it here. Any two of the three root keys appoint new keys for everything else, so keep root-1,
root-2 and root-3 with different people. The server runs without this folder; you need it again to
renew the root and targets metadata before they expire, to add a channel, or to replace a stolen
key.
"""


@dataclass(frozen=True, kw_only=True)
class OnlineKeys:
    """What the running server signs with."""

    snapshot: CryptoSigner
    timestamp: CryptoSigner
    channels: dict[str, CryptoSigner]
    """One key for each channel's delegated role."""


@dataclass(frozen=True, kw_only=True)
class OfflineKeys:
    """What the operator brings along for a ceremony, and takes away again."""

    roots: tuple[CryptoSigner, ...]
    """All root keys that are at hand; two of the three are enough to renew."""
    targets: CryptoSigner


def create_keys(online: Path, offline: Path, channels: Sequence[str]) -> None:
    """Writes fresh keys, private to this user (files 0600, folders 0700).

    Raises:
        ConflictError: one of the folders already holds keys; nothing was written.
        InvalidInputError: a channel's name is not one, or there is none.
    """
    if not channels:
        raise InvalidInputError("name at least one release channel, for example 'stable'")
    names = [check_channel(channel) for channel in channels]
    for folder in (online, offline):
        _make_private_folder(folder)
    for role in ("snapshot", "timestamp", *(_channel_role(name) for name in names)):
        _write_key(online, role)
    for role in ("targets", *(f"root-{number}" for number in range(1, ROOT_KEYS + 1))):
        _write_key(offline, role)
    write_atomically(offline / "README.txt", _README.encode(), mode=_PRIVATE_FILE)


def create_channel_key(online: Path, channel: str) -> None:
    """Writes the key of a further channel; ``add_channel`` then delegates to it.

    Raises:
        ConflictError: the channel already has a key.
        InvalidInputError: the channel's name is not one.
    """
    role = _channel_role(check_channel(channel))
    if (online / f"{role}.pem").exists():
        raise ConflictError(f"channel {channel!r} already has a key in {online}")
    _write_key(online, role)


def load_online_keys(folder: Path) -> OnlineKeys:
    """The server's keys.

    Raises:
        NotFoundError: a key file is missing.
        InvalidInputError: a file is no Ed25519 private key.
    """
    prefix = _channel_role("")
    channels = {
        path.stem.removeprefix(prefix): _read_key(path)
        for path in sorted(folder.glob(f"{prefix}*.pem"))
    }
    return OnlineKeys(
        snapshot=_read_key(folder / "snapshot.pem"),
        timestamp=_read_key(folder / "timestamp.pem"),
        channels=channels,
    )


def load_offline_keys(folder: Path) -> OfflineKeys:
    """The ceremony's keys: the targets key and as many root keys as are at hand.

    Raises:
        NotFoundError: the targets key, or every root key, is missing.
        InvalidInputError: a file is no Ed25519 private key.
    """
    roots = tuple(_read_key(path) for path in sorted(folder.glob("root-*.pem")))
    if not roots:
        raise NotFoundError(f"no root key in {folder}; bring the offline folder back for this step")
    return OfflineKeys(roots=roots, targets=_read_key(folder / "targets.pem"))


def _channel_role(channel: str) -> str:
    return f"channel-{channel}"


def _make_private_folder(folder: Path) -> None:
    if folder.exists() and any(folder.glob("*.pem")):
        raise ConflictError(f"{folder} already holds keys; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(_PRIVATE_FOLDER)


def _write_key(folder: Path, role: str) -> None:
    signer = CryptoSigner.generate_ed25519()
    write_atomically(folder / f"{role}.pem", signer.private_bytes, mode=_PRIVATE_FILE)


def _read_key(path: Path) -> CryptoSigner:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise NotFoundError(f"cannot read the signing key {path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInputError(f"{path} is no unencrypted PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInputError(f"{path} is no Ed25519 key; releases are signed with Ed25519 only")
    return CryptoSigner(key)
