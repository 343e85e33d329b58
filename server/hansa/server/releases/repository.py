"""Publishing releases: what the server does every day, with the online keys alone.

The order makes a crash harmless at every point: target files, then the channel's role, then the
snapshot, then the timestamp. Until the timestamp is replaced (one rename), everything written
before is invisible to merchants; afterwards everything that it refers to is on the disk.

* A release's version only grows within its channel.
* Publishing the newest manifest once more changes nothing: an interrupted run can repeat it.
* Rolling back publishes a newer version that names the older files.
"""

import logging
import os
import shutil
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import MetaFile, TargetFile

from hansa.core.errors import ConflictError, NotFoundError, UntrustedReleaseError
from hansa.core.ids import ReleaseVersion, Sha256
from hansa.core.release import ReleaseManifest, pointer_path, target_path
from hansa.core.statement import STATEMENT_NAME
from hansa.core.storage import CHUNK_BYTES, file_sha256
from hansa.server.releases.files import RepositoryFiles
from hansa.server.releases.keys import OnlineKeys
from hansa.server.releases.writer import (
    PATIENCE_S,
    Lifetimes,
    MetadataWriter,
    sole_writer,
)

KEPT_RELEASES = 50
"""So many newest releases of a channel stay listed, and can be rolled back to."""

_log = logging.getLogger(__name__)


