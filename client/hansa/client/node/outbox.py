"""Updates that are finished and not yet acknowledged.

What lies here is sent as it is, never made again.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hansa.core.canonical import canonical_json, parse_json, sha256_hex
from hansa.core.errors import InvalidInputError
from hansa.core.ids import Sha256, TaskId
from hansa.core.storage import INLINE_BYTES, file_sha256, write_atomically

MAX_LETTER_BYTES = 256 << 20
"""The server takes no larger answer."""


class Letter(BaseModel):
    """One finished update: its task and the digest of its content file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: int

    @classmethod
    def of(cls, task: TaskId, content: bytes) -> "Letter":
        """The letter of an answer, whether it is kept or not."""
        return cls(task_id=task, sha256=sha256_hex(content), size_bytes=len(content))

    @property
    def digest(self) -> Sha256:
        """The digest as the ledger takes it."""
        return Sha256(self.sha256)


class Outbox:
    """A folder with a content file and, written after it, a note for each finished update."""

    def __init__(self, folder: Path, max_bytes: int = MAX_LETTER_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._held: dict[str, bytes] = {}

    def check_size(self, size_bytes: int) -> None:
        """Refuses what could be kept here, but never delivered.

        Raises:
            InvalidInputError: the server would not take so much; the sentence does not repeat the
                size, which may depend on private data.
        """
        if size_bytes > self._max_bytes:
            raise InvalidInputError(
                f"the answer is larger than the {self._max_bytes} bytes that can be sent; let the "
                "plan or the app send less"
            )

    def make_room(self, size_bytes: int) -> None:
        """Holds space on the disk for what is about to be made; what was held before is given up.

        Raises:
            OSError: the disk has not so much; nothing was spent yet.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self.free_room()
        with self._room.open("wb") as file:
            if size_bytes:
                os.posix_fallocate(file.fileno(), 0, size_bytes)

    def free_room(self) -> None:
        """Gives up the space that was held: nothing is about to be made."""
        self._room.unlink(missing_ok=True)

    def put(self, task: TaskId, content: bytes) -> Letter:
        """Keeps a finished update durably, in the room that was made for it.

        Raises:
            InvalidInputError: it is too large to be sent.
            OSError: the disk is full, or broken; nothing of it is kept.
        """
        self.free_room()
        self.check_size(len(content))
        letter = Letter.of(task, content)
        write_atomically(self._content(task), content)
        write_atomically(self._note(task), canonical_json(letter.model_dump()))
        return letter

    def hold(self, task: TaskId, content: bytes) -> Letter:
        """Keeps in memory what can be made again, byte for byte, until it is acknowledged.

        Raises:
            InvalidInputError: it is too large to be sent.
        """
        self.check_size(len(content))
        self._held[task] = content
        return Letter.of(task, content)

    def find(self, task: TaskId) -> Letter | None:
        """The finished update of a task."""
        note = self._note(task)
        if not note.exists():
            return None
        return _letter(note)

    def is_intact(self, letter: Letter) -> bool:
        """Whether the content on the disk still is what was finished."""
        path = self._content(TaskId(letter.task_id))
        if letter.task_id in self._held:
            return True
        return path.is_file() and file_sha256(path) == letter.sha256

    def letters(self) -> list[Letter]:
        """All finished updates that nobody has acknowledged yet."""
        return [_letter(note) for note in sorted(self._folder.glob("*.json"))]

    def small(self, letter: Letter) -> bytes:
        """The whole content of a letter that travels with its message; else nothing."""
        if letter.size_bytes > INLINE_BYTES:
            return b""
        return b"".join(self.chunks(letter, 0, INLINE_BYTES))

    def chunks(self, letter: Letter, offset: int, size: int) -> Iterator[bytes]:
        """The content from ``offset`` (bytes) on, in pieces of ``size`` bytes."""
        held = self._held.get(letter.task_id)
        if held is not None:
            yield from (held[at : at + size] for at in range(offset, len(held), size))
            return
        with self._content(TaskId(letter.task_id)).open("rb", buffering=0) as file:
            file.seek(offset)
            while piece := file.read(size):
                yield piece

    def drop(self, task: TaskId) -> None:
        """Forgets an acknowledged update; its note goes first, so no note is without content."""
        self._held.pop(task, None)
        self._note(task).unlink(missing_ok=True)
        self._content(task).unlink(missing_ok=True)

    @property
    def _room(self) -> Path:
        return self._folder / "room"

    def _name(self, task: TaskId) -> Sha256:
        return sha256_hex(task.encode())

    def _note(self, task: TaskId) -> Path:
        return self._folder / f"{self._name(task)}.json"

    def _content(self, task: TaskId) -> Path:
        return self._folder / f"{self._name(task)}.safetensors"


def _letter(note: Path) -> Letter:
    return Letter.model_validate(parse_json(note.read_bytes(), str(note)))
