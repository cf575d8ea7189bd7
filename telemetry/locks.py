"""What connections of this process lose to each other's write locks.

SQLite lets one connection write to a file at a time; others wait inside their call, up to their `timeout`. Python's sqlite3 has
no hook for that wait, so it is told from outside: while a writing statement runs, whatever time another connection to the same
file was inside a write transaction is time waited, and so is all of a statement that ends in SQLITE_BUSY. Waiting for another
process shows in the latter alone.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import sqlite3
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from telemetry.clock import perf_counter_ns
from telemetry.forked import reentrant_lock
from telemetry.readers.window import copied, route_name
from telemetry.requests import current_request

if TYPE_CHECKING:
    from telemetry.requests import RequestRecord

WORTH_ASKING_NS: Final = 1_000_000
"""Statements that take longer are looked at: did they wait, and in which file did they run?"""

_MOST_FILES: Final = 32
_MOST_STATEMENTS: Final = 1000
_MOST_DATABASES: Final = 1000
_SHORT_SQL: Final = 1000


class TracedCursor(Protocol):
    """What is asked of a cursor, under names that no class of an app's own gives another meaning."""

    @property
    def _telemetry_connection(self) -> sqlite3.Connection: ...
    @property
    def _telemetry_description(self) -> object: ...


class Hold(NamedTuple):
    """A time that a connection held the write lock of `file`; times are of `perf_counter_ns`."""

    file: str
    start_ns: int
    end_ns: int
    route: str | None
    """Of the request that held it; `None` for what was no request, or one that no rule has matched."""
    sure_ns: int
    """From when it was held for certain: the first statement may itself have waited, for another process."""


class ConnectionState:
    """What is known of one connection: its file, and the write transaction it is in."""

    __slots__ = ("__weakref__", "_connection", "file", "number", "record", "since_ns", "sure_ns", "transaction")

    def __init__(self, file: str | None, number: int = 0) -> None:
        self.file = file
        self.number = number  # of its database
        self._connection: weakref.ref[sqlite3.Connection] | None = None  # from its first write transaction on
        self.transaction = 0
        self.since_ns = self.sure_ns = 0
        self.record: RequestRecord | None = None

    def begin(self, connection: sqlite3.Connection, since_ns: int, sure_ns: int, record: RequestRecord | None) -> None:
        """Note the beginning of a write transaction of `connection`, whose state this is."""
        if self._connection is None:
            self._connection = weakref.ref(connection)
            _writers[id(self)] = self
        self.since_ns, self.sure_ns, self.record = since_ns, sure_ns, record
        self.transaction = next(_numbers)  # last: whoever reads it reads the others after it

    @property
    def holds(self) -> bool:
        """Whether it is in a write transaction: some end without a call that could be seen. A script may be in several."""
        connection = None if self._connection is None else self._connection()
        if not self.transaction or connection is None:
            return False
        try:
            return self.sure_ns == _NEVER_NS or connection.in_transaction
        except sqlite3.Error:  # it is closed
            return False


# Statements that return no number of changed rows, by what they do with the write lock: take it, or wait for it; compiled when
# they are needed.
_BLANK: Final = r"(?>\s|--[^\n]*\n|/\*.*?\*/)"
_DDL: Final = r"CREATE(?!\s+TEMP)|DROP|ALTER|REINDEX|ANALYZE|VACUUM"
_BEGIN_NOW: Final = r"BEGIN\s+(?:IMMEDIATE|EXCLUSIVE)"
_DML: Final = "INSERT|UPDATE|DELETE|REPLACE"
_SETS: Final = r"PRAGMA\s+(?:main\s*\.\s*)?(?:user_version|application_id|schema_version)\s*[=(]"
_HOW: Final = re.IGNORECASE | re.DOTALL
_OF_CTE: Final = rf"{_BLANK}*WITH\b"
"""A write, where it returns no rows, of which Python tells no number of rows either."""
_NO_CODE: Final = r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'[^']*'?|"[^"]*"?"""
_LOCKS: Final = rf"{_BLANK}*(?:(?:{_BEGIN_NOW}|{_DDL})\b|{_SETS})"
_WAITS: Final = rf"(?:^|;)\s*(?:BEGIN|COMMIT|END|{_DDL}|{_DML})\b|(?:^|;)\s*{_SETS}"
_ELSEWHERE: Final = r"(?:^|;)\s*(?:create\s+temp(?:orary)?|attach)\b"
"""Of a connection with tables in other files or in none, it can't be told which file a statement writes to."""
_WRITES_AT_ONCE: Final = (
    rf"{_BLANK}*(?:BEGIN(?:\s+DEFERRED)?(?:\s+TRANSACTION)?\s*;{_BLANK}*)?(?:{_BEGIN_NOW}|{_DDL}|{_DML})\b"
)

