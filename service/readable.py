"""Whether a folder can be read, without waiting for a disk that does not answer: the call on a network drive that is away may
never return.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from service.errors import why


class Readable:
    """Looks at one folder. Thread-safe; a look that does not return is waited for by all, and keeps one thread."""

    def __init__(self, folder: Path, patience_s: float = 2.0) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._look: _Look | None = None

    def trouble(self) -> str | None:
        """Return why the folder can't be read now; `None` where it can."""
        with self._lock:
            look = self._look
            if look is None or not look.is_alive():
                look = self._look = _Look(self._folder)
                look.start()
        look.join(self._patience_s)
        return "it does not answer" if look.is_alive() else look.trouble


class _Look(threading.Thread):
    def __init__(self, folder: Path) -> None:
        super().__init__(name="folder-look", daemon=True)
        self._folder = folder
        self.trouble: str | None = None

    def run(self) -> None:
        try:
            os.scandir(self._folder).close()
        except OSError as error:
            self.trouble = why(error)
