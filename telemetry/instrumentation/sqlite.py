"""What sees the queries: real subclasses of `sqlite3.Connection` and `sqlite3.Cursor`.

They stand directly above the C classes in the method resolution order, below a caller's own connection or cursor class: what
that class does with a call is its own affair, and what reaches SQLite is counted, once. `isinstance`, `backup`, `iterdump`, row
factories and context managers work as they do without.

With each query goes the line of the app's code that caused it (`telemetry.source`), and while the request runs a keyed hash of
its parameters, which tells whether a query was asked twice without keeping what was asked.

Not seen: connections opened before `install`, of which a warning tells; connections that a `factory` which is not a class
makes without subclassing; statements of C extensions. What stands for `sqlite3.connect` is told in `connect`.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import sys
from collections.abc import Callable
from time import time_ns
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, get_current
from opentelemetry.trace import TraceFlags

from telemetry import forked, locks, source
from telemetry.clock import perf_counter_ns
from telemetry.failure import clean, error_type_of
from telemetry.instrumentation.connect import Connect, Places, original
from telemetry.instrumentation.propagation import SPAN_KEY
from telemetry.instrumentation.spans import end_span
from telemetry.instrumentation.subclasses import adopt, traced_class
from telemetry.instrumentation.unseen_connections import OpenedBefore
from telemetry.query import DATABASE_SHIFT, DURATION_NS, FROM_FIRST, FURTHER, MADE, MANY, SCRIPT, SQL, START_NS
from telemetry.requests import MAX_PENDING_QUERIES, RECORD_KEY, current_request, serving

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

    from telemetry.instrumentation.capture import Capture
    from telemetry.query import Query
    from telemetry.requests import RequestRecord
    from telemetry.source import Site

    Listener = Callable[[Query, int | None], object]

_context = get_current
_c_cursor: Any = sqlite3.Cursor
_plain_cursor: Callable[..., sqlite3.Cursor] = sqlite3.Connection.cursor
# What `super()` would find, at the price of `super()`.
_commit: Final = sqlite3.Connection.commit
_rollback: Final = sqlite3.Connection.rollback
_close: Final = sqlite3.Connection.close
_fetchall: Final = sqlite3.Cursor.fetchall
_fetchmany: Final = sqlite3.Cursor.fetchmany
_captures: list[Capture] = []
_listeners: list[Listener] = []
_lock = forked.lock()


_KEY: Final = os.urandom(16)
_COMPARED_BY_VALUE: Final = frozenset({str, int, float, bytes, bool, type(None)})
_PLAIN_KINDS: Final[tuple[Any, ...]] = (tuple, list, dict)
_BY_ADDRESS: Final[Any] = object.__hash__
_ODD: Final = (object(),)  # in place of parameters that are no tuple
_getframe = sys._getframe
_kind_of = source.KINDS.get
_WORTH_ASKING_NS: Final = locks.WORTH_ASKING_NS
_several_databases: Final = locks.several_databases
_NOT_RECORDED: Final = "a query could not be recorded"


def _traced(call: Callable[..., Any], flags: int = 0) -> Callable[..., Any]:
    """Return a method that times `call`; the common case is written out here, because each call frame costs.

    Without `flags` the parameters are those of one query, which can be compared.
    """

    def traced(cursor: TracedCursor, sql: str, parameters: Any = (), /, *, _depth: int = 1) -> Any:
        record = serving.get()
        if record is None or (add := record.add) is None:
            return _timed_elsewhere(call, cursor, sql, parameters, flags, _getframe(_depth))
        parent, marked = None, flags
        if record.exported:
            context = _context()
            if context.get(_SUPPRESS_INSTRUMENTATION_KEY):
                marked = flags | MADE
            elif context.get(SPAN_KEY) is not record.span:
                parent, marked = _parent_in(context), flags | MADE
                if parent is None:
                    return _timed_elsewhere(call, cursor, sql, parameters, flags, _getframe(_depth))
        query: Query
        start_ns = perf_counter_ns()
        try:
            result = call(cursor, sql, parameters)
        except BaseException as error:
            took_ns = perf_counter_ns() - start_ns
            try:
                marked |= _database_bits(cursor)
                site = record.capture.site(_getframe(_depth))
                query = (_text(sql), start_ns, took_ns, record.failure(error), marked, -1, 0, *site)
                locks.failed(cursor._telemetry_connection, record, error, start_ns, took_ns)
                hashed = None if flags else _hash_in_database(_hash_of(sql, parameters), marked)
                _add_failed(record, add, query, parent, hashed)
            except Exception:
                record.capture.fail(_NOT_RECORDED)
            raise
        duration_ns = perf_counter_ns() - start_ns
        try:
            rows = cursor._telemetry_rowcount
            transaction = 0
            if rows >= 0 or cursor._telemetry_description is None or duration_ns >= _WORTH_ASKING_NS:
                transaction = locks.wrote(cursor, record, sql, start_ns, duration_ns, rows)
                if rows == 0 and cursor._telemetry_description is not None:
                    rows = -1  # of RETURNING it is known when all are fetched
            if _several_databases:
                marked |= _database_bits(cursor)
            frame = _getframe(_depth)
            code: Any = frame.f_code
            if _kind_of(code.co_filename) and (caller := frame.f_back) is not None:
                query = (
                    sql,
                    start_ns,
                    duration_ns,
                    None,
                    marked,
                    rows,
                    transaction,
                    code,
                    frame.f_lasti,
                    caller.f_code,
                    caller.f_lasti,
                )
            else:
                marked |= _of_offset(sql, parameters)
                query = (sql, start_ns, duration_ns, None, marked, rows, transaction, *record.capture.site(frame))
            if parent is not None:
                record.note_parent(query, parent)
            add(query)
            if record.is_ending and record.came_late(add, query):
                _record_late(record, query)
            hashed = None
            if not flags:
                for parameter in parameters if type(parameters) is tuple else _ODD:
                    if type(parameter) not in _COMPARED_BY_VALUE:
                        hashed = _hash_of(sql, parameters)
                        break
                else:
                    hashed = hash((_KEY, sql, parameters))
            if _several_databases:
                hashed = _hash_in_database(hashed, marked)
            if _listeners:
                _tell(query, hashed)
            calls = record.calls
            calls += (start_ns, id(cursor), hashed)
            if len(record.queries) >= MAX_PENDING_QUERIES:
                record.spill()
        except Exception:  # the query has run: nothing that goes wrong behind it may look as if it had not
            record.capture.fail(_NOT_RECORDED)
        return result

    return functools.wraps(call)(traced)


def _of_offset(sql: str, parameters: Any) -> int:
    """Return the flag that tells whether the first rows are asked for, where an OFFSET is the last parameter."""
    if not sql.endswith("OFFSET ?") or type(parameters) not in (tuple, list) or not parameters:
        return 0
    offset = parameters[-1]
    if type(offset) is not int:  # what another class compares itself by is its own affair
        return 0
    return FURTHER if offset else FROM_FIRST


def _database_bits(cursor: TracedCursor) -> int:
    """Return the number of the database that a cursor asks, above the flags of its query."""
    state: Any = getattr(cursor._telemetry_connection, "_telemetry_connection_state", None)
    return 0 if state is None or not _several_databases else state.number << DATABASE_SHIFT


def _hash_in_database(hashed: int | None, marked: int) -> int | None:
    """Return the hash of what was asked of a database: of another one, it is another question."""
    return hashed if hashed is None or not marked >> DATABASE_SHIFT else hash((hashed, marked >> DATABASE_SHIFT))


def _parent_in(context: Context) -> SpanContext | None:
    """Return the ids of the span of this process that a query is made in, where its own span may be made of the record later."""
    span = context.get(SPAN_KEY)
    if not isinstance(span, trace.Span):
        return None
    try:
        ids = span.get_span_context()
        is_usual = ids.is_valid and not ids.is_remote and isinstance(ids.trace_flags, TraceFlags)
    except Exception:  # a span may be of any class
        return None
    return ids if is_usual else None


def _text(sql: object) -> str:
    """Return a statement as text that can be kept and sent; of what is no text and never reached SQLite, its type.

    SQLite refuses what is no Unicode too. A class of the app's own becomes plain text: it may not be comparable.
    """
    return clean(str.__str__(sql)) if isinstance(sql, str) else f"<{type(sql).__name__}>"


def _hash_of(sql: str, parameters: Any) -> int | None:
    """Return the keyed hash of a statement with parameters of any kind; `None` where they can't be compared.

    Those that a class of the app's own reads in its way are not: to read them once more may take long, or change something.
    """
    kind: Any = type(parameters)
    try:
        base = next((each for each in _PLAIN_KINDS if issubclass(kind, each)), None)
        if base is None or kind.__getitem__ is not base.__getitem__:
            return None
        names: tuple[Any, ...] = ()
        values = tuple(base.__iter__(parameters))
        if base is dict:
            names = tuple(sorted(values))
            values = tuple([dict.__getitem__(parameters, name) for name in names])
        if any(type(value).__hash__ is _BY_ADDRESS for value in values):
            return None  # the next object may have the address of this one
        return hash((_KEY, sql, values, *names))
    except Exception:  # they may be of any class
        return None


def _add_failed(
    record: RequestRecord,
    add: Callable[[Query], None],
    query: Query,
    parent: SpanContext | None,
    hashed: int | None,
) -> None:
    """Add a query that has raised, as one that has not is added."""
    if parent is not None:
        record.note_parent(query, parent)
    add(query)
    if record.is_ending and record.came_late(add, query):
        _record_late(record, query)
    _tell(query, hashed)
    record.calls.extend((query[START_NS], None, hashed))
    if len(record.queries) >= MAX_PENDING_QUERIES:
        record.spill()


def _record_late(record: RequestRecord, query: Query) -> None:
    """Record a query of a thread that has outlived its request: it is none of the request's, but a child of its span."""
    capture = record.capture
    capture.record_queries(
        (query,), get_current(), record.start_unix_ns + query[START_NS] - record.start_ns + query[DURATION_NS]
    )
    is_seen = not (get_current().get(_SUPPRESS_INSTRUMENTATION_KEY) or capture.leaves_out(record))
    if is_seen and capture.tracing.listened_to:
        capture.tracing.make_query_span(record, query)


