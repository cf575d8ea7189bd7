"""What sees the queries: real subclasses of `sqlite3.Connection` and `sqlite3.Cursor`.

They stand directly above the C classes in the method resolution order, below a caller's own connection or cursor class: what
that class does with a call is its own affair, and what reaches SQLite is counted, once. `isinstance`, `backup`, `iterdump`, row
factories and context managers work as they do without.

Not seen: connections opened before `install`, or through a reference to `sqlite3.connect` taken before it; connections that
a `factory` which is not a class makes without subclassing; statements of C extensions.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
import threading
from collections.abc import Callable, Hashable
from sqlite3 import dbapi2
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, get_current

from telemetry.instrumentation.spans import SPAN_KEY, end_span, error_type_of
from telemetry.requests import MAX_PENDING_QUERIES, current_request, serving

if TYPE_CHECKING:
    from telemetry.instrumentation.capture import Capture
    from telemetry.requests import RequestRecord

_log = logging.getLogger(__name__)
_context = get_current
_plain_cursor: Callable[..., sqlite3.Cursor] = sqlite3.Connection.cursor
_open: Final[Callable[..., sqlite3.Connection]] = sqlite3.connect
_captures: list[Capture] = []
_lock = threading.Lock()


def _traced(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that times `call`; the common case is written out here, because each call frame costs."""

    def traced(cursor: sqlite3.Cursor, sql: str, *parameters: Any) -> Any:
        record = serving.get()
        if record is None or not record.appendable or (record.exported and _context().get(SPAN_KEY) is not record.span):
            return _timed_elsewhere(call, cursor, sql, parameters)
        start_ns = perf_counter_ns()
        try:
            result = call(cursor, sql, *parameters)
        except BaseException as error:
            _add_failed(record, sql, start_ns, perf_counter_ns() - start_ns, error)
            raise
        queries = record.queries
        queries.append((sql, start_ns, perf_counter_ns() - start_ns, None, False))
        if len(queries) >= MAX_PENDING_QUERIES:
            record.spill()
        return result

    return functools.wraps(call)(traced)


def _add_failed(record: RequestRecord, sql: str, start_ns: int, duration_ns: int, error: BaseException) -> None:
    """Add a query that has raised; an exception is an event of its span, for the SDK to write."""
    error_type = error_type_of(error)
    if record.exported:
        started_ns = record.start_unix_ns + start_ns - record.start_ns
        span = record.capture.tracing.start_query_span(str(sql), started_ns)
        end_span(span, error, error_type, duration_ns, started_ns)
    record.add_query((sql, start_ns, duration_ns, error_type, record.exported))


class TracedCursor(sqlite3.Cursor):
    """A cursor whose calls are counted and timed."""

    execute = _traced(sqlite3.Cursor.execute)
    executemany = _traced(sqlite3.Cursor.executemany)
    executescript = _traced(sqlite3.Cursor.executescript)


class TracedConnection(sqlite3.Connection):
    """A connection whose cursors are traced; its own `execute` calls go through one, as the C class's do."""

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        return super().cursor(_traced_cursor(factory))

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return _plain_cursor(self, TracedCursor).execute(sql, *parameters)

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return _plain_cursor(self, TracedCursor).executemany(sql, *parameters)

    def executescript(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return _plain_cursor(self, TracedCursor).executescript(sql, *parameters)


@functools.lru_cache(maxsize=256)
def _subclass(base: Hashable, traced: Hashable) -> Any:
    assert isinstance(base, type)
    assert isinstance(traced, type)
    if issubclass(base, traced):
        return base
    if issubclass(traced, base):
        return traced
    return type(f"Traced{base.__name__}", (base, traced), {"__module__": base.__module__, "__doc__": base.__doc__})


def _traced_cursor(factory: Any) -> Any:
    if isinstance(factory, type) and issubclass(factory, sqlite3.Cursor):
        return _subclass(cast(Hashable, factory), TracedCursor)

    def make(connection: sqlite3.Connection) -> Any:
        return _adopt(factory(connection), sqlite3.Cursor, TracedCursor)

    return make


def _traced_connection(factory: Any) -> Any:
    if isinstance(factory, type) and issubclass(factory, sqlite3.Connection):
        return _subclass(cast(Hashable, factory), TracedConnection)

    def make(*args: Any, **kwargs: Any) -> Any:
        return _adopt(factory(*args, **kwargs), sqlite3.Connection, TracedConnection)

    return make


def _adopt(made: Any, base: type, traced: type) -> Any:
    """Give an object that a factory function has made the traced class, where Python lets its class change."""
    if isinstance(made, base) and not isinstance(made, traced):
        try:
            made.__class__ = _subclass(cast(Hashable, type(made)), traced)
        except TypeError:
            _log_once(f"queries of {type(made).__qualname__} objects are not seen: their factory is no class")
    return made


@functools.lru_cache(maxsize=64)
def _log_once(text: str) -> None:
    _log.warning("%s", text)


@functools.wraps(_open)
def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
    """Open a connection as `sqlite3.connect` does, of a class whose queries are seen."""
    if not _captures:
        return _open(*args, **kwargs)
    if len(args) > _FACTORY_POSITION:
        factory = args[_FACTORY_POSITION]
        args = (*args[:_FACTORY_POSITION], _traced_connection(factory), *args[_FACTORY_POSITION + 1 :])
    else:
        kwargs["factory"] = _traced_connection(kwargs.get("factory", sqlite3.Connection))
    return _open(*args, **kwargs)


_FACTORY_POSITION: Final = 5  # database, timeout, detect_types, isolation_level, check_same_thread, factory


def install(capture: Capture) -> None:
    """See queries from now on; those outside of any request are recorded by the first capture installed."""
    with _lock:
        _captures.append(capture)
        sqlite3.connect = connect  # type: ignore[assignment]
        dbapi2.connect = connect  # type: ignore[assignment]


def remove(capture: Capture) -> None:
    """Undo `install`; with the last one, `sqlite3.connect` is the original again. Open connections stay usable."""
    with _lock:
        _captures.remove(capture)
        if _captures:
            return
        for module in (sqlite3, dbapi2):
            if getattr(module, "connect", None) is connect:
                module.connect = _open  # type: ignore[attr-defined]


def _timed_elsewhere(call: Callable[..., Any], cursor: sqlite3.Cursor, sql: str, parameters: tuple[Any, ...]) -> Any:
    """Time a query that needs a span at once, or that was made outside of any request."""
    record = current_request()
    context = get_current()
    capture = record.capture if record is not None else next(iter(_captures), None)
    if capture is None or context.get(_SUPPRESS_INSTRUMENTATION_KEY):
        return call(cursor, sql, *parameters)
    span = None
    if capture.tracing.listened_to and (record is None or record.span is not None):
        span = capture.tracing.start_query_span(str(sql))
    token = attach(trace.set_span_in_context(span)) if span is not None else None
    started_ns, start_ns = time_ns(), perf_counter_ns()
    error: BaseException | None = None
    try:
        return call(cursor, sql, *parameters)
    except BaseException as raised:
        error = raised
        raise
    finally:
        error_type = None if error is None else error_type_of(error)
        duration_ns = perf_counter_ns() - start_ns
        query = (sql, start_ns, duration_ns, error_type, True)
        if token is not None:
            detach(token)
        if record is not None:
            record.add_query(query)
        else:
            capture.record_queries((query,), context, started_ns + duration_ns)
        if span is not None:
            end_span(span, error, error_type, duration_ns, started_ns)
