"""The releases on a site's disk: what was verified once, and is checked again before it is used.

A release that was installed before there were privacy statements goes on being served; one that has
a statement is served only as long as the statement agrees with the manifest.
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import sha256_hex
from hansa.core.errors import UntrustedReleaseError
from hansa.core.release import MANIFEST_NAME, ReleaseManifest
from hansa.core.statement import STATEMENT_NAME, PrivacyStatement
from hansa.core.statement_rules import read_statement
from hansa.core.storage import file_sha256


class Pointer(BaseModel):
    """The content of ``current``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    channel: str
    version: Annotated[int, Field(ge=1)]
    manifest_sha256: str


class InstalledReleases:
    """Reads one folder of verified releases; needs no connection."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def current(self) -> Path | None:
        """The folder of the release to serve, each file hashed anew; None before the first one.

        Raises:
            UntrustedReleaseError: the disk no longer holds what was verified; update to mend it.
        """
        pointer = self.pointer()
        if pointer is None:
            return None
        folder = self.release_folder(pointer.channel, pointer.version)
        _verify_folder(folder, pointer.manifest_sha256)
        return folder

    def current_manifest(self) -> ReleaseManifest | None:
        """The manifest of the release to serve.

        Raises:
            UntrustedReleaseError: as ``current``.
        """
        folder = self.current()
        return None if folder is None else _read_manifest(folder)

    def current_statement(self) -> PrivacyStatement | None:
        """The privacy statement of the release to serve; None where it was made without one.

        Raises:
            UntrustedReleaseError: as ``current``.
        """
        folder = self.current()
        return None if folder is None else _statement(folder, _read_manifest(folder))

    def pointer(self) -> Pointer | None:
        """Which release is current; None before the first one.

        Raises:
            UntrustedReleaseError: the file was damaged.
        """
        try:
            return Pointer.model_validate_json((self._folder / "current").read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UntrustedReleaseError("the file 'current' is damaged; update again") from error

    def release_folder(self, channel: str, version: int) -> Path:
        """Where a release lies or would lie."""
        return self._folder / "releases" / channel / str(version)


def _read_manifest(folder: Path) -> ReleaseManifest:
    try:
        return ReleaseManifest.parse((folder / MANIFEST_NAME).read_bytes())
    except OSError as error:
        raise UntrustedReleaseError(f"{folder} has lost its manifest; update again") from error


def _verify_folder(folder: Path, manifest_sha256: str) -> None:
    manifest = _read_manifest(folder)
    if sha256_hex(manifest.to_bytes()) != manifest_sha256:
        raise UntrustedReleaseError(f"the manifest in {folder} was changed; update again")
    for name in manifest.files:
        path = folder / name
        try:
            manifest.verify_file(name, file_sha256(path), path.stat().st_size)
        except OSError as error:
            raise UntrustedReleaseError(f"{folder} has lost {name!r}; update again") from error
    _statement(folder, manifest)


def _statement(folder: Path, manifest: ReleaseManifest) -> PrivacyStatement | None:
    if STATEMENT_NAME not in manifest.files:
        return None
    return read_statement(manifest, (folder / STATEMENT_NAME).read_bytes())
