"""Updates that are finished and not yet acknowledged.

What lies here is sent as it is, never made again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.ids import Sha256, TaskId
from hansa.core.storage import write_atomically


class Letter(BaseModel):
    """One finished update: its task and the digest of its content file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: int

    @property
    def digest(self) -> Sha256:
        """The digest as the ledger takes it."""
        return Sha256(self.sha256)


class Outbox:
    """A folder with a content file and, written after it, a note for each finished update."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, task: TaskId, content: bytes) -> Letter:
        """Keeps a finished update durably."""
        letter = Letter(task_id=task, sha256=sha256_hex(content), size_bytes=len(content))
        write_atomically(self._content(task), content)
        write_atomically(self._note(task), canonical_json(letter.model_dump()))
        return letter

    def find(self, task: TaskId) -> Letter | None:
        """The finished update of a task."""
        note = self._note(task)
        if not note.exists():
            return None
        return Letter.model_validate(parse_json(note.read_bytes(), str(note)))

    def chunks(self, letter: Letter, offset: int, size: int) -> Iterator[bytes]:
        """The content from ``offset`` (bytes) on, in pieces of ``size`` bytes."""
        with self._content(TaskId(letter.task_id)).open("rb") as file:
            file.seek(offset)
            while piece := file.read(size):
                yield piece

    def drop(self, task: TaskId) -> None:
        """Forgets an acknowledged update; its note goes first, so no note is without content."""
        self._note(task).unlink(missing_ok=True)
        self._content(task).unlink(missing_ok=True)

    def _name(self, task: TaskId) -> Sha256:
        return sha256_hex(task.encode())

    def _note(self, task: TaskId) -> Path:
        return self._folder / f"{self._name(task)}.json"

    def _content(self, task: TaskId) -> Path:
        return self._folder / f"{self._name(task)}.safetensors"
