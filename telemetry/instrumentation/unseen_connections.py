"""Connections that were opened too early: Python lets no connection change its class, so that their queries are not seen."""

from __future__ import annotations

import gc
import logging
import sqlite3
import time
from collections.abc import Iterator
from typing import Final

_log = logging.getLogger(__name__)
_AGAIN_AFTER_S: Final = 60.0
REMEDY: Final = "open them after it, or close them (of SQLAlchemy: engine.dispose())"


class OpenedBefore:
    """How many connections are open that are not of the class `traced`."""

    def __init__(self, traced: type[sqlite3.Connection]) -> None:
        self._traced = traced
        self._looked_s: float | None = None
        self._number = 0

    def warn(self) -> None:
        """Look for the first time, and tell of those that there are. Looking through all objects takes some 10 ms."""
        if self._looked_s is not None:
            return
        self._look()
        if self._number:
            _log.warning(
                "%d sqlite3 connection(s) were opened before instrument(app): Python can't let their queries be seen; %s",
                self._number,
                REMEDY,
            )

    def number(self) -> int:
        """Return how many of them are still open, by a look that is no older than a minute."""
        if self._number and self._looked_s is not None and time.monotonic() - self._looked_s > _AGAIN_AFTER_S:
            self._look()
        return self._number

    def _look(self) -> None:
        classes = {id(each) for each in self._untraced(sqlite3.Connection)}  # which need not have a hash
        self._number = sum([_is_open(each) for each in gc.get_objects() if id(type(each)) in classes])
        self._looked_s = time.monotonic()

    def _untraced(self, base: type[sqlite3.Connection]) -> Iterator[type[sqlite3.Connection]]:
        """Yield `base` and its subclasses, but for those whose queries are seen."""
        if base is not self._traced:
            yield base
            for each in base.__subclasses__():
                yield from self._untraced(each)


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes >= 0
    except sqlite3.ProgrammingError:
        return False
