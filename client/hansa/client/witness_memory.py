"""What a witness remembers of the operator's log: durable files in one folder."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from hansa.core.canonical import canonical_json, parse_json
from hansa.core.errors import InvalidInputError
from hansa.core.storage import write_atomically
from hansa.core.transparency.checkpoint import MAX_NOTE_BYTES

MAX_KEPT: Final = 4096
"""Checkpoints that are kept; beyond that, every second one of the older half is dropped."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Seen(_Record):
    """What the witness remembers."""

    note: Annotated[str, Field(max_length=MAX_NOTE_BYTES)] | None = None
    """The newest checkpoint; None: the server never showed one."""
    own: Annotated[int, Field(ge=0)] = 0
    """So many of this site's ledger entries were seen in the log."""
    waiting_since: AwareDatetime | None = None
    """When the next of them was first found missing."""


class Alarm(_Record):
    """What is wrong with the log, with what proves it."""

    time: AwareDatetime
    sentence: str
    known: str | None
    """The checkpoint that this site had."""
    shown: str
    """What the server showed."""


_Kind = TypeVar("_Kind", Seen, Alarm)


class WitnessMemory:
    """The files; each is either whole or as it was before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seen(self) -> Seen:
        """What is remembered.

        Raises:
            InvalidInputError: the file is damaged.
        """
        return _read(self.folder / "seen.json", Seen) or Seen()

    def alarm(self) -> Alarm | None:
        """What is wrong with the log, if anything is."""
        return _read(self.folder / "alarm.json", Alarm)

    def keep(self, seen: Seen, *, fresh: bool) -> None:
        """Remembers; a fresh checkpoint is added to the kept ones first."""
        if fresh and seen.note is not None:
            kept = [*self.kept(), seen.note]
            if len(kept) > MAX_KEPT:
                kept = [*kept[: MAX_KEPT // 2 : 2], *kept[MAX_KEPT // 2 :]]
            write_atomically(self.folder / "checkpoints.json", canonical_json(kept))
        write_atomically(self.folder / "seen.json", canonical_json(seen.model_dump(mode="json")))

    def kept(self) -> list[str]:
        """All kept checkpoints, oldest first.

        Raises:
            InvalidInputError: the file is damaged.
        """
        path = self.folder / "checkpoints.json"
        if not path.exists():
            return []
        kept = parse_json(path.read_bytes(), str(path))
        if not isinstance(kept, list) or not all(isinstance(one, str) for one in kept):
            raise InvalidInputError(f"{path} is damaged; restore it from a backup")
        return kept

    def set_aside(self, now: datetime) -> Path | None:
        """Moves everything into a folder of its own; returns it, if there was anything."""
        aside = self.folder / f"until-{now:%Y%m%dT%H%M%S%f}"
        found = [path for path in self._files() if path.exists()]
        if not found:
            return None
        aside.mkdir()
        for path in found:
            path.rename(aside / path.name)
        return aside

    def _files(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in ("checkpoints.json", "seen.json", "alarm.json"))

    def write_alarm(self, alarm: Alarm) -> None:
        """Keeps what is wrong with the log."""
        write_atomically(self.folder / "alarm.json", canonical_json(alarm.model_dump(mode="json")))


def _read(path: Path, form: type[_Kind]) -> _Kind | None:
    if not path.exists():
        return None
    try:
        return form.model_validate(parse_json(path.read_bytes(), str(path)))
    except (ValidationError, InvalidInputError) as error:
        raise InvalidInputError(f"{path} is damaged; restore it from a backup") from error
