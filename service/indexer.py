"""The index: what lies in the videos folder, brought up to date from one look at it to the next.

A look compares size and time of change of every file with the index; only new and changed files are opened. A video
enters the index with its thumbnail already made. A folder that can't be read keeps the videos that are known from it.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from service.db import Database, bump
from service.probe import MediaInfo, ProbeError, media_hash, mime_type, probe, read_ends
from service.security import confined, is_servable
from service.text import fold, title_of, words
from service.thumbnails import Thumbnails
from service.trial import Notes, what_kills

_log = logging.getLogger(__name__)
_TEMPORARY_SUFFIXES = (".part", ".tmp", ".temp", ".crdownload", ".download", ".partial", "~")
_BATCH = 25
_BATCH_S = 1.0
_PATIENCE_S = 0.05
_LARGEST_INTEGER = 2**63 - 1
_UNREADABLE = "can't be read: "
_KNOWN = "SELECT path, size_bytes, mtime_ns, media_hash, reason FROM files"
_CONTENTS = "SELECT media_hash, duration_s, title FROM media"


def is_ignored(name: str) -> bool:
    """Say whether a file or folder of this name is none of the library's: hidden, or there for a while only."""
    return name.startswith((".", "~$")) or name.lower().endswith(_TEMPORARY_SUFFIXES)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """What a look at the folder has found. `mtime_ns` is within what SQLite can keep; `reason` says why it is left out
    unopened.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """What a file turned out to be: a video with a hash, or a reason why it is none. `info` is None for known
    content.
    """

    file: FoundFile
    media_hash: str | None = None
    info: MediaInfo | None = None
    title: str = ""
    reason: str | None = None


@dataclass(slots=True)
class ScanResult:
    """How many files one look has found, examined and dropped, and the folders that it has looked into.

    `changed` are those that were examined and are not what they were.
    """

    files: int = 0
    examined: int = 0
    changed: int = 0
    gone: int = 0
    folders: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Walk:
    files: dict[str, FoundFile] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


class Indexer:
    """Keeps the index of one folder. One thread of one process at a time calls `scan`."""

    def __init__(
        self,
        database: Database,
        videos: Path,
        thumbnails: Thumbnails,
        *,
        threads: int = 2,
        prober: Callable[[Path], MediaInfo] = probe,
        try_alone: Callable[[Path, int], str | None] = what_kills,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._videos = videos
        self._thumbnails = thumbnails
        self._threads = threads
        self._probe = prober
        self._notes = Notes(database.path.parent / "being-read")
        self._try_alone = try_alone
        self._is_careful = False
        self._clock = clock

    def scan(self, stop: threading.Event | None = None) -> ScanResult:
        """Look at the whole folder once. Raises `OSError` if the folder itself can't be read; the index then stays as
        it is.
        """
        stop = stop or threading.Event()
        walk = self._walk()
        self._be_careful_after(self._notes.take_left())
        with self._database.connection() as connection:
            known = {row["path"]: row for row in connection.execute(_KNOWN)}
            contents = {row["media_hash"]: row for row in connection.execute(_CONTENTS)}
            work = [file for file in walk.files.values() if self._needs_look(file, known.get(file.path))]
            gone = [path for path in known if path not in walk.files and not _is_under(path, walk.unreadable)]
            result = ScanResult(files=len(walk.files), gone=len(gone), folders=frozenset(walk.folders))
            self._drop(connection, gone)
            with closing(self._examine_all(work, contents, stop)) as examined:
                for batch in _batches(examined):
                    result.examined += len(batch)
                    news = [item for item in batch if not _is_known(item, known.get(item.file.path))]
                    result.changed += len(news)
                    if news:
                        self._tell(self._keep(connection, news), known)
        return result

    def _be_careful_after(self, left: list[str]) -> None:
        """Try each file by itself from now on if who looked before has died over one of `left`: such files seldom come alone."""
        if left:
            self._is_careful = True
            self._thumbnails.remove_drafts()
            _log.warning("a process ended while it was reading %s: each file is tried by itself now", " or ".join(left))

    def _walk(self) -> _Walk:
        walk = _Walk()
        root = self._videos.resolve()
        thumbnails = self._thumbnails.folder.resolve()
        skipped = {thumbnails, thumbnails.parent}
        folders = [("", root)]
        while folders:
            prefix, folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    # A folder whose real place is elsewhere is a Windows junction: it may lead out, or round in a
                    # circle.
                    folders += [
                        (path, inner)
                        for path, inner in self._take(walk, prefix, entries)
                        if inner not in skipped and inner.resolve() == inner
                    ]
                walk.folders.append(str(folder))
            except OSError as error:
                if not prefix:
                    raise
                walk.unreadable.append(prefix)
                walk.files[prefix] = FoundFile(prefix, 0, 0, f"a folder that can't be read: {error.strerror}")
        return walk

    def _take(self, walk: _Walk, prefix: str, entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, Path]]:
        """Note the files of one folder and yield its folders. Hidden and temporary names are none of the library's."""
        for entry in entries:
            name = entry.name
            path = f"{prefix}{name}"
            if is_ignored(name):
                continue
            if not is_servable(path):
                shown = _shown(path)
                walk.files[shown] = FoundFile(
                    shown, _own_size(entry), 0, "its name can't be part of a portable address"
                )
            elif entry.is_dir(follow_symlinks=False):
                yield f"{path}/", Path(entry.path)
            else:
                self._take_file(walk, path, entry)

    def _take_file(self, walk: _Walk, path: str, entry: os.DirEntry[str]) -> None:
        try:
            if entry.is_symlink() and confined(self._videos, path) is None:
                walk.files[path] = FoundFile(path, 0, 0, "a link that leads to no file in the folder")
                return
            # Not entry.stat(): on Windows that is a cached value without the final size.
            status = Path(entry.path).stat()
        except FileNotFoundError:
            return
        except OSError as error:  # what is known of it stays; a folder may be one whose files only their owner sees
            walk.unreadable.append(path)
            folder, is_inside, _ = path.rpartition("/")
            if is_inside:
                reason = f"a folder whose files can't be looked at: {error.strerror}"
                walk.files.setdefault(f"{folder}/", FoundFile(f"{folder}/", 0, 0, reason))
            return
        if entry.is_file():
            # A file can bear any date, SQLite's integers end with the year 2262.
            mtime_ns = max(-_LARGEST_INTEGER, min(status.st_mtime_ns, _LARGEST_INTEGER))
            walk.files[path] = FoundFile(path, status.st_size, mtime_ns)

    def _needs_look(self, file: FoundFile, row: sqlite3.Row | None) -> bool:
        if row is None or (row["size_bytes"], row["mtime_ns"]) != (file.size_bytes, file.mtime_ns):
            return True
        if (row["reason"] or "").startswith(_UNREADABLE):  # which a change of its mode ends, or the disk's coming back
            return True
        return row["media_hash"] is not None and self._thumbnails.is_missing(row["media_hash"])

    def _examine_all(
        self, files: list[FoundFile], contents: dict[str, sqlite3.Row], stop: threading.Event
    ) -> Generator[Examined | None]:
        """Examine `files` in a bounded pool; yield results as they come, and None when none came for a while.

        No more than a batch of results waits to be taken. Closed early, as where the database takes none, it leaves no thread
        behind.
        """
        todo: queue.SimpleQueue[FoundFile] = queue.SimpleQueue()
        done: queue.Queue[Examined | None] = queue.Queue(_BATCH)
        closed = threading.Event()
        for file in files:
            todo.put(file)

        def work() -> None:
            while not stop.is_set() and not closed.is_set():
                try:
                    file = todo.get_nowait()
                except queue.Empty:
                    return
                result = self._examine(file, contents)
                while not closed.is_set():
                    try:
                        done.put(result, timeout=_PATIENCE_S)
                        break
                    except queue.Full:
                        pass

        threads = [
            threading.Thread(target=work, name="library-probe", daemon=True)
            for _ in range(min(self._threads, len(files)))
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) or not done.empty():
                try:
                    yield done.get(timeout=_PATIENCE_S)
                except queue.Empty:
                    yield None
        finally:
            closed.set()
            for thread in threads:
                thread.join()

    def _examine(self, file: FoundFile, contents: dict[str, sqlite3.Row]) -> Examined | None:
        """Find out what a file is; None if it went away meanwhile. Whatever a file does, the next one gets its turn."""
        if file.reason is not None:
            return Examined(file, reason=file.reason)
        if mime_type(file.path) is None:
            suffix = PurePosixPath(file.path).suffix
            return Examined(
                file, reason=f"not a video file ({suffix})" if suffix else "not a video file (no extension)"
            )
        path = self._videos / file.path
        try:
            with self._notes.reading(path):
                return self._read(file, path, contents)
        except FileNotFoundError:
            return None
        except ProbeError as error:
            return Examined(file, reason=_told(path, error))
        except OSError as error:
            return Examined(file, reason=f"{_UNREADABLE}{error.strerror}")
        except Exception as error:
            _log.exception("examining %s failed", file.path)
            return Examined(file, reason=f"can't be examined: {type(error).__name__}")

    def _read(self, file: FoundFile, path: Path, contents: dict[str, sqlite3.Row]) -> Examined:
        if self._is_careful and (death := self._try_alone(path, self._thumbnails.width_px)):
            return Examined(file, reason=f"reading it kills the process that does: {death}")
        content = media_hash(path)
        known = contents.get(content)
        info = None if known else self._probe(path)
        title = known["title"] if known else info.title if info else None
        self._thumbnails.make(path, content, known["duration_s"] if known else info.duration_s if info else 0.0)
        return Examined(file, content, info, title or title_of(file.path))

    def _drop(self, connection: sqlite3.Connection, paths: list[str]) -> None:
        if paths:
            with connection:
                connection.executemany("DELETE FROM files WHERE path = ?", [(path,) for path in paths])
                _bump_all(connection)

    def _keep(self, connection: sqlite3.Connection, batch: list[Examined]) -> list[Examined]:
        """Write what was examined and return it. A video whose facts the database doesn't take is left out, and it alone."""
        try:
            self._write(connection, batch)
        except sqlite3.OperationalError:  # the database's trouble, not one file's
            raise
        except (sqlite3.Error, OverflowError, ValueError) as error:
            if len(batch) > 1:
                return [kept for item in batch for kept in self._keep(connection, [item])]
            batch = [Examined(batch[0].file, reason=f"can't be kept in the index: {error}")]
            self._write(connection, batch)
        return batch

    def _write(self, connection: sqlite3.Connection, batch: list[Examined]) -> None:
        now = self._clock()
        with connection:
            connection.executemany(
                "INSERT OR IGNORE INTO media (media_hash, duration_s, width, height, codec, container, title, added_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        item.media_hash,
                        info.duration_s,
                        info.width,
                        info.height,
                        info.codec,
                        info.container,
                        info.title,
                        now,
                    )
                    for item in batch
                    if (info := item.info) is not None
                ],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO files (path, folder, size_bytes, mtime_ns, media_hash, reason, title,"
                " title_fold, words_fold, name_fold) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_row(item) for item in batch],
            )
            _bump_all(connection)

    def _tell(self, batch: list[Examined], known: dict[str, sqlite3.Row]) -> None:
        for item in batch:
            before = known.get(item.file.path)
            if item.reason is not None and (before is None or before["reason"] != item.reason):
                is_other = item.file.reason is None and mime_type(item.file.path) is None
                level = logging.INFO if is_other else logging.WARNING
                _log.log(level, "%s is left out: %s", item.file.path, item.reason)