def _tell(query: Query, hashed: int | None) -> None:
    for listener in tuple(_listeners):
        listener(query, hashed)


def _fetched_long(cursor: TracedCursor, record: RequestRecord, query_ns: int) -> None:
    """Note which file the query that began at `query_ns` reads, for whoever wants its plan."""
    sql = next((query[SQL] for query in reversed(record.queries) if query[START_NS] == query_ns), None)
    if sql is not None:
        locks.ran_long(cursor._telemetry_connection, sql)


class TracedCursor(sqlite3.Cursor):
    """A cursor whose calls are counted and timed."""

    __slots__ = ()
    __module__, __qualname__ = "sqlite3", "Cursor"  # as messages of Python's have it

    # What a subclass may have called so is its own affair; these are read as quickly.
    _telemetry_rowcount: int = _c_cursor.rowcount
    _telemetry_description: object = _c_cursor.description
    _telemetry_connection: sqlite3.Connection = _c_cursor.connection

    execute = _traced(sqlite3.Cursor.execute)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        return _executemany(self, sql, parameters, _depth=2)

    def executescript(self, sql_script: str, /) -> Any:
        return _executescript(self, sql_script, _depth=2)

    # SQLite looks for rows while they are fetched. Fetching one by one is left alone: it would cost more than it tells. Twice
    # the same lines, because a call from one to the other would cost as much as half of them.

    def fetchall(self) -> list[Any]:
        record = serving.get()
        if record is None or record.complete:
            record = current_request()
        if record is None or (query_ns := record.last_of(self)) is None:
            return _fetchall(self)
        start_ns = perf_counter_ns()
        rows = _fetchall(self)
        took_ns = perf_counter_ns() - start_ns
        record.fetched(query_ns, took_ns, len(rows))
        if took_ns >= _WORTH_ASKING_NS:
            _fetched_long(self, record, query_ns)
        return rows

    def fetchmany(self, *size: Any, **named: Any) -> list[Any]:
        record = serving.get()
        if record is None or record.complete:
            record = current_request()
        if record is None or (query_ns := record.last_of(self)) is None:
            return _fetchmany(self, *size, **named)
        start_ns = perf_counter_ns()
        rows = _fetchmany(self, *size, **named)
        took_ns = perf_counter_ns() - start_ns
        record.fetched(query_ns, took_ns, len(rows))
        if took_ns >= _WORTH_ASKING_NS:
            _fetched_long(self, record, query_ns)
        return rows