_LOCK_ERRORS: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_REFUSALS: Final = frozenset(
    {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_FULL}
)
"""Errors of writes that have the lock by then. SQLITE_ERROR may be one of a statement that never ran."""

_lock = reentrant_lock()  # taken again where garbage that is collected meanwhile closes a connection
_numbers = itertools.count(1)
_writers: weakref.WeakValueDictionary[int, ConnectionState] = weakref.WeakValueDictionary()
"""The connections that have written, by the ids of their states. Weak: one that is thrown away without being closed has no end
that could be noted, and SQLite rolls back its transaction."""

_elsewhere: weakref.WeakSet[ConnectionState] = weakref.WeakSet()
"""The open connections to what is no file, or not one alone."""

_past: deque[Hold] = deque(maxlen=256)
_files: list[str] = []  # the last one opened at the end
_file_of: dict[str | int, str] = {}
ITSELF: Final = "another connection of this request"
READERS: Final = "whoever was reading"
"""In place of the route that held a lock: who has waited for it, and who does not let a commit through."""
NOWHERE: Final = ""
"""In place of a file: there is none, or not one alone."""
_longest: dict[str, Hold] = {}
_database_numbers: dict[str, int] = {}
_next_database: Final = itertools.count(1).__next__
several_databases: Final[list[bool]] = []
"""Not empty once the process has opened more than one: only then is it told which one a query was asked of."""


def opened(connection: sqlite3.Connection, database: Any, is_uri: bool) -> None:
    """Note which file `connection` is to."""
    file = path_of(database, is_uri)
    state = ConnectionState(file, _number_of(file or (database if is_uri else None)))
    try:
        connection._telemetry_connection_state = state  # type: ignore[attr-defined]
    except Exception:  # a class with slots, or with a mind of its own about attributes
        return
    if file is None:
        _elsewhere.add(state)
    elif _files[-1:] != [file]:
        with _lock:
            _files[:] = [*(other for other in _files if other != file), file][-_MOST_FILES:]


def _number_of(name: object) -> int:
    """Return the number of the database of that name; a new one for a database in memory, which has none."""
    if not isinstance(name, str):
        return _new_number()
    number = _database_numbers.get(name)
    if number is None:
        if len(_database_numbers) >= _MOST_DATABASES:
            _database_numbers.clear()
        number = _database_numbers.setdefault(name, _new_number())
    return number


def _new_number() -> int:
    number = _next_database()
    if number > 1 and not several_databases:
        several_databases.append(True)
    return number


def path_of(database: Any, is_uri: bool) -> str | None:
    """Return the path of what `sqlite3.connect` was given, `None` for a database without a file."""
    try:
        name = os.fsdecode(database)
    except (TypeError, ValueError):
        return None
    if os.path.isabs(name):  # noqa: PTH117  # quicker
        return _real(name)
    if is_uri and name.startswith("file:"):
        parts = urlsplit(name)
        if parse_qs(parts.query).get("mode") == ["memory"]:
            return None
        name = unquote(parts.path)
    # The path is kept by what it is absolutely: the working directory may be another one next time.
    return None if name in ("", ":memory:") else _real(os.path.abspath(name))  # noqa: PTH100  # need not exist


@functools.lru_cache(maxsize=256)
def _real(path: str) -> str:
    return os.path.realpath(path)


def wrote(
    cursor: TracedCursor, record: RequestRecord | None, sql: str, start_ns: int, duration_ns: int, rows: int
) -> int:
    """Note a statement that changed rows (`rows` is not negative), returns none or took long, and return the number of the
    write transaction that it changed rows in, 0 for none.

    The time it waited is added to `record`.
    """
    connection = cursor._telemetry_connection
    state: ConnectionState | None = getattr(connection, "_telemetry_connection_state", None)
    if state is None:
        return 0
    file, end_ns, waited_ns = state.file, start_ns + duration_ns, 0
    if rows < 0 and cursor._telemetry_description is None and re.match(_OF_CTE, sql, _HOW):
        rows = 0
    if duration_ns >= WORTH_ASKING_NS:
        ran_long(connection, sql)
        if file is not None and (rows >= 0 or re.search(_WAITS, _code_of(sql), _HOW)):
            waited_ns = _waited(record, state, file, start_ns, end_ns)
    if rows < 0:
        if file is not None and _leads_elsewhere(sql):
            _leave_file(state)
        if state.transaction:  # it may have been a COMMIT
            if state.since_ns >= start_ns:  # a script, which has waited first
                state.since_ns += waited_ns
            released(connection)
        elif re.match(_LOCKS, sql, _HOW):
            _had_lock(connection, state, start_ns + waited_ns, end_ns, record)
        return 0
    if not connection.in_transaction:
        if file is not None:
            _note(Hold(file, start_ns + waited_ns, end_ns, _route_of(record), end_ns))
        return next(_numbers)
    if not state.transaction:
        state.begin(connection, start_ns + waited_ns, end_ns, record)
    return state.transaction


