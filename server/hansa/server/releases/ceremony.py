"""What needs the offline keys: creating the repository, and renewing what they signed.

One ceremony serves for an approaching expiry, a further channel and a stolen online key alike: it
signs a new root that names the given online keys, delegates to their channels, and signs everything
below again. Run it again if it is interrupted; until it is complete, merchants go on serving and at
worst refuse updates.
"""

from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Role,
    Root,
    Targets,
)

from hansa.core.errors import ConflictError, UntrustedReleaseError
from hansa.server.releases.files import RepositoryFiles
from hansa.server.releases.keys import ROOT_KEYS, ROOT_THRESHOLD, OfflineKeys, OnlineKeys
from hansa.server.releases.writer import Lifetimes, MetadataWriter, sole_writer


def create_repository(
    folder: Path,
    *,
    online: OnlineKeys,
    offline: OfflineKeys,
    now: datetime,
    lifetimes: Lifetimes | None = None,
) -> None:
    """Writes a repository without releases.

    Raises:
        ConflictError: there already is one, or another process is writing it.
        UntrustedReleaseError: not all three root keys are at hand.
    """
    files = RepositoryFiles(folder)
    if files.metadata_path("timestamp.json").exists():
        raise ConflictError(f"{folder} already is a release repository")
    if len(offline.roots) != ROOT_KEYS:
        raise UntrustedReleaseError(f"a new repository needs all {ROOT_KEYS} root keys at hand")
    rule = Role([key.public_key.keyid for key in offline.roots], ROOT_THRESHOLD)
    keys = {key.public_key.keyid: key.public_key for key in offline.roots}
    first = Root(version=1, keys=dict(keys), roles={**Root(roles=None).roles, "root": rule})
    with sole_writer(folder):
        _Ceremony(files, online, offline, lifetimes or Lifetimes()).perform(first, now)


def renew_repository(
    folder: Path,
    *,
    online: OnlineKeys,
    offline: OfflineKeys,
    now: datetime,
    lifetimes: Lifetimes | None = None,
) -> None:
    """Signs the next root and targets, and everything below, with the given online keys.

    Raises:
        NotFoundError: there is no repository.
        ConflictError: another process is writing it.
        UntrustedReleaseError: fewer than two of its root keys are at hand; nothing was written.
    """
    files = RepositoryFiles(folder)
    with sole_writer(folder):
        root = files.newest_root().signed
        root.version += 1
        _Ceremony(files, online, offline, lifetimes or Lifetimes()).perform(root, now)


class _Ceremony:
    def __init__(
        self, files: RepositoryFiles, online: OnlineKeys, offline: OfflineKeys, lifetimes: Lifetimes
    ) -> None:
        self._files = files
        self._online = online
        self._offline = offline
        self._lifetimes = lifetimes
        self._writer = MetadataWriter(files, online, lifetimes)

    def perform(self, root: Root, now: datetime) -> None:
        """Writes in the order in which clients depend on it: the timestamp comes last."""
        meta = self._current_channels()
        timestamp = 1 + self._current_timestamp()
        self._write_root(root, now)
        written = {"targets.json": self._write_targets(now)}
        for channel in self._online.channels:
            targets = meta[channel].targets if channel in meta else {}
            written[f"{channel}.json"] = self._writer.channel(channel, targets, now)
        self._writer.timestamp(timestamp, self._writer.snapshot(written, now), now)

    def _current_timestamp(self) -> int:
        if not self._files.metadata_path("timestamp.json").exists():
            return 0
        return self._files.timestamp().signed.version

    def _current_channels(self) -> dict[str, Targets]:
        if self._current_timestamp() == 0:
            return {}
        listed = {name.removesuffix(".json") for name in self._files.snapshot().signed.meta}
        if missing := listed - {"targets", *self._online.channels}:
            raise ConflictError(f"the key of channel {min(missing)!r} is missing; channels stay")
        return {name: self._files.role(name).signed for name in listed - {"targets"}}

    def _write_root(self, root: Root, now: datetime) -> None:
        root.expires = now + self._lifetimes.offline
        root.consistent_snapshot = True
        for role, signer in (
            ("targets", self._offline.targets),
            ("snapshot", self._online.snapshot),
            ("timestamp", self._online.timestamp),
        ):
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(signer.public_key, role)
        self._check_threshold(root)
        self._writer.numbered("root", root, self._offline.roots)

    def _check_threshold(self, root: Root) -> None:
        metadata = Metadata(root)
        for signer in self._offline.roots:
            metadata.sign(signer, append=True)
        try:
            root.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        except UnsignedMetadataError as error:
            raise UntrustedReleaseError(
                f"{ROOT_THRESHOLD} of the repository's {ROOT_KEYS} root keys must sign; "
                "bring another one"
            ) from error

    def _write_targets(self, now: datetime) -> MetaFile:
        signers = self._online.channels
        keys: dict[str, Key] = {
            signer.public_key.keyid: signer.public_key for signer in signers.values()
        }
        roles = {
            name: DelegatedRole(
                name, [signer.public_key.keyid], 1, True, [f"{name}/*", f"{name}/*/*"]
            )
            for name, signer in signers.items()
        }
        targets = Targets(
            version=self._files.newest("targets") + 1,
            expires=now + self._lifetimes.offline,
            delegations=Delegations(keys, roles),
        )
        return self._writer.numbered("targets", targets, (self._offline.targets,))