def _run_script(cursor: TracedCursor, sql: str, _: Any) -> Any:
    locks.script_begins(cursor._telemetry_connection, sql, current_request())
    try:
        return sqlite3.Cursor.executescript(cursor, sql)
    except BaseException:
        locks.released(cursor._telemetry_connection)
        raise


_execute: Final = TracedCursor.execute
_executemany: Final = _traced(sqlite3.Cursor.executemany, MANY)
_executescript: Final = _traced(_run_script, SCRIPT)


def _committing(name: str) -> Any:
    """Return a property of connections whose change may commit."""
    own = getattr(sqlite3.Connection, name)

    def change(connection: sqlite3.Connection, value: Any) -> None:
        own.__set__(connection, value)
        locks.released(connection)

    return property(own.__get__, change, None, own.__doc__)


class TracedConnection(sqlite3.Connection):
    """A connection whose cursors are traced; its own `execute` calls go through one, as the C class's do.

    The ends of its transactions are noted too: they tell how long it held the write lock.
    """

    __module__, __qualname__ = "sqlite3", "Connection"  # as messages of Python's have it
    _telemetry_connection_state: locks.ConnectionState | None = None
    isolation_level = _committing("isolation_level")
    if hasattr(sqlite3.Connection, "autocommit"):  # from Python 3.12 on, but not in `pysqlite3`
        autocommit = _committing("autocommit")

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        return _plain_cursor(self, TracedCursor if factory is sqlite3.Cursor else _traced_cursor(factory))

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        return _execute(_plain_cursor(self, TracedCursor), sql, parameters, _depth=2)

    def executemany(self, sql: str, parameters: Any, /) -> Any:
        return _executemany(_plain_cursor(self, TracedCursor), sql, parameters, _depth=2)

    def executescript(self, sql_script: str, /) -> Any:
        return _executescript(_plain_cursor(self, TracedCursor), sql_script, _depth=2)

    def commit(self) -> None:
        start_ns = perf_counter_ns()
        try:
            _commit(self)
        except sqlite3.Error as error:
            _commit_failed(self, error, start_ns)
            raise
        locks.committed(self, start_ns)

    def rollback(self) -> None:
        _rollback(self)
        locks.released(self, has_ended=True)

    def close(self) -> None:
        _close(self)
        locks.released(self)

    def __exit__(self, *raised: Any) -> Any:
        start_ns = perf_counter_ns()
        try:
            made = super().__exit__(*raised)
        except BaseException as error:
            _commit_failed(self, error, start_ns, is_commit=raised[0] is None)
            raise
        if raised[0] is None:
            locks.committed(self, start_ns)
        else:
            locks.released(self, has_ended=True)
        return made