def script_begins(connection: sqlite3.Connection, sql: Any, record: RequestRecord | None) -> None:
    """Note that a script is about to run, which holds the lock all the while if it begins with a write.

    Python commits what is pending before it.
    """
    state: ConnectionState | None = getattr(connection, "_telemetry_connection_state", None)
    if state is None or not isinstance(sql, str) or not re.match(_WRITES_AT_ONCE, sql, _HOW):
        return
    if state.transaction:
        _release(state)
    if _leads_elsewhere(sql):
        _leave_file(state)
    state.begin(connection, perf_counter_ns(), _NEVER_NS, record)


def _had_lock(
    connection: sqlite3.Connection, state: ConnectionState, since_ns: int, end_ns: int, record: RequestRecord | None
) -> None:
    """Note that a statement had the write lock since then: its transaction, if it is in one, holds it on."""
    if connection.in_transaction:
        state.begin(connection, since_ns, end_ns, record)
    elif state.file is not None:
        _note(Hold(state.file, since_ns, end_ns, _route_of(record), end_ns))


def _leave_file(state: ConnectionState) -> None:
    """Note that a connection is not to its file alone any more."""
    state.file = None
    _elsewhere.add(state)


def _leads_elsewhere(sql: str) -> bool:
    lowered = sql.lower()  # to search in a long script without regard to case takes as long as running it
    return ("attach" in lowered or "temp" in lowered) and re.search(_ELSEWHERE, _code_of(lowered)) is not None


def _code_of(sql: str) -> str:
    """Return `sql` without comments, literals and quoted names."""
    return re.sub(_NO_CODE, " ", sql, flags=_HOW)


_NEVER_NS: Final = 2**63


def ran_long(connection: sqlite3.Connection, sql: str) -> None:
    """Note in which file a statement ran that took long, for whoever wants its plan."""
    state: ConnectionState | None = getattr(connection, "_telemetry_connection_state", None)
    if state is None:
        return
    if len(_file_of) >= _MOST_STATEMENTS:
        _file_of.clear()
    key, file = _short(sql), state.file or NOWHERE
    _file_of[key] = file if _file_of.get(key, file) == file else NOWHERE


def failed(
    connection: sqlite3.Connection,
    record: RequestRecord | None,
    error: BaseException,
    start_ns: int,
    duration_ns: int,
    *,
    is_commit: bool = False,
) -> None:
    """Note a statement that raised: with SQLITE_BUSY, all of its time was lost. It may have ended the transaction, or have begun
    one, whose lock it keeps: a row that is refused is a write that had the lock. So has a commit, which waits for readers alone.
    """
    state: ConnectionState | None = getattr(connection, "_telemetry_connection_state", None)
    held = state is not None and state.transaction
    released(connection)
    code = getattr(error, "sqlite_errorcode", None)
    if is_commit and code is not None and state is not None and held and record is not None:
        record.note_commit(start_ns, duration_ns, state.number, has_failed=True)
    kind = code & 0xFF if isinstance(code, int) else sqlite3.SQLITE_OK
    is_of_lock = kind in _LOCK_ERRORS
    if not is_of_lock and kind not in _REFUSALS:
        return
    end_ns, waited_ns = start_ns + duration_ns, 0
    if state is not None and state.file is not None and (is_of_lock or duration_ns >= WORTH_ASKING_NS):
        waited_ns = _waited(record, state, state.file, start_ns, end_ns)
    if is_of_lock:
        if record is not None:
            writes = record.writing()
            writes.wait_ns += duration_ns - waited_ns
            if is_commit and held:
                writes.waited_for = duration_ns, READERS
    elif state is not None and not held:
        _had_lock(connection, state, start_ns + waited_ns, end_ns, record)


