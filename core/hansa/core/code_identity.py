"""Which code of Hansa runs here: one digest over all of it.

A contract may name the installations that a merchant has accepted; a changed one touches no data
until it is accepted too. It guards against an installation that changed unnoticed, an update or an
edit, and lets an auditor compare sites. It does not guard against somebody who can write this very
code: such a person can make it say anything.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from hansa.core.canonical import digest, sha256_hex
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256


def code_identity(roots: Iterable[Path]) -> Sha256:
    """The digest of the Python sources below these folders.

    It is the SHA-256 of the canonical JSON of a sorted list of ``[path, digest]``, the path
    relative to its root with ``/`` between its parts: it depends neither on where the code is
    installed nor on how its folders are spread.

    Args:
        roots: the folders of a namespace package, such as ``hansa.__path__``.

    Raises:
        InvalidInputError: a source cannot be read, or there is none.
    """
    found: list[list[str]] = []
    for root in sorted({path.resolve() for path in roots}):
        for path in root.rglob("*.py"):
            found.append([path.relative_to(root).as_posix(), _file_digest(path)])
    if not found:
        raise InvalidInputError("no source of Hansa is installed here; install it anew")
    return digest(sorted(found))


@lru_cache(maxsize=1)
def installed_code() -> Sha256:
    """The digest of the installation that this process began with, over all of ``hansa``.

    Raises:
        InvalidInputError: a source cannot be read.
    """
    import hansa

    return code_identity(Path(path) for path in hansa.__path__)


def _file_digest(path: Path) -> str:
    try:
        return sha256_hex(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"the source {path.name} cannot be read: {error}") from error
