"""A lock between processes that the operating system releases when its holder dies."""

from __future__ import annotations

import errno
import logging
import sys
from functools import cache
from pathlib import Path
from typing import IO, Final

_log = logging.getLogger(__name__)
_HELD_BY_ANOTHER: Final = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """An exclusive lock on a file. One thread uses it; other processes, and other objects of this one, wait outside.

    Where the file system has no locks, as some network mounts, everybody gets it, and the log says so once a folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    @property
    def held(self) -> bool:
        """Whether this object has the lock: from an `acquire` that said so to `release`."""
        return self._file is not None

    def acquire(self) -> bool:
        """Take the lock if nobody has it; return at once whether it is held."""
        if self._file is not None:
            return True
        file = self._path.open("a+b")
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                file.close()
                return False
            _tell_once(self._path.parent, error.strerror)
        self._file = file
        return True

    def release(self) -> None:
        """Let go; closing the file releases the lock on every system."""
        if self._file is not None:
            self._file.close()
            self._file = None


@cache
def _tell_once(folder: Path, why: str | None) -> None:
    _log.warning(
        "no file in %s can be locked (%s): going on without, so let no other server use that folder", folder, why
    )
