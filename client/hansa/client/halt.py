"""The merchant's kill switch: a file in the site that keeps it out of the federation.

The file outlives restarts, and works whether or not a client runs; serving goes on in any case.
"""

import datetime as dt
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import HansaError, InvalidInputError
from hansa.core.storage import fsync_directory, write_atomically


class Halt(BaseModel):
    """Somebody's decision that this site takes no part for now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: AwareDatetime
    at_once: bool
    """Whether the work in hand is thrown away, too."""
    reason: str = ""


class HaltSwitch:
    """The file, present while the site is stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set(self, *, at_once: bool, reason: str, now: dt.datetime) -> None:
        """Stops the taking part; setting it again is harmless."""
        halt = Halt(since=now, at_once=at_once, reason=reason)
        write_atomically(self._path, canonical_json(halt.model_dump(mode="json")))

    def clear(self) -> bool:
        """Lets the site take part again; false when it was not stopped."""
        if not self.is_set():
            return False
        self._path.unlink(missing_ok=True)
        fsync_directory(self._path.parent)
        return True

    def is_set(self) -> bool:
        """Whether the site is stopped; a damaged file stops it just as well."""
        return self._path.exists()

    def read(self) -> Halt | None:
        """The decision, if there is one.

        Raises:
            InvalidInputError: the file is damaged.
        """
        if not self.is_set():
            return None
        try:
            return Halt.model_validate(parse_json(self._path.read_bytes(), str(self._path)))
        except (ValidationError, HansaError) as error:
            raise InvalidInputError(
                f"{self._path} is damaged; run 'hansa-client resume' to take part again"
            ) from error
