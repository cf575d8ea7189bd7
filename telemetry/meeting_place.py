"""Where the workers of one server meet: in a folder that is named after the server, and which no other user can write to."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import stat
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOST_FOLDER_BYTES: Final = 60
"""A path of a socket has 103 bytes at most on macOS, and 107 on Linux."""


class StillMasterError(Exception):
    """This process is yet to fork the workers."""


@dataclass(frozen=True)
class Server:
    """A server that starts workers; those of one meet."""

    kind: str
    master_pid: int

    @functools.cached_property
    def folder(self) -> Path:
        """Where its workers meet, whether that exists or not."""
        # Containers may share a folder for temporary files, and each has its own process 1.
        name = f"{self.kind}-{self.master_pid}-{short_hash(socket.gethostname())}"
        of_user = Path(tempfile.gettempdir()) / f"telemetry-{os.geteuid()}"
        if len(os.fsencode(of_user / name)) > MOST_FOLDER_BYTES:
            of_user = Path("/tmp") / of_user.name  # noqa: S108  # which is made for this user alone
        return of_user / name

    def start_unix_s(self) -> float:
        """Return when its master was started. Raises `psutil.Error` if there is none."""
        import psutil  # which is loaded by now

        return psutil.Process(self.master_pid).create_time()

    def make_room(self) -> Path:
        """Make the folder of all its user's servers, remove what is left there of those that have ended, and return its own.

        Raises:
            OSError: it can't be had.
        """
        of_user = self.folder.parent
        make_private(of_user)
        with suppress(OSError):
            _sweep(of_user)
        return self.folder

    def clear(self) -> None:
        """Remove its folder, when all its workers have ended; without Unix sockets there is none."""
        if hasattr(socket, "AF_UNIX"):
            with suppress(OSError):
                _remove(self.folder)


def server_of_worker() -> Server | None:
    """Return the server that this process belongs to, if it is one of a server's workers.

    Raises:
        StillMasterError: it is the master.
    """
    if "gunicorn.arbiter" in sys.modules and os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/"):
        return Server("gunicorn", os.getppid())
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is not None and (master := uwsgi.masterpid()):
        if master == os.getpid():
            raise StillMasterError
        return Server("uwsgi", master)
    if "granian" in sys.modules:
        from multiprocessing import parent_process

        parent = parent_process()
        if parent is not None and parent.pid is not None:
            return Server("granian", parent.pid)
    return None


def make_private(folder: Path) -> None:
    """Make a folder that this user alone can write to, or see that it is one.

    Raises:
        OSError: it can't be had so.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} must be a folder of this user's, to which nobody else can write")


def short_hash(text: str) -> str:
    """Return eight characters that stand for `text` in names of files."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _sweep(of_user: Path) -> None:
    """Remove the folders of servers that have ended."""
    import psutil  # which is loaded by now

    ours = re.compile(rf"(?:gunicorn|uwsgi|granian)-([0-9]+)-{short_hash(socket.gethostname())}")
    for folder in of_user.iterdir():
        named = ours.fullmatch(folder.name)
        if named is not None and not psutil.pid_exists(int(named[1])):
            with suppress(OSError):
                _remove(folder)


def _remove(folder: Path) -> None:
    for left in folder.iterdir():
        left.unlink(missing_ok=True)
    folder.rmdir()
