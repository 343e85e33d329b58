"""Fetching, verifying and installing releases at the merchant's site.

The line and the server are not trusted; the root pinned at the join is, and whatever it leads to:

* TUF verifies the metadata: signatures and thresholds, expiry, no version going back, no mixture of
  two publications. It compares expiry dates with this machine's clock.
* Every file is verified against its TUF target and the manifest of the release, which must agree.
* A release is loaded only with a privacy statement that agrees with the manifest and, where the
  site knows more, with its plan, ledger and contract. One without a statement that this site has
  installed already goes on being served, and is mended from the server; no other is loaded.
* A download goes on where it stopped, after a broken line and after a killed process alike.
* A release is installed whole: ``current`` names it only when all of its files are on the disk.
* Whatever fails, ``current()`` goes on answering with the last verified release.

    metadata/                     what TUF has accepted so far
    parts/<sha256>.part           downloads under way
    releases/<channel>/<version>/ manifest.json and the manifest's files
    current                       which of these folders to serve

References:
    TUF specification 5, "Detailed client workflow".
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api import exceptions as tuf_errors
from tuf.ngclient import TargetFile
from tuf.ngclient import Updater as TufUpdater

from hansa.client.updates.guard import StatementGuard
from hansa.client.updates.installed import InstalledReleases, Pointer
from hansa.client.updates.release_source import METADATA_URL, MetadataFetcher, ReleaseSource
from hansa.core.canonical import canonical_json
from hansa.core.errors import (
    ConflictError,
    HansaError,
    InvalidInputError,
    TransportError,
    UntrustedReleaseError,
)
from hansa.core.ids import Sha256
from hansa.core.release import MANIFEST_NAME, ReleaseManifest, pointer_path, target_path
from hansa.core.statement import MAX_STATEMENT_BYTES, STATEMENT_NAME
from hansa.core.statement_rules import missing_sentence, read_statement
from hansa.core.storage import check_sha256, file_sha256, fsync_directory, write_atomically

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UpdateLimits:
    """How long the updater tries, and how much it keeps."""

    max_streams: int = 16
    """Resumptions of one file within one update; a stream that brings nothing ends the update."""
    kept_releases: int = 3
    """Installed releases that stay on the disk, the served one included."""


class Updater:
    """Keeps one folder of verified releases; only one process at a time updates it."""

    def __init__(
        self,
        folder: Path,
        source: ReleaseSource,
        root: bytes,
        limits: UpdateLimits | None = None,
        *,
        guard: StatementGuard | None = None,
    ) -> None:
        """Takes the pinned root; ``guard`` compares statements with what the site itself knows."""
        self._folder = folder
        self._installed = InstalledReleases(folder)
        self._source = source
        self._root = root
        self._limits = limits or UpdateLimits()
        self._guard = guard

    def current(self) -> Path | None:
        """See ``InstalledReleases.current``."""
        return self._installed.current()

    def current_manifest(self) -> ReleaseManifest | None:
        """See ``InstalledReleases.current_manifest``."""
        return self._installed.current_manifest()

    def refresh_and_fetch(self, channel: str) -> Path | None:
        """Installs the channel's newest release and makes it current.

        Returns:
            Its folder; None if it is current already, or the channel has no release yet.

        Raises:
            UntrustedReleaseError: metadata or files lack the trust they need, or have expired, or
                the release has no privacy statement, or one that is wrong.
            ContractError: the release is outside the merchant's terms.
            TransportError: the server cannot be reached, or the line broke; call again to go on.
            UnauthorisedError: the server refuses this merchant.
            NotFoundError: the server has lost a signed file.
            ConflictError: another process is updating.
            InvalidInputError: the folder cannot be written.
        """
        try:
            with self._sole_updater(), _tuf_errors_translated():
                return self._update(channel)
        except OSError as error:
            raise InvalidInputError(f"cannot write {self._folder}: {error}") from error

    def _update(self, channel: str) -> Path | None:
        tuf = self._refreshed()
        target = tuf.get_targetinfo(pointer_path(channel))
        if target is None:
            return None
        manifest = self._manifest(target, channel)
        if self._is_current(manifest):
            return None
        self._refuse_older(manifest)
        self._check_statement(tuf, manifest)
        folder = self._install(tuf, manifest)
        self._tidy(manifest)
        _log.info("installed release %s of channel %s", manifest.version, channel)
        return folder

    def _refreshed(self) -> TufUpdater:
        metadata = self._folder / "metadata"
        metadata.mkdir(parents=True, exist_ok=True)
        fetcher = MetadataFetcher(self._source)
        tuf = TufUpdater(str(metadata), METADATA_URL, fetcher=fetcher, bootstrap=self._root)
        tuf.refresh()
        return tuf

    def _manifest(self, target: TargetFile, channel: str) -> ReleaseManifest:
        manifest = ReleaseManifest.parse(self._obtain(target).read_bytes())
        if manifest.channel != channel or manifest.target_facts() != target.custom:
            raise UntrustedReleaseError("the manifest and the signed metadata disagree; refuse it")
        return manifest

    def _is_current(self, manifest: ReleaseManifest) -> bool:
        try:
            return self._installed.current_manifest() == manifest
        except UntrustedReleaseError as error:
            _log.warning("installing again: %s", error)
            return False

    def _refuse_older(self, manifest: ReleaseManifest) -> None:
        try:
            pointer = self._installed.pointer()
        except UntrustedReleaseError:
            return
        if pointer is None or pointer.channel != manifest.channel:
            return
        if manifest.version < pointer.version:
            raise UntrustedReleaseError(
                f"release {manifest.version} is older than the installed {pointer.version}; "
                "a rollback has to be published as a newer release"
            )

    def _check_statement(self, tuf: TufUpdater, manifest: ReleaseManifest) -> None:
        """Before anything large is fetched; what is installed already was judged in its time."""
        if STATEMENT_NAME not in manifest.files:
            if not self._was_installed(manifest):
                raise UntrustedReleaseError(missing_sentence(manifest))
            _log.warning("release %s has no privacy statement", manifest.version)
            return
        if manifest.files[STATEMENT_NAME].size_bytes > MAX_STATEMENT_BYTES:
            raise UntrustedReleaseError("the privacy statement is larger than 32 MiB; refuse it")
        path = self._obtain(_file_target(tuf, manifest, STATEMENT_NAME))
        statement = read_statement(manifest, path.read_bytes())
        if self._guard is not None:
            self._guard.check(statement)

    def _was_installed(self, manifest: ReleaseManifest) -> bool:
        """Whether this very release is the one that this site serves, damaged or not."""
        try:
            pointer = self._installed.pointer()
        except UntrustedReleaseError:
            return False
        return pointer is not None and pointer.manifest_sha256 == manifest.digest

    def _install(self, tuf: TufUpdater, manifest: ReleaseManifest) -> Path:
        folder = self._installed.release_folder(manifest.channel, manifest.version)
        staging = folder.parent / ".new"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name in manifest.files:
            os.link(self._obtain(_file_target(tuf, manifest, name)), staging / name)
        write_atomically(staging / MANIFEST_NAME, manifest.to_bytes())
        shutil.rmtree(folder, ignore_errors=True)
        staging.replace(folder)
        fsync_directory(folder.parent)
        pointer = Pointer(
            channel=manifest.channel, version=manifest.version, manifest_sha256=manifest.digest
        )
        write_atomically(self._folder / "current", canonical_json(pointer.model_dump()))
        return folder

    def _obtain(self, target: TargetFile) -> Path:
        """A verified file: from an installed release if one has it, else from the server."""
        part = self._folder / "parts" / f"{_target_sha256(target)}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        had_bytes = part.exists()
        if not had_bytes and (installed := self._installed_file(target)) is not None:
            os.link(installed, part)
        self._complete(target, part)
        try:
            _verify_target(target, part)
        except UntrustedReleaseError:
            part.unlink()
            if not had_bytes:
                raise
            _log.warning("a kept part of %s is damaged; starting anew", target.path)
            return self._obtain(target)
        return part

    def _installed_file(self, target: TargetFile) -> Path | None:
        name = target.path.rpartition("/")[2]
        for path in sorted(self._folder.glob(f"releases/*/*/{name}")):
            if path.stat().st_size == target.length and file_sha256(path) == _target_sha256(target):
                return path
        return None

    def _complete(self, target: TargetFile, part: Path) -> None:
        """Streams what is missing, again and again as long as each stream brings something."""
        part.touch()
        for _ in range(self._limits.max_streams):
            before = part.stat().st_size
            if before >= target.length:
                return
            try:
                self._append(target, part, before)
            except TransportError as error:
                if part.stat().st_size == before:
                    raise
                _log.info("resuming %s: %s", target.path, error)
            if part.stat().st_size == before:
                break
        if (have := part.stat().st_size) < target.length:
            raise TransportError(
                f"the server sent {have} of {target.length} bytes of {target.path!r}; "
                "update again to go on from there"
            )

    def _append(self, target: TargetFile, part: Path, offset: int) -> None:
        pieces = self._source.target(target.path, _target_sha256(target), offset)
        with part.open("ab", buffering=0) as file:
            for piece in pieces:
                offset += len(piece)
                if offset > target.length:
                    part.unlink()
                    raise UntrustedReleaseError(
                        f"the server sends more than the {target.length} bytes promised "
                        f"for {target.path!r}; the download was thrown away"
                    )
                file.write(piece)
            os.fsync(file.fileno())

    def _tidy(self, manifest: ReleaseManifest) -> None:
        shutil.rmtree(self._folder / "parts", ignore_errors=True)
        channel = self._folder / "releases" / manifest.channel
        versions = sorted(int(path.name) for path in channel.iterdir() if path.name.isdecimal())
        for version in versions[: -self._limits.kept_releases]:
            shutil.rmtree(channel / str(version), ignore_errors=True)

    @contextmanager
    def _sole_updater(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "updater.lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError("another process is updating this site; try again") from error
            yield


@contextmanager
def _tuf_errors_translated() -> Iterator[None]:
    try:
        yield
    except tuf_errors.ExpiredMetadataError as error:
        raise UntrustedReleaseError(
            f"no update: {error}; the current release goes on being served. Check this machine's "
            "clock, then ask the operator to refresh the release metadata"
        ) from error
    except tuf_errors.BadVersionNumberError as error:
        raise UntrustedReleaseError(
            f"no update: the server offers old metadata: {error}"
        ) from error
    except tuf_errors.UnsignedMetadataError as error:
        raise UntrustedReleaseError(f"no update: signatures are missing: {error}") from error
    except (tuf_errors.RepositoryError, tuf_errors.DownloadLengthMismatchError) as error:
        raise UntrustedReleaseError(f"no update: {error}") from error
    except tuf_errors.DownloadError as error:
        if isinstance(cause := error.__cause__, HansaError):
            raise type(cause)(f"no update: {cause}") from error
        raise TransportError(f"no update: {error}; try again later") from error


def _file_target(tuf: TufUpdater, manifest: ReleaseManifest, name: str) -> TargetFile:
    path = target_path(manifest.channel, manifest.release_version, name)
    target = tuf.get_targetinfo(path)
    if target is None:
        raise UntrustedReleaseError(f"the manifest names {path!r}, the signed metadata does not")
    manifest.verify_file(name, _target_sha256(target), target.length)
    return target


def _target_sha256(target: TargetFile) -> Sha256:
    try:
        return check_sha256(target.hashes["sha256"])
    except (KeyError, InvalidInputError) as error:
        raise UntrustedReleaseError(f"target {target.path!r} has no SHA-256 digest") from error


def _verify_target(target: TargetFile, part: Path) -> None:
    try:
        with part.open("rb") as file:
            target.verify_length_and_hashes(file)
    except tuf_errors.LengthOrHashMismatchError as error:
        raise UntrustedReleaseError(f"the bytes of {target.path!r} are not those signed") from error
