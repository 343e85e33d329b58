"""Whether TUF metadata vouches for a manifest: root, timestamp, snapshot, targets, channel.

The order and the rules are the specification's. Expiry is not enforced, because an audit happens
long after; it is reported instead.

References:
    The Update Framework specification, section 5.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from hansa.core.errors import InvalidInputError, UntrustedReleaseError

_Role = TypeVar("_Role", Root, Timestamp, Snapshot, Targets)
_ROOT = re.compile(r"(?:[1-9][0-9]{0,9}\.)?root\.json")


class ReleaseChain:
    """The verified metadata of a release.

    Attributes:
        root_version: the newest root that was reached from the trusted one.
        expires: when each role's metadata expires (UTC), by role name.
    """

    def __init__(
        self, metadata: Mapping[str, bytes], *, pinned_root: Metadata[Root] | None = None
    ) -> None:
        """Verifies everything down to the top-level targets.

        Args:
            metadata: file name to bytes; names are ``root.json`` or ``3.root.json`` and so on.
            pinned_root: the root that the auditor trusts; absent, the oldest root in the pack.

        Raises:
            UntrustedReleaseError: a file is missing, malformed or not signed as it must be; the
                sentence names it.
        """
        self._metadata = metadata
        self.expires: dict[str, datetime] = {}
        self._root = self._newest_root(pinned_root)
        timestamp = self._verified("timestamp", Timestamp, self._root, None)
        self._snapshot = self._verified("snapshot", Snapshot, self._root, timestamp.snapshot_meta)
        self._targets = self._verified("targets", Targets, self._root, self._meta_of("targets"))
        self.root_version: int = self._root.version

    def check_target(self, channel: str, path: str, data: bytes) -> None:
        """Checks that the channel's role, or the top-level targets, vouch for the target's bytes.

        Raises:
            UntrustedReleaseError: they do not.
        """
        delegations = self._targets.delegations
        roles = {} if delegations is None else delegations.roles or {}
        holder = self._targets
        if channel in roles and roles[channel].is_delegated_path(path):
            holder = self._verified(channel, Targets, self._targets, self._meta_of(channel))
        target = holder.targets.get(path)
        if target is None:
            raise UntrustedReleaseError(f"the signed targets do not list {path}")
        try:
            target.verify_length_and_hashes(data)
        except RepositoryError as error:
            raise UntrustedReleaseError(f"{path} is not what was signed: {error}") from error

    def _newest_root(self, pinned: Metadata[Root] | None) -> Root:
        found = [self._parsed(name, Root) for name in self._metadata if _ROOT.fullmatch(name)]
        roots = sorted(found, key=lambda root: root.signed.version)
        if not roots:
            raise UntrustedReleaseError("root.json is missing from the release's metadata")
        trusted = roots[0] if pinned is None else pinned
        _check_root(trusted.signed, trusted)
        for root in roots:
            trusted = _next_root(trusted, root)
        self.expires["root"] = trusted.signed.expires
        return trusted.signed

    def _meta_of(self, role: str) -> MetaFile:
        meta = self._snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise UntrustedReleaseError(f"the signed snapshot does not list {role}.json")
        return meta

    def _verified(
        self, role: str, kind: type[_Role], by: Root | Targets, meta: MetaFile | None
    ) -> _Role:
        """A role's metadata, signed by its delegator and in the version that ``meta`` names."""
        name = self._name_of(role, meta)
        metadata = self._parsed(name, kind)
        try:
            by.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            if meta is not None:
                meta.verify_length_and_hashes(self._metadata[name])
        except (RepositoryError, ValueError) as error:
            raise UntrustedReleaseError(f"{name} does not verify: {error}") from error
        if meta is not None and metadata.signed.version != meta.version:
            raise UntrustedReleaseError(f"{name} is not the version {meta.version} that is current")
        self.expires[role] = metadata.signed.expires
        return metadata.signed

    def _name_of(self, role: str, meta: MetaFile | None) -> str:
        plain = f"{role}.json"
        numbered = plain if meta is None else f"{meta.version}.{plain}"
        if numbered in self._metadata:
            return numbered
        if plain in self._metadata:
            return plain
        raise UntrustedReleaseError(f"{numbered} is missing from the release's metadata")

    def _parsed(self, name: str, kind: type[_Role]) -> Metadata[_Role]:
        return _metadata(self._metadata[name], name, kind)


def _metadata(data: bytes, name: str, kind: type[_Role]) -> Metadata[_Role]:
    try:
        metadata = Metadata[_Role].from_bytes(data)
    except (RepositoryError, RecursionError) as error:
        raise UntrustedReleaseError(f"{name} is malformed: {error}") from error
    if not isinstance(metadata.signed, kind):
        raise UntrustedReleaseError(f"{name} is metadata of another kind")
    return metadata


def parse_root(data: bytes) -> Metadata[Root]:
    """The root metadata that an auditor trusts.

    Raises:
        InvalidInputError: the bytes are no root metadata.
    """
    try:
        return _metadata(data, "the pinned root", Root)
    except UntrustedReleaseError as error:
        raise InvalidInputError(str(error)) from error


def _next_root(trusted: Metadata[Root], root: Metadata[Root]) -> Metadata[Root]:
    """The root to trust after seeing this one; roots are seen in the order of their versions."""
    expected = trusted.signed.version + 1
    if root.signed.version < expected - 1:
        return trusted
    if root.signed.version == expected - 1:
        if root.signed_bytes != trusted.signed_bytes:
            raise UntrustedReleaseError("root.json is not the root that is trusted")
        return trusted
    if root.signed.version > expected:
        raise UntrustedReleaseError(f"{expected}.root.json is missing from the chain of roots")
    _check_root(trusted.signed, root)
    _check_root(root.signed, root)
    return root


def _check_root(by: Root, root: Metadata[Root]) -> None:
    try:
        by.verify_delegate("root", root.signed_bytes, root.signatures)
    except (RepositoryError, ValueError) as error:
        raise UntrustedReleaseError(f"root.json does not verify: {error}") from error
