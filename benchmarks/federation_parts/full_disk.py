"""A folder whose disk can be made full, and given room again, while programs write to it.

Whoever may mount (root, in most containers) gets a small file system in memory whose size is set to
what is used: writes then fail with "no space left on device", as they do on a full disk. Elsewhere
the process that writes is forbidden to write any file (``RLIMIT_FSIZE``), which fails its writes
with "file too large"; the program cannot tell much of a difference.
"""

import contextlib
import os
import resource
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_ROOM_BYTES = 8 << 30
_ATTEMPTS = 50
_UNLIMITED = resource.RLIM_INFINITY


class FillableDisk:
    """A folder's disk.

    with FillableDisk(folder) as disk:
        ...  # something writes below folder
        disk.fill(pid)
        disk.free(pid)
    """

    def __init__(self, folder: Path) -> None:
        """The folder must not exist yet, or be empty."""
        self._folder = folder
        self._mounted = False

    @property
    def method(self) -> str:
        """How this disk is made full."""
        return "tmpfs" if self._mounted else "RLIMIT_FSIZE"

    def __enter__(self) -> Self:
        """Mounted, where that is allowed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = f"size={_ROOM_BYTES},mode=700"
        self._mounted = _mount("-t", "tmpfs", "-o", options, "hansa-chaos", str(self._folder))
        return self

    def fill(self, pid: int) -> None:
        """No byte more; ``pid`` is the process that writes here."""
        if not self._mounted:
            _limit(pid, 0)
        elif not any(self._shrink() for _ in range(_ATTEMPTS)):
            raise OSError(f"the disk of {self._folder} cannot be made full")

    def _shrink(self) -> bool:
        """False where more was written between the look and the mount."""
        room = os.statvfs(self._folder)
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        return _mount("-o", f"remount,size={max(used, room.f_frsize)}", str(self._folder))

    def free(self, pid: int) -> None:
        """Room again."""
        if self._mounted:
            _mount("-o", f"remount,size={_ROOM_BYTES}", str(self._folder))
        else:
            _limit(pid, _UNLIMITED)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """What lay on a mounted disk is gone."""
        if self._mounted:
            subprocess.run(["umount", "-l", str(self._folder)], check=False)


def _mount(*arguments: str) -> bool:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _limit(pid: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
