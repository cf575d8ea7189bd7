"""What workers of a server hand over when they end, to those that go on or come after them: a file where they meet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 1.0
"""How long one that ends waits for others that do."""

_PAUSE_S: Final = 0.01


class Handover:
    """What workers have handed over, all of them in one file, which is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Tell whether anything was handed over."""
        return self._path.exists()

    def read(self) -> bytes | None:
        """Return what was handed over, if anything was."""
        try:
            return self._path.read_bytes()
        except OSError:
            return None

    def replace(self, add: Callable[[bytes | None], bytes]) -> None:
        """Replace what was handed over by what `add` makes of it.

        Raises:
            TimeoutError: others did not get ready for that.
            OSError: it can't be written.
        """
        with _locked(self._path.parent):
            written = self._path.with_suffix(".part")
            written.touch(0o600)
            written.write_bytes(add(self.read()))
            written.replace(self._path)

    def forget_before(self, start_unix_s: Callable[[], float]) -> None:
        """Forget what was handed over before a server was started: in a container each of its runs has the same number."""
        if self.exists():
            with _locked(self._path.parent), suppress(FileNotFoundError):  # another worker may have done so
                if self._path.stat().st_mtime < start_unix_s():
                    self._path.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Have a folder for oneself, among those that ask for it so."""
    import fcntl  # which Windows has not, nor any workers that meet

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has kept {folder} locked for {PATIENCE_S:g} s") from None
                time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)