TracedCursor.__name__, TracedConnection.__name__ = "Cursor", "Connection"


def _commit_failed(
    connection: sqlite3.Connection, error: BaseException, start_ns: int, *, is_commit: bool = True
) -> None:
    took_ns = perf_counter_ns() - start_ns
    locks.failed(connection, current_request(), error, start_ns, took_ns, is_commit=is_commit)


def _traced_cursor(factory: Any) -> Any:
    if isinstance(factory, type) and issubclass(factory, sqlite3.Cursor):
        return traced_class(factory, TracedCursor)

    def make(connection: sqlite3.Connection) -> Any:
        return adopt(factory(connection), sqlite3.Cursor, TracedCursor)

    return make


def _traced_connection(factory: Any) -> Any:
    if factory is sqlite3.Connection:
        return TracedConnection
    if isinstance(factory, type) and issubclass(factory, sqlite3.Connection):
        return traced_class(factory, TracedConnection)

    def make(*args: Any, **kwargs: Any) -> Any:
        return adopt(factory(*args, **kwargs), sqlite3.Connection, TracedConnection)

    return make


def install(capture: Capture) -> None:
    """See queries from now on; those outside of any request are recorded by the first capture installed."""
    with _lock:
        _replace_connect()
        _captures.append(capture)


def remove(capture: Capture) -> None:
    """Undo `install`; with the last one, `sqlite3.connect` is the original again. Open connections stay usable."""
    with _lock:
        _captures.remove(capture)
        _restore_connect()


def listen(listener: Listener) -> None:
    """Have `listener` called with each query from now on, made in a request or not, until `unlisten`, and with the keyed hash
    of its statement and parameters, where it has one.
    """
    with _lock:
        _replace_connect()
        _listeners.append(listener)


def unlisten(listener: Listener) -> None:
    """Undo `listen`."""
    with _lock:
        _listeners.remove(listener)
        _restore_connect()


def _is_on() -> bool:
    return bool(_captures or _listeners)


connect: Final = Connect(original(), _traced_connection, _is_on)
_places: Final = Places(connect, {"_sqlite3", __name__})
opened_before: Final = OpenedBefore(TracedConnection)


def _replace_connect() -> None:
    _places.replace()  # also where it has been before: modules may have been imported since
    opened_before.warn()


def _restore_connect() -> None:
    if not _is_on():
        _places.restore()