def committed(connection: sqlite3.Connection, start_ns: int) -> None:
    """Note a call that has committed: what it committed, if it was a write transaction, is over."""
    took_ns = perf_counter_ns() - start_ns
    state: ConnectionState | None = getattr(connection, "_telemetry_connection_state", None)
    if state is None or not state.transaction:
        return
    released(connection, has_ended=True)
    record = current_request()
    if record is not None and not state.transaction:  # else it goes on: in autocommit a call commits nothing
        record.note_commit(start_ns, took_ns, state.number, has_failed=False)


def released(connection: sqlite3.Connection, *, has_ended: bool = False) -> None:
    """Note the end of a transaction, unless it goes on. It `has_ended` where that is what was called: of connections that begin
    the next one by themselves, the same attribute tells of that."""
    state: ConnectionState | None = getattr(connection, "_telemetry_connection_state", None)
    if state is None or not state.transaction:
        return
    try:
        goes_on = connection.in_transaction and not (has_ended and getattr(connection, "autocommit", None) is False)
    except sqlite3.Error:  # it is closed
        goes_on = False
    if not goes_on:
        _release(state)


def _release(state: ConnectionState) -> None:
    state.transaction = 0
    record, state.record = state.record, None
    if state.file is not None:
        _note(Hold(state.file, state.since_ns, perf_counter_ns(), _route_of(record), state.sure_ns))


def _note(hold: Hold) -> None:
    with _lock:
        _past.append(hold)
        longest = _longest.get(hold.file)
        if longest is None or hold.end_ns - hold.start_ns > longest.end_ns - longest.start_ns:
            if len(_longest) >= _MOST_FILES:
                _longest.clear()
            _longest[hold.file] = hold


def _waited(record: RequestRecord | None, own: ConnectionState, file: str, start_ns: int, end_ns: int) -> int:
    """Return how long of the time between, others held the lock of `file`, and note that with `record`; and who held it, if
    that is certain for most of the time.
    """
    with _lock:
        holds = [hold for hold in copied(_past) if hold.file == file]
        holds += [
            Hold(file, other.since_ns, end_ns, _holder_of(other.record, record), other.sure_ns)
            for reference in _writers.valuerefs()
            if (other := reference()) is not None and other.file == file and other is not own and other.holds
        ]
    holds = [hold for hold in holds if hold.end_ns > start_ns and hold.start_ns < end_ns]
    waited_ns = sum(min(end_ns, hold.end_ns) - max(start_ns, hold.start_ns) for hold in holds)
    waited_ns = min(waited_ns, end_ns - start_ns)
    if record is not None and waited_ns:
        writes = record.writing()
        writes.wait_ns += waited_ns
        longest_ns = 0 if writes.waited_for is None else writes.waited_for[0]
        sure_ns, route = max(
            (min(end_ns, hold.end_ns) - max(start_ns, hold.sure_ns), hold.route or "") for hold in holds
        )
        if 2 * sure_ns > waited_ns > longest_ns:
            writes.waited_for = waited_ns, route
    return waited_ns


def _holder_of(holding: RequestRecord | None, waiting: RequestRecord | None) -> str | None:
    return ITSELF if holding is not None and holding is waiting else _route_of(holding)


def _route_of(record: RequestRecord | None) -> str | None:
    rule = None if record is None else record.find_rule()
    return None if record is None or rule is None else route_name(record.method, rule.rule)


def files() -> list[str]:
    """Return the database files that connections were opened to, the last one first."""
    with _lock:
        return list(reversed(_files))


def is_all_in_files() -> bool:
    """Tell whether every connection that is open is to one of `files()`, and to that alone."""
    return not _elsewhere


def file_of(sql: str) -> str | None:
    """Return the file that the slow runs of this statement ran in, if that is known; `NOWHERE` where they ran in several, or in
    one that can't be opened again.
    """
    return _file_of.get(_short(sql))


def _short(sql: str) -> str | int:
    """Return what stands for a statement: if that is long, its hash."""
    return sql if len(sql) <= _SHORT_SQL else hash(sql)


def longest_holds() -> list[Hold]:
    """Return the longest time that each file's write lock was held since the start."""
    with _lock:
        return list(_longest.values())


def wal_bytes(file: str) -> int | None:
    """Return the size of the write-ahead log beside `file`; `None` where there is none."""
    try:
        return os.stat(file + "-wal").st_size  # noqa: PTH116  # a name, not a path of ours
    except OSError:
        return None
