"""What the codec rounded off a run's last update: it is added to the next one (error feedback).

A residual is made of a noised update, so it holds nothing that the ledger did not book. Its file is
written before the update is put into the outbox, and holds what stays behind both if that update
leaves and if it does not; which of the two counts is seen when the next update is made: it left if
the ledger committed exactly its bytes. So a crash between file, outbox and ledger neither loses nor
doubles anything.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hansa.core.canonical import sha256_hex
from hansa.core.content import Content
from hansa.core.errors import InvalidInputError
from hansa.core.ids import RunId, Sha256, TaskId
from hansa.core.storage import write_atomically
from hansa.core.update import Arrays

_log = logging.getLogger(__name__)

Released = Callable[[TaskId], Sha256 | None]
"""The digest of the bytes that the ledger committed for a task."""

_KEPT_RUNS: Final = 8
"""Runs beyond the newest ones have ended; what they left behind is of no more use."""

_IF_SENT, _IF_NOT, _UPDATE = "if-sent", "if-not", "update"


class Residuals:
    """A folder with a file for each run."""

    def __init__(self, folder: Path, released: Released) -> None:
        self._folder = folder
        self._released = released

    def carried(self, run: RunId) -> Arrays:
        """What the run's last update left behind; nothing at its start or if the file is damaged.

        A lost residual makes the next update no worse than one without error feedback.
        """
        path = self._path(run)
        if not path.exists():
            return {}
        try:
            content = Content.from_bytes(path.read_bytes())
            update = content.configs[_UPDATE]
            sent = self._released(TaskId(str(update["task"]))) == update["sha256"]
            return content.arrays[_IF_SENT if sent else _IF_NOT]
        except (InvalidInputError, KeyError) as error:
            _log.warning("what run %s had rounded off is lost: %s", run, error)
            return {}

    def keep(self, run: RunId, task: TaskId, update: bytes, *, if_sent: Arrays) -> None:
        """Keeps what stays behind once ``update``, a content file, has left.

        It must not be called twice before the update is either committed or given up.
        """
        content = Content(
            arrays={_IF_SENT: if_sent, _IF_NOT: self.carried(run)},
            configs={_UPDATE: {"task": task, "sha256": sha256_hex(update)}},
        )
        write_atomically(self._path(run), content.to_bytes())
        self._drop_ended()

    def _drop_ended(self) -> None:
        files = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-_KEPT_RUNS]:
            path.unlink(missing_ok=True)

    def _path(self, run: RunId) -> Path:
        return self._folder / f"{sha256_hex(run.encode())}.safetensors"
