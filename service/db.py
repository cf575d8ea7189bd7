"""The one place that opens SQLite connections, and the schema with its migrations.

A request borrows one connection for its whole life (`service.state.connection`). Connections are pooled, because the two
PRAGMAs that each new one needs would otherwise be two queries of every request.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import ServerError, sqlite_kind, sqlite_remedy

DATABASE_FILE = "library.sqlite3"
BUSY_TIMEOUT_S = 10.0
WAL_PATIENCE_S = 2.5

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # What a video's content is. Rows stay when the file goes, so that its ratings and tags are there when it
        # comes back.
        """CREATE TABLE media (
            media_hash TEXT PRIMARY KEY,
            duration_s REAL NOT NULL,
            width INTEGER NOT NULL,
            height INTEGER NOT NULL,
            codec TEXT NOT NULL,
            container TEXT NOT NULL,
            title TEXT,
            added_at REAL NOT NULL
        )""",
        # What lies in the folder: a file is a video (media_hash) or has a reason why it is none.
        """CREATE TABLE files (
            path TEXT PRIMARY KEY,
            folder TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL,
            media_hash TEXT REFERENCES media (media_hash),
            reason TEXT,
            title TEXT NOT NULL,
            title_fold TEXT NOT NULL,
            words_fold TEXT NOT NULL,
            name_fold TEXT NOT NULL,
            CHECK ((media_hash IS NULL) <> (reason IS NULL))
        )""",
        "CREATE INDEX files_media_hash ON files (media_hash)",
        "CREATE INDEX files_folder ON files (folder)",
        "CREATE INDEX files_title ON files (title_fold, path)",
        """CREATE TABLE ratings (
            media_hash TEXT NOT NULL REFERENCES media (media_hash),
            user_id TEXT NOT NULL,
            value INTEGER NOT NULL CHECK (value BETWEEN 1 AND 5),
            rated_at REAL NOT NULL,
            PRIMARY KEY (media_hash, user_id)
        ) WITHOUT ROWID""",
        """CREATE TABLE tags (
            media_hash TEXT NOT NULL REFERENCES media (media_hash),
            tag TEXT NOT NULL,
            PRIMARY KEY (media_hash, tag)
        ) WITHOUT ROWID""",
        "CREATE INDEX tags_tag ON tags (tag, media_hash)",
        # Change counters: how a worker learns that another one has written (service/cache.py).
        "CREATE TABLE changes (kind TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO changes (kind, value) VALUES ('library', 0), ('ratings', 0), ('tags', 0)",
    ),
)


class DatabaseTooNewError(ServerError):
    """The database was written by a later version of this program."""

    def __init__(self, path: Path, found: int) -> None:
        super().__init__(f"{path} has schema {found}, this program knows {len(MIGRATIONS)}: use the newer program")


class DatabaseUnusableError(ServerError):
    """SQLite can't read or change the database; the text is for the user."""

    def __init__(self, path: Path, error: sqlite3.Error) -> None:
        remedy = sqlite_remedy(error)
        if remedy is None:
            remedy = "put a backup in its place or move it away; 'local-video-server doctor' says more"
        super().__init__(f"the database {path} can't be used: {error}; {remedy}")


class Database:
    """A SQLite file in WAL mode. Safe to share between threads; each connection is used by one thread at a time."""

    def __init__(self, path: Path, *, pooled: int = 16) -> None:
        """Bring the file at `path` to the present schema. At most `pooled` idle connections are kept. Raises
        `DatabaseTooNewError` and `DatabaseUnusableError`.
        """
        self.path = path
        self._pooled = pooled
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._migrate()
        except sqlite3.Error as error:
            raise DatabaseUnusableError(path, error) from error

    def open(self) -> sqlite3.Connection:
        """Return a new connection. Writes begin with BEGIN IMMEDIATE: a reader that turns writer could not wait its
        turn.
        """
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level="IMMEDIATE", check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")  # what was acknowledged survives a power cut
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def borrow(self) -> sqlite3.Connection:
        """Return a connection, an idle one if there is any; the borrower passes it to `give_back`. Never waits: beyond the pool a
        new one is opened.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.open()

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Keep `connection` for the next borrower. What it has not committed is rolled back."""
        if connection.in_transaction:
            connection.rollback()
        with self._lock:
            if not self._closed and len(self._idle) < self._pooled:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Borrow a connection outside a request."""
        connection = self.borrow()
        try:
            yield connection
        finally:
            self.give_back(connection)

    def close(self) -> None:
        """Close the idle connections, and those in use as they come back."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for connection in idle:
            connection.close()

    def _migrate(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            _switch_to_wal(connection)
            # Workers that start together take turns here; the later ones find nothing left to do.
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._apply(connection)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        finally:
            connection.close()

    def _apply(self, connection: sqlite3.Connection) -> None:
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > len(MIGRATIONS):
            raise DatabaseTooNewError(self.path, found)
        for statements in MIGRATIONS[found:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # The switch doesn't wait for the busy timeout when two processes make it at once.
    deadline = time.monotonic() + WAL_PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if sqlite_kind(error) != "BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def bump(connection: sqlite3.Connection, kind: str) -> int:
    """Count a change of `kind` inside the caller's transaction and return the new count."""
    row = connection.execute("UPDATE changes SET value = value + 1 WHERE kind = ? RETURNING value", (kind,)).fetchone()
    return int(row[0])
