"""What a task's blobs are on this site: files, fetched once, resumed after any break or restart.

A run's public context is kept for all its tasks. A task's own content is kept until another task's
is fetched, since a client does one task at a time; what is left of a broken fetch goes with it.
"""

import mmap
from pathlib import Path

from hansa.client.node.wire import Wire
from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError, TransportError
from hansa.core.storage import BlobStore, check_sha256
from hansa.protos.v1 import common_pb2 as common
from hansa.protos.v1 import federation_pb2 as pb

_CONTENTS = "tasks"


class Downloads:
    """The contents and contexts of tasks, in files beside one another."""

    def __init__(self, contexts: BlobStore) -> None:
        self._contexts = contexts
        self._contents = BlobStore(contexts.folder / _CONTENTS)

    def content(self, task: pb.Task, wire: Wire) -> bytes:
        """The task's message, all its records together, as one content file.

        Raises:
            TransportError: it could not be fetched whole.
            InvalidInputError: what was fetched is no message, or it is too large to be fetched.
        """
        _refuse_empty(task.content)
        data = _inline(task) or self._fetched(task, wire)
        if not task.settings:
            return bytes(data)
        parts = (Content.from_bytes(data), Content.from_bytes(task.settings))
        return Content.merged(parts).to_bytes()

    def _fetched(self, task: pb.Task, wire: Wire) -> memoryview:
        self._drop_all_but(check_sha256(task.content.sha256))
        return _mapped(wire.download(task.task_id, task.content, self._contents))

    def all(self, task: pb.Task, wire: Wire) -> list[bytes]:
        """The task's message and, where the run has one, its context.

        Raises:
            TransportError: as for ``content``.
            InvalidInputError: as for ``content``.
        """
        contents = [self.content(task, wire)]
        if task.HasField("context"):
            _refuse_empty(task.context)
            path = wire.download(task.task_id, task.context, self._contexts)
            contents.append(path.read_bytes())
        return contents

    def _drop_all_but(self, sha: str) -> None:
        for path in self._contents.folder.rglob("*"):
            if path.is_file() and sha not in path.name:
                path.unlink()


def _inline(task: pb.Task) -> bytes:
    """The content that came with the task, if it did.

    Raises:
        TransportError: it is not what the task names.
    """
    data = task.content_data
    if data and sha256_hex(data) != task.content.sha256:
        raise TransportError("the task's content does not have the promised digest")
    return data


def _refuse_empty(blob: common.BlobRef) -> None:
    """No bytes are no message; they could not even be mapped."""
    if not blob.size_bytes:
        raise InvalidInputError("the task's content is empty")


def _mapped(path: Path) -> memoryview:
    """The file's bytes without reading them; they stay valid when the file is removed."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