def _timed_elsewhere(
    call: Callable[..., Any],
    cursor: TracedCursor,
    sql: str,
    parameters: Any,
    flags: int,
    frame: FrameType,
) -> Any:
    """Time a query that needs a span at once, or that was made outside of any request."""
    record = current_request()
    context = get_current()
    capture = record.capture if record is not None else next(iter(_captures), None)
    if capture is None or context.get(_SUPPRESS_INSTRUMENTATION_KEY):
        return _only_told(call, cursor, sql, parameters, flags, frame) if _listeners else call(cursor, sql, parameters)
    span = outer = None
    is_of_context = record is serving.get() or record is context.get(RECORD_KEY)
    if record is not None and not is_of_context:  # in a thread that was handed Flask's context alone
        context = record.context or context
        outer = attach(context)
    site = source.NO_SITE
    try:
        site = capture.site(frame)
        if capture.tracing.listened_to and (record is None or record.span is not None):
            span = capture.tracing.start_query_span(_text(sql), site=site)
    except Exception:
        capture.fail("a query's span could not be started")
    token = attach(trace.set_span_in_context(span)) if span is not None else None
    made = _Made(cursor, sql, parameters, flags, site, time_ns(), perf_counter_ns())
    error: BaseException | None = None
    try:
        return call(cursor, sql, parameters)
    except BaseException as raised:
        error = raised
        raise
    finally:
        duration_ns = perf_counter_ns() - made.start_ns
        if token is not None:
            detach(token)
        try:
            _record_elsewhere(capture, record, made, error, duration_ns)
        except Exception:
            capture.fail(_NOT_RECORDED)
        try:
            if span is not None:
                end_span(span, error, None if error is None else error_type_of(error), duration_ns, made.start_unix_ns)
        except Exception:
            capture.fail("a query's span could not be ended")
        if outer is not None:
            detach(outer)
        # Else error and frame hold each other, and with them the cursor: SQLite would keep the lock of a connection that
        # the app has closed until the garbage collector comes by.
        error = None


class _Made(NamedTuple):
    """A DB-API call: of what, from where, and when, by the wall clock and by `perf_counter_ns`."""

    cursor: TracedCursor
    sql: str
    parameters: Any
    flags: int
    site: Site
    start_unix_ns: int
    start_ns: int


def _record_elsewhere(
    capture: Capture, record: RequestRecord | None, made: _Made, error: BaseException | None, duration_ns: int
) -> None:
    """Record a query that `_timed_elsewhere` has timed, in the context of what made it."""
    cursor, sql, parameters, flags, site, start_unix_ns, start_ns = made
    early = None if record is None else record.early
    error_type = None
    if error is not None:
        error_type = error_type_of(error) if record is None else record.failure(error)
    rows = -1 if error is not None else cursor._telemetry_rowcount
    transaction = 0
    if error is not None:
        locks.failed(cursor._telemetry_connection, record, error, start_ns, duration_ns)
    elif rows >= 0 or cursor._telemetry_description is None or duration_ns >= _WORTH_ASKING_NS:
        transaction = locks.wrote(cursor, record, sql, start_ns, duration_ns, rows)
        if rows == 0 and cursor._telemetry_description is not None:
            rows = -1
    text = sql if error is None else _text(sql)
    marked = flags | MADE | _database_bits(cursor) | (_of_offset(sql, parameters) if error is None else 0)
    query = (text, start_ns, duration_ns, error_type, marked, rows, transaction, *site)
    if early is not None:
        early.append((query, get_current()))
    hashed = None if flags else _hash_in_database(_hash_of(sql, parameters), marked)
    _tell(query, hashed)
    if record is not None:
        record.calls.extend((start_ns, id(cursor), hashed))
    if record is None or not record.add_query(query):
        capture.record_queries((query,), get_current(), start_unix_ns + duration_ns)


def _only_told(
    call: Callable[..., Any], cursor: TracedCursor, sql: str, parameters: Any, flags: int, frame: FrameType
) -> Any:
    """Run a query that no capture wants to know of, and tell the listeners."""
    start_ns = perf_counter_ns()
    error_type = None
    try:
        return call(cursor, sql, parameters)
    except BaseException as error:
        error_type = error_type_of(error)
        raise
    finally:
        took_ns = perf_counter_ns() - start_ns
        text, marked = sql if error_type is None else _text(sql), flags | _database_bits(cursor)
        query = (text, start_ns, took_ns, error_type, marked, cursor._telemetry_rowcount, 0, *source.find(frame))
        _tell(query, None if flags else _hash_in_database(_hash_of(sql, parameters), marked))