class ReleaseRepository:
    """Publishes into one repository folder; only one process at a time writes."""

    def __init__(
        self,
        folder: Path,
        keys: OnlineKeys,
        lifetimes: Lifetimes | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self._lifetimes = lifetimes or Lifetimes()
        self.files = RepositoryFiles(folder)
        self._writer = MetadataWriter(self.files, keys, self._lifetimes)

    def newest(self, channel: str) -> ReleaseManifest | None:
        """The manifest that merchants of the channel are offered; None: nothing is published.

        Raises:
            NotFoundError: there is no such channel.
        """
        target = self.files.role(channel).signed.targets.get(pointer_path(channel))
        return None if target is None else self._manifest(target)

    def next_version(self, channel: str) -> ReleaseVersion:
        """The version that the channel's next manifest takes."""
        newest = self.newest(channel)
        return ReleaseVersion(1 if newest is None else newest.version + 1)

    def versions(self, channel: str) -> list[ReleaseVersion]:
        """The releases that are still listed, oldest first."""
        return _versions(self.files.role(channel).signed.targets)

    def manifest(self, channel: str, version: ReleaseVersion) -> ReleaseManifest:
        """The manifest of a listed release.

        Raises:
            NotFoundError: the channel does not list this version.
        """
        path = target_path(channel, version, "manifest.json")
        target = self.files.role(channel).signed.targets.get(path)
        if target is None:
            raise NotFoundError(f"channel {channel!r} lists no release {version}")
        return self._manifest(target)

    def made_by(self, channel: str, run: str) -> ReleaseManifest | None:
        """The newest listed release that a run made; None: it made none."""
        for version in reversed(self.versions(channel)):
            manifest = self.manifest(channel, version)
            if manifest.run == run and manifest.restores is None:
                return manifest
        return None

    def expiries(self) -> dict[str, datetime]:
        """When each role's metadata expires (UTC); root and targets need the offline keys."""
        found = {
            "root": self.files.newest_root().signed.expires,
            "snapshot": self.files.snapshot().signed.expires,
            "timestamp": self.files.timestamp().signed.expires,
        }
        for name in self.files.snapshot().signed.meta:
            role = name.removesuffix(".json")
            found[role] = self.files.role(role).signed.expires
        return found

    def publish(
        self, artifact_folder: Path, manifest: ReleaseManifest, now: datetime
    ) -> ReleaseVersion:
        """Copies the manifest's files out of ``artifact_folder`` and makes them the newest release.

        Raises:
            NotFoundError: the channel, its key or one of the files does not exist.
            ConflictError: the version does not exceed the newest, or another process is writing.
            UntrustedReleaseError: a file is not what the manifest promises.
        """
        with sole_writer(self._folder, patience_s=self._patience_s):
            if self._already_newest(manifest):
                return manifest.release_version
            for name in manifest.files:
                self._store(artifact_folder / name, name, manifest)
            return self._release(manifest, now)

    def roll_back(self, channel: str, to: ReleaseVersion, now: datetime) -> ReleaseVersion:
        """Publishes the files of release ``to`` again, under the next version.

        A release that was made before there were privacy statements can be restored too, but only
        clients of that time load it; newer ones refuse it and go on serving what they have.

        Raises:
            NotFoundError: the channel does not list ``to``, or one of its files is gone.
            ConflictError: ``to`` is the newest already, or another process is writing.
        """
        with sole_writer(self._folder, patience_s=self._patience_s):
            version = self.next_version(channel)
            if to == version - 1:
                raise ConflictError(f"release {to} already is the newest of channel {channel!r}")
            old = self.manifest(channel, to)
            change = {"version": version, "restores": to, "created": now}
            manifest = ReleaseManifest.model_validate({**old.model_dump(), **change})
            if STATEMENT_NAME not in manifest.files:
                _log.warning("release %s has no privacy statement: no new site loads it", to)
            for facts in manifest.files.values():
                self.files.targets.size(Sha256(facts.sha256))
            return self._release(manifest, now)

    def refresh_timestamp(self, now: datetime) -> datetime:
        """Signs the timestamp again, and what lies below if a third of its life is left.

        Returns:
            When the new timestamp expires (UTC); call again well before.

        Raises:
            ConflictError: another process is writing.
        """
        with sole_writer(self._folder, patience_s=self._patience_s):
            snapshot = self.files.snapshot().signed
            current = self.files.timestamp().signed
            if snapshot.expires - now > self._lifetimes.content / 3:
                return self._writer.timestamp(current.version + 1, current.snapshot_meta, now)
            meta = dict(snapshot.meta)
            for name in sorted(set(meta) - {"targets.json"}):
                channel = name.removesuffix(".json")
                targets = self.files.role(channel).signed.targets
                meta[name] = self._writer.channel(channel, targets, now)
            return self._make_current(meta, now)

    def _already_newest(self, manifest: ReleaseManifest) -> bool:
        newest = self.newest(manifest.channel)
        if newest is None:
            return False
        if newest != manifest and manifest.version <= newest.version:
            raise ConflictError(
                f"channel {manifest.channel!r} is at release {newest.version}; "
                f"publish {newest.version + 1} or later, not {manifest.version}"
            )
        return newest == manifest

    def _store(self, source: Path, name: str, manifest: ReleaseManifest) -> None:
        """Copies first and checks the copy, so that no later change of the source can slip in."""
        part = self._folder / "targets" / "incoming.part"
        try:
            size = _copy_durably(source, part)
        except FileNotFoundError as error:
            raise NotFoundError(f"the artifact folder lacks {name!r}") from error
        manifest.verify_file(name, file_sha256(part), size)
        self.files.targets.adopt(part)

    def _release(self, manifest: ReleaseManifest, now: datetime) -> ReleaseVersion:
        self.files.targets.put(manifest.to_bytes())
        channel = manifest.channel
        targets = _listed(self.files.role(channel).signed.targets, manifest)
        meta = dict(self.files.snapshot().signed.meta)
        meta[f"{channel}.json"] = self._writer.channel(channel, targets, now)
        self._make_current(meta, now)
        _log.info("released %s of channel %s", manifest.version, channel)
        return manifest.release_version

    def _make_current(self, meta: dict[str, MetaFile], now: datetime) -> datetime:
        version = self.files.timestamp().signed.version + 1
        return self._writer.timestamp(version, self._writer.snapshot(meta, now), now)

    def _manifest(self, target: TargetFile) -> ReleaseManifest:
        manifest = ReleaseManifest.parse(self.files.targets.read(Sha256(target.hashes["sha256"])))
        if manifest.target_facts() != target.custom:
            raise UntrustedReleaseError(f"target {target.path!r} and its manifest disagree")
        return manifest


def _copy_durably(source: Path, part: Path) -> int:
    with source.open("rb") as reader, part.open("wb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)
        writer.flush()
        os.fsync(writer.fileno())
        return writer.tell()


def _versions(targets: dict[str, TargetFile]) -> list[ReleaseVersion]:
    parts = (path.split("/") for path in targets)
    return sorted({ReleaseVersion(int(part[1])) for part in parts if len(part) == 3})


def _listed(targets: dict[str, TargetFile], manifest: ReleaseManifest) -> dict[str, TargetFile]:
    """The channel's targets with the new release in front and the oldest ones dropped."""
    kept = {str(version) for version in _versions(targets)[-(KEPT_RELEASES - 1) :]}
    listed = {path: target for path, target in targets.items() if path.split("/")[1] in kept}
    data = manifest.to_bytes()
    version, custom = manifest.release_version, {"custom": manifest.target_facts()}
    pointer = pointer_path(manifest.channel)
    own = target_path(manifest.channel, version, "manifest.json")
    for path in (pointer, own):
        listed[path] = TargetFile(len(data), {"sha256": manifest.digest}, path, dict(custom))
    for name, facts in manifest.files.items():
        path = target_path(manifest.channel, version, name)
        hashes = {"sha256": str(facts.sha256)}
        listed[path] = TargetFile(facts.size_bytes, hashes, path, dict(custom))
    return listed
