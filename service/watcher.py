"""The background thread that keeps the index up to date: by the system's notices, and by a full look now and then.

Of several workers only the one that holds the lock does this. When it ends or dies, another one takes over.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from watchfiles import watch
from watchfiles.main import FileChange

from service.indexer import Indexer
from service.lock import FileLock

_log = logging.getLogger(__name__)
_TICK_S = 1.0
_MOST_DOUBLINGS = 6  # of the pause after a look that fails: a minute
_SETTLE_MS = 300
# Elsewhere each folder is watched by itself: told to watch a tree, watchfiles would follow the links that lead out of it.
_SEES_WHOLE_TREES = sys.platform in {"win32", "darwin"}


class Watcher:
    """Looks at `videos` until it is closed. `start` and `close` are called once each, from any thread."""

    def __init__(
        self,
        indexer: Indexer,
        videos: Path,
        data: Path,
        *,
        interval_s: float = 60.0,
        tick_s: float = _TICK_S,
    ) -> None:
        self._indexer = indexer
        self._videos = videos
        self._lock = FileLock(data / "indexer.lock")
        self._request = data / "rescan.request"
        self._interval_s = interval_s
        self._tick_s = tick_s
        self._stop = threading.Event()
        self._complaint = ""
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="library-watcher", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own: at once where no other worker keeps the index, else when that one has ended. Raises
        `RuntimeError` at a second call.
        """
        self._thread.start()

    def close(self) -> None:
        """Stop, wait for the thread, and let another worker take over."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_indexing(self) -> bool:
        """Say whether this worker is the one that keeps the index."""
        return self._lock.held

    def request_scan(self) -> None:
        """Ask whichever worker keeps the index for a look at the folder; it comes within a tick."""
        self._request.parent.mkdir(parents=True, exist_ok=True)
        self._request.touch()
        stamp = time.time_ns()
        os.utime(self._request, ns=(stamp, stamp))

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                asked = self._asked()
                try:
                    if self._lock.acquire():
                        self._keep()
                except Exception as error:
                    self._failures = min(self._failures + 1, _MOST_DOUBLINGS)
                    self._complain(f"the look at {self._videos} failed: {error}")
                self._pause(asked)
        finally:
            self._lock.release()

    def _pause(self, asked: int) -> None:
        """Wait a tick, twice as long after each failure in a row, or until a look is asked for, if none was since `asked`."""
        for _ in range(2**self._failures):
            if self._stop.wait(self._tick_s) or self._asked() != asked:
                return

    def _keep(self) -> None:
        """Scan, then scan again whenever there is a reason to; returns when other folders are to be watched, raises when the
        notices fail.
        """
        asked = self._asked()
        folders = self._scan()
        last = time.monotonic()
        # The first tick scans once more: for what changed before the notices were on.
        due_s = 0.0
        for changes in self._notices(folders):
            self._failures = 0
            now_asked = self._asked()
            if changes or now_asked != asked or time.monotonic() - last >= due_s:
                asked = now_asked
                # A folder that came again is another one, whose notices aren't on.
                is_other = self._scan() != folders or not folders.isdisjoint(path for _, path in changes)
                if is_other and not _SEES_WHOLE_TREES:
                    return
                last, due_s = time.monotonic(), self._interval_s

    def _notices(self, folders: frozenset[str]) -> Iterator[set[FileChange]]:
        """Yield what has changed in `folders`, and nothing at each tick; ends early at a name that isn't UTF-8.

        Where `videos` itself has such a name, no notices can be asked for, and there are ticks alone.
        """
        notices = watch(
            *([self._videos] if _SEES_WHOLE_TREES else folders),
            watch_filter=None,
            stop_event=self._stop,
            rust_timeout=max(1, int(self._tick_s * 1000)),
            yield_on_timeout=True,
            step=_SETTLE_MS,
            raise_interrupt=False,
            recursive=_SEES_WHOLE_TREES,
            ignore_permission_denied=True,
        )
        try:
            yield from notices
        except UnicodeEncodeError:
            while not self._stop.wait(self._tick_s):
                yield set()
        except RuntimeError as error:
            if "decode path" not in str(error):
                raise

    def _scan(self) -> frozenset[str]:
        """Look at the folder and return what is to be watched."""
        result = self._indexer.scan(self._stop)
        self._complaint = ""
        if result.changed or result.gone:
            _log.info("library: %d files, %d examined, %d gone", result.files, result.examined, result.gone)
        return result.folders

    def _asked(self) -> int:
        try:
            return self._request.stat().st_mtime_ns
        except OSError:
            return 0

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            self._complaint = message
            _log.warning(message)
