"""Removing what a site holds, once it has left.

Files are unlinked, and the folders synced: after a power loss they do not come back. This is no
forensic erasure: what the disk, a snapshot or a backup still holds of them is not touched.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hansa.client.site import Site
from hansa.core.errors import InvalidInputError
from hansa.core.storage import fsync_directory

_log = logging.getLogger(__name__)

SETTINGS: Final = "site.json"


def wiped_paths(site: Site, *, books: bool) -> list[Path]:
    """What is removed, in this order; the settings are last, so that an interrupted wipe goes on.

    The books are the ledger and what was witnessed of the operator's log. They hold nothing of any
    shopper.
    """
    data = [
        site.dataset,
        site.pseudonym_key,
        site.cache,
        site.app_states,
        site.residuals,
        site.outbox,
        site.secure,
        site.contexts,
        site.releases,
        site.plans,
        site.allowed_apps,
        site.offered_terms,
        site.halt,
        site.applications,
        site.identity,
    ]
    return [*data, *([site.log, site.ledger] if books else []), site.path / SETTINGS]


def wipe(site: Site, *, books: bool = False) -> list[Path]:
    """Removes everything of the site but its books, or these too; repeating it is harmless.

    Files of somebody else in the site's folder stay. A link is removed, never what it points to.

    Returns:
        What was there and is removed.

    Raises:
        InvalidInputError: something cannot be removed; what came before it is.
    """
    removed = []
    for path in wiped_paths(site, books=books):
        for one in (path, *_torn(path)):
            if os.path.lexists(one):
                _removed(one)
                removed.append(one)
    if site.path.is_dir() and not any(site.path.iterdir()):
        _removed(site.path)
    return removed


def _torn(path: Path) -> Iterator[Path]:
    """What an interrupted atomic write left beside a file."""
    return path.parent.glob(f".{path.name}.*.part") if path.parent.is_dir() else iter(())


def _removed(path: Path) -> None:
    try:
        _remove(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise InvalidInputError(
            f"cannot remove {error.filename or path}: {error.strerror}; mend its permissions, and "
            "run the same command again"
        ) from error


def _remove(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        path.unlink()
        return
    with os.scandir(path) as found:
        inside = [Path(one.path) for one in found]
    for one in inside:
        _remove(one)
    fsync_directory(path)
    path.rmdir()