def _told(path: Path, error: ProbeError) -> str:
    """Return why a file is left out: it is the disk, which FFmpeg may not tell, or what FFmpeg says."""
    try:
        read_ends(path)
    except OSError as of_disk:
        return f"{_UNREADABLE}{of_disk.strerror}"
    return str(error)


def _is_known(item: Examined, row: sqlite3.Row | None) -> bool:
    """Say whether a file is left out for the reason that the index has already."""
    return (
        row is not None
        and item.reason is not None
        and tuple(row) == (item.file.path, item.file.size_bytes, item.file.mtime_ns, None, item.reason)
    )


def _own_size(entry: os.DirEntry[str]) -> int:
    """Return the size of a file, 0 for anything else."""
    try:
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    except OSError:
        return 0


def _shown(path: str) -> str:
    """Return a name that no address can carry as text; its escapes have a backslash, which no name in the index has."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path)


def _row(item: Examined) -> tuple[object, ...]:
    file = item.file
    folder = file.path.rpartition("/")[0]
    title = item.title or title_of(file.path)
    return (
        file.path, folder, file.size_bytes, file.mtime_ns, item.media_hash, item.reason, title, fold(title),
        words(f"{title} {file.path}"), fold(file.path),
    )  # fmt: skip


def _bump_all(connection: sqlite3.Connection) -> None:
    # What ratings and tags show depends on which files there are, and the library changes seldom.
    for kind in ("library", "ratings", "tags"):
        bump(connection, kind)


def _is_under(path: str, folders: list[str]) -> bool:
    return path.startswith(tuple(folders))


def _batches(items: Iterable[Examined | None]) -> Iterator[list[Examined]]:
    """Group what comes: by number, and by time, so that the first videos show up while the rest is still being read."""
    batch: list[Examined] = []
    since = time.monotonic()
    for item in items:
        if item is not None:
            batch.append(item)
        if batch and (len(batch) >= _BATCH or time.monotonic() - since >= _BATCH_S):
            yield batch
            batch, since = [], time.monotonic()
    if batch:
        yield batch
