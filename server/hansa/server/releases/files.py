"""The repository folder as everyone may read it: signed metadata by name, targets by digest.

    metadata/1.root.json, 4.targets.json, 7.stable.json, 9.snapshot.json, timestamp.json
    targets/ab/ab12...        each target once, named by its SHA-256 digest

Numbered files never change once written; ``timestamp.json`` alone is replaced, and it decides which
of the numbered files are the current ones. Nothing here is secret and nothing here needs a key.
"""

import re
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from hansa.core.errors import InvalidInputError, NotFoundError, UntrustedReleaseError
from hansa.core.storage import BlobStore

MAX_METADATA_BYTES = 1 << 20
"""A metadata file travels in one message; see releases.proto."""

_METADATA_NAME = re.compile(r"([1-9][0-9]{0,9}\.)?[a-z][a-z0-9-]{0,31}\.json")
_Role = TypeVar("_Role", Root, Timestamp, Snapshot, Targets)


def check_metadata_name(name: str) -> str:
    """The text as a metadata file name such as "timestamp.json" or "2.targets.json".

    Raises:
        InvalidInputError: it is anything else, for instance a path.
    """
    if not _METADATA_NAME.fullmatch(name):
        raise InvalidInputError(
            "a metadata file is named like 'timestamp.json' or '2.targets.json'"
        )
    return name


class RepositoryFiles:
    """Reads one repository folder."""

    def __init__(self, folder: Path) -> None:
        self._metadata = folder / "metadata"
        self.targets = BlobStore(folder / "targets")

    def metadata_path(self, name: str) -> Path:
        """Where the metadata file lies or would lie.

        Raises:
            InvalidInputError: the name is not one of a metadata file.
        """
        return self._metadata / check_metadata_name(name)

    def metadata(self, name: str) -> bytes:
        """A metadata file as signed.

        Raises:
            InvalidInputError: the name is not one of a metadata file.
            NotFoundError: there is no such file.
        """
        try:
            return self.metadata_path(name).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"the repository has no metadata {name!r}") from error

    def root(self) -> bytes:
        """The newest root: what a merchant pins when it joins.

        Raises:
            NotFoundError: the repository has not been created.
        """
        return self.metadata(f"{self.newest('root')}.root.json")

    def newest(self, role: str) -> int:
        """The highest number on disk of a role's metadata, published or left over; 0: none."""
        paths = self._metadata.glob(f"[1-9]*.{role}.json")
        numbers = [int(path.name.split(".")[0]) for path in paths]
        return max(numbers, default=0)

    def timestamp(self) -> Metadata[Timestamp]:
        """The metadata that decides what is current."""
        return self._parsed(Timestamp, "timestamp.json")

    def snapshot(self) -> Metadata[Snapshot]:
        """The current list of all roles' versions."""
        version = self.timestamp().signed.snapshot_meta.version
        return self._parsed(Snapshot, f"{version}.snapshot.json")

    def role(self, name: str) -> Metadata[Targets]:
        """The current targets metadata of a role: "targets" or a channel.

        Raises:
            NotFoundError: there is no such role.
        """
        meta = self.snapshot().signed.meta.get(f"{name}.json")
        if meta is None:
            raise NotFoundError(f"there is no release channel {name!r}; create it first")
        return self._parsed(Targets, f"{meta.version}.{name}.json")

    def newest_root(self) -> Metadata[Root]:
        """The newest root, parsed."""
        return self._parsed(Root, f"{self.newest('root')}.root.json")

    def _parsed(self, kind: type[_Role], name: str) -> Metadata[_Role]:
        try:
            metadata = Metadata[_Role].from_bytes(self.metadata(name))
        except RepositoryError as error:
            raise UntrustedReleaseError(f"metadata {name!r} is damaged; restore it") from error
        if not isinstance(metadata.signed, kind):
            raise UntrustedReleaseError(f"metadata {name!r} is not of its kind; restore it")
        return metadata
