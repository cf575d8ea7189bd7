"""What FFmpeg does to who reads a file with it: it can crash, and the process dies with it.

What is being read is noted on the disk. Who finds such a note knows that a process has died over a file, and lets another process
try each one before reading it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from service.probe import probe
from service.thumbnails import draw

_log = logging.getLogger(__name__)
_PATIENCE_S: Final = 30.0
_FATAL: Final = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
"""Signals of who has crashed, or taken all memory. Others come to all processes of a server that is to end."""
_FIRST_WINDOWS_FAULT: Final = 0xC0000000
_WINDOWS_CTRL_C: Final = 0xC000013A


class Notes:
    """The folder with a note for each file that is being read. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Keep a note while `path` is read, which outlives the process. A disk that takes none is no reason not to read."""
        note = self._folder / f"{os.getpid()}-{threading.get_ident()}"
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            note.write_bytes(bytes(path))
        try:
            yield
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)

    def take_left(self) -> list[str]:
        """Remove the notes of who has died, and return what was being read. Nobody else may be reading."""
        left = []
        with suppress(OSError):
            for note in list(self._folder.iterdir()):
                left.append(os.fsdecode(note.read_bytes()))
                note.unlink()
        return left


def what_kills(path: Path, thumbnail_width_px: int, patience_s: float = _PATIENCE_S) -> str | None:
    """Read `path` in a process of its own as the index does, and return what has killed that. None: it lived, or took longer than
    `patience_s`.
    """
    command = [sys.executable, "-m", __name__, str(path), str(thumbnail_width_px)]
    package_folder = Path(__file__).parents[1]  # where Python looks for the module, installed or not
    try:
        ended = subprocess.run(  # noqa: S603 - this very interpreter, and a path
            command, cwd=package_folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience_s
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("%s could not be tried: %s", path, error)
        return None
    if ended.returncode < 0:
        is_fatal = any(getattr(signal, name, None) == -ended.returncode for name in _FATAL)
        return signal.strsignal(-ended.returncode) if is_fatal else None
    is_fault = ended.returncode >= _FIRST_WINDOWS_FAULT and ended.returncode != _WINDOWS_CTRL_C
    return hex(ended.returncode) if is_fault else None


if __name__ == "__main__":
    with suppress(Exception):  # what else is wrong with it, who reads it next will say
        draw(Path(sys.argv[1]), probe(Path(sys.argv[1])).duration_s, int(sys.argv[2]))
