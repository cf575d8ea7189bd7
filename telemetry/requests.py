"""The record of one request, written on its path in plain integers and tuples; everything derived from it comes later."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flask import has_request_context, request
from opentelemetry.context import Context, create_key, get_current

from telemetry.clock import perf_counter_ns
from telemetry.failure import Failure, error_type_of
from telemetry.forked import reentrant_lock
from telemetry.query import DURATION_NS, START_NS, Query
from telemetry.sums import SumKey, Sums, by_query, flat, sums_of, with_room
from telemetry.writes import Writes

if TYPE_CHECKING:
    from flask import Request, Response
    from opentelemetry.trace import Span, SpanContext
    from werkzeug.routing import Rule

    from telemetry.exporters.processor import DeferredSpanProcessor, Item
    from telemetry.instrumentation.capture import Capture
    from telemetry.tail import Decision

RECORD_KEY = create_key("telemetry.request")
ENVIRON_KEY: Final = "telemetry.request"
"""Where the environment of a request has its record."""
MAX_PENDING_QUERIES = 1000
"""Queries a request holds before their durations are recorded and only sums of them are kept on."""
_MOST_FETCHES: Final = 6000  # numbers, three a fetch; those of one query are added up when there are more


Held = tuple["DeferredSpanProcessor | None", "Item"]
"""Something to export, and to which processor: to all, if none is named."""


_NONE: Final[dict[int | None, int | None]] = {}
_NO_SUMS: Final[dict[int, Sums]] = {}


class Spilled(NamedTuple):
    """Queries of a request that has too many to hold, and what recording them takes."""

    queries: list[Query]
    time_unix_nano: int
    ids: SpanContext | None
    """Of the server span, where their spans are exported as its children."""
    context: Context | None
    parents: list[tuple[Query, SpanContext]]
    """Those of them that were made inside of spans of the app's own, and the ids of these."""


class RequestRecord:
    """What is known of a request while it is served and once it is complete.

    Queries may be added by any thread that has the request's context: the count is the length of a list, whose appending is
    atomic, so that none is lost.
    """

    __slots__ = (
        "_cursors",
        "_hashes",
        "_in_time",
        "_late",
        "_spilled",
        "add",
        "calls",
        "capture",
        "complete",
        "context",
        "decision",
        "eager",
        "early",
        "error",
        "exported",
        "failed",
        "fetches",
        "first",
        "handed_over",
        "held",
        "is_ending",
        "is_rejected",
        "kept",
        "last_word",
        "method",
        "outer",
        "parents",
        "queries",
        "request",
        "rule",
        "signalled",
        "span",
        "start_ns",
        "start_unix_ns",
        "status",
        "streamed",
        "sums",
        "transfer_ns",
        "writes",
    )

    def __init__(self, capture: Capture, method: str, start_ns: int, start_unix_ns: int) -> None:
        self.capture = capture
        self.method = method
        self.start_ns = start_ns
        self.start_unix_ns = start_unix_ns
        self.context: Context | None = None
        self.span: Span | None = None
        self.eager = False  # spans are made at once, because somebody is there to see them start
        # Queries before the server span that is to be made at once, and the contexts that they were made in.
        self.early: list[tuple[Query, Context]] | None = None
        self.exported = False  # spans are made from this record later
        self.held: list[Held] | None = None  # what is exported if the request turns out to be kept
        self.parents: list[tuple[Query, SpanContext]] | None = None  # of queries made inside of spans of the app's own
        self.outer: RequestRecord | None = None  # the request that this one was made inside, which holds for both
        self.decision: Decision | None = None  # why it is exported, where not every request is
        self.is_rejected = False  # and that it is not
        self.request: Request | None = None
        self.rule: Rule | None = None
        self.last_word: Callable[[Response], None] | None = None  # called with the answer when the app is done with it
        self.status = 0
        self.error: BaseException | None = None
        self.signalled: BaseException | None = None  # what an extension told of, which is an error if it is answered so
        self.failed = False  # error types of its queries may be `Failure`s
        self.streamed = False
        self.transfer_ns: int | None = None  # of what is streamed, to the end of the body
        self.handed_over: Transfer | None = None  # of a body that the server was handed as it is
        self.is_ending = False
        self.complete = False
        self.queries: list[Query] = []
        self.add: Callable[[Query], None] | None = self.queries.append  # `None`: not eager, not complete
        # For each query its start, the id of its cursor, and a keyed hash of its statement and parameters where it has one:
        # appended together, which is one step for other threads too.
        self.calls: list[int | None] = []
        # Of queries that were summed up: cursor -> start of its last one; and hashes of those that are yet to be.
        self._cursors = self._hashes = _NONE
        self._late = _NO_SUMS  # start of a query -> its sums, where rows of it may be fetched yet
        # For each time that rows were fetched at once the start of their query, how long it took and how many there were.
        self.fetches: list[int] = []
        # The first queries, where there were too many to hold, and by their starts what it took to fetch their rows.
        self.first: tuple[list[Query], dict[int, tuple[int, int]]] | None = None
        self.sums: dict[SumKey, Sums] | None = None  # and the sums of all of them
        self.kept: tuple[Any, ...] | None = None  # its `Row` of `telemetry.recent`, while the SDK's span of it ends
        self.writes: Writes | None = None
        self._spilled = self._in_time = 0

    def failure(self, error: BaseException) -> str:
        """Return the type of an exception that has ended a query, with what its event says where spans are made of that."""
        if not self.exported and self.early is None:
            return error_type_of(error)
        self.failed = True
        return Failure.of(error)

    def find_rule(self) -> Rule | None:
        """Return the rule that the request has been found to match, if it has been routed."""
        if self.rule is None and self.request is not None:
            self.rule = self.request.url_rule
        return self.rule

    def close(self) -> None:
        """Mark the request as complete, and let go of what leads back here: no garbage for the collector to find."""
        self.complete = True
        self._spilled += len(self.queries)
        self.queries = []  # those there are may be kept
        self.request = self.context = self.span = self.error = self.signalled = None
        self.calls = []
        if self.sums is not None:
            self.first = self.sums = None
            self._cursors = self._hashes = _NONE
            self._late = _NO_SUMS
        if self.held is not None or self.outer is not None:
            self.held = self.outer = None
        if self.parents is not None:
            self.parents = None

    @property
    def query_count(self) -> int:
        """Exact number of the request's queries so far."""
        return self._spilled + len(self.queries)

    def db_time_ns(self) -> int:
        """Time in the database so far."""
        total_ns = sum([query[DURATION_NS] for query in self.queries])
        if self.writes is not None:
            total_ns += self.writes.commit_ns
        if self.fetches:
            total_ns += sum(self.fetches[1::3])
        if self.sums:
            total_ns += sum([each.duration_ns for each in self.sums.copy().values()])
        return total_ns

    def fetched(self, start_ns: int, took_ns: int, rows: int) -> None:
        """Note that rows were fetched of the query that began then. Thread-safe."""
        fetches = self.fetches
        if self._late:
            with _lock:
                late = self._late.get(start_ns)
                if late is not None:
                    late.fetched(took_ns, rows)
                    return
        fetches += (start_ns, took_ns, rows)
        if len(fetches) > _MOST_FETCHES:  # one row after another, it seems
            with _lock:
                known = fetches[:]
                fetches[: len(known)] = flat(by_query(known))

    def add_query(self, query: Query) -> bool:
        """Add one query, and tell whether the request goes on, so that it is one of its. Thread-safe."""
        queries = self.queries
        if self.is_ending:
            return False
        queries.append(query)
        if len(queries) >= MAX_PENDING_QUERIES:
            self.spill()
        return True

    def note_parent(self, query: Query, parent: SpanContext) -> None:
        """Note the span of the app that a query belongs to, which is about to be added. Thread-safe."""
        noted = self.parents
        if noted is None:
            with _lock:
                noted = self.parents
                if noted is None:
                    noted = self.parents = []
        noted.append((query, parent))

    def take_parents(self, queries: Sequence[Query]) -> list[tuple[Query, SpanContext]]:
        """Return what was noted of `queries`, which are recorded now, and forget it. Thread-safe."""
        if self.parents is None:
            return []
        numbers = set(map(id, queries))
        with _lock:
            noted = self.parents[:]
            self.parents[: len(noted)] = [each for each in noted if id(each[0]) not in numbers]
        return [each for each in noted if id(each[0]) in numbers]

    def writing(self) -> Writes:
        """Return what its writes are noted in. Thread-safe."""
        writes = self.writes
        if writes is None:
            with _lock:
                writes = self.writes
                if writes is None:
                    writes = self.writes = Writes()
        return writes

    def note_commit(self, start_ns: int, duration_ns: int, database: int, *, has_failed: bool) -> None:
        """Note the commit of a write transaction to the database of that number, unless the request is over."""
        if not self.is_ending:
            self.writing().add_commit(start_ns, duration_ns, has_failed, database)

    def take_held(self) -> list[Held] | None:
        """Return what is kept back, once. Thread-safe."""
        with _lock:
            held, self.held = self.held, None
        return held

    def end(self) -> None:
        """Take no more queries: what a thread that outlives the request has yet to ask is no part of it."""
        with _lock:
            self.add = None
            self.is_ending = True
            queries = self.queries = self.queries[:]  # a thread may be about to append to the other one
            self._in_time = len(queries)

    def came_late(self, add: Callable[[Query], None], query: Query) -> bool:
        """Tell whether a query came too late, which `add` has added in a thread that outlives the request."""
        held: list[Query] = add.__self__  # type: ignore[attr-defined]  # of a list's method
        with _lock:
            return not any(each is query for each in held[: self._in_time])

    def spill(self) -> None:
        """Record the queries held, and hold their sums alone."""
        ids = self.capture.ids_of(self)
        with _lock:
            pending = self.queries
            if len(pending) < MAX_PENDING_QUERIES or self.is_ending:
                return
            taken = pending[:]
            del pending[: len(taken)]
            self._spilled += len(taken)
            self.sum_up(taken)
            # The request may end meanwhile, for all that follows: what it takes is not to be had any more then.
            spilled = Spilled(taken, time_ns(), ids, self.context, self.take_parents(taken))
        self.capture.spill(self, spilled)

    def sum_up(self, queries: list[Query]) -> None:
        """Add `queries` to the sums; the first batch is kept beside them, with what it took to fetch its rows."""
        known = self.fetches[:]
        fetched = by_query(known)
        if self.sums is None:
            self.sums, self.first = {}, (queries, fetched.copy())
        self.sums = with_room(self.sums, self._late.values())
        calls = self.calls[:]
        self._cursors = {**self._cursors, **dict(zip(calls[1::3], calls[::3], strict=True))}
        self._hashes = {**self._hashes, **dict(zip(calls[::3], calls[2::3], strict=True))}
        del self.calls[: len(calls)]
        last = set(self._cursors.values())
        self._late = {start_ns: sums for start_ns, sums in self._late.items() if start_ns in last}
        for query in queries:
            sums = sums_of(self.sums, query)
            if query[START_NS] in last:
                self._late[query[START_NS]] = sums
            sums.add(query, self._hashes.pop(query[START_NS], None), fetched.pop(query[START_NS], None))
        self.fetches[: len(known)] = flat(fetched)

    def last_of(self, cursor: object) -> int | None:
        """Return the start of the query that `cursor` ran last; `None` if it ran none in this request."""
        calls, wanted = self.calls[-3:], id(cursor)
        if calls and calls[1] == wanted:
            return calls[0]
        calls = self.calls[:]
        try:
            return calls[-3 - 3 * calls[-2::-3].index(wanted)]
        except ValueError:
            return self._cursors.get(wanted)


class Transfer:
    """How long a body is being sent that the server was handed as it is. The request it belongs to is complete before: its
    duration, its windows and its span know nothing of it, and the chunks cost nothing.
    """

    __slots__ = ("_start_ns", "ns")

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self.ns: int | None = None
        """From the first byte of work on the request to the end of the body; `None` while it is being sent."""

    def end(self) -> None:
        """Note that the body is over, or has been given up. The first call counts; any thread may make it."""
        if self.ns is None:
            self.ns = perf_counter_ns() - self._start_ns


def begin_transfer() -> Transfer:
    """Return a `Transfer` for a view that answers with `direct_passthrough`: call its `end()` once the body has been sent.

    The request that is being served then shows that time as `transfer_ms`. Outside of a request it does nothing.
    """
    record = serving.get()
    if record is None:
        return Transfer(perf_counter_ns())
    record.handed_over = Transfer(record.start_ns)
    return record.handed_over


_lock = reentrant_lock()  # which a finalizer that asks the database may take again
"""Of all requests: one of its own would be 2 % of what a request costs, and is held for long by those alone that have very many
queries, while these are summed up."""


serving: ContextVar[RequestRecord | None] = ContextVar("telemetry_request", default=None)
"""The record of the request that is being served here; five times quicker to read than the OpenTelemetry context."""


def current_request() -> RequestRecord | None:
    """Return the record of the request that the current context belongs to; `None` outside, or once it is complete.

    Where a thread has not the whole `contextvars` context, but was handed OpenTelemetry's or, as by Flask's
    `copy_current_request_context`, Flask's, that leads there too.
    """
    record = serving.get()
    if record is not None and not record.complete:  # as `request_of_context` has it, without a generator
        return record
    record = request_of_context()
    return None if record is None or record.complete else record


def request_of_context() -> RequestRecord | None:
    """Return what `current_request` does, and where there is none the record of a request that is complete.

    A thread that lives on has the context of the request that started it, and may be handed that of another one.
    """
    complete = None
    for record in _records_here():
        if isinstance(record, RequestRecord):
            if not record.complete:
                return record
            complete = complete or record
    return complete


def _records_here() -> Iterator[object]:
    yield serving.get()
    yield get_current().get(RECORD_KEY)
    if has_request_context():
        yield request.environ.get(ENVIRON_KEY)


def _choose_ids() -> None:
    """Have the span of the request that forks be known by its ids, which what the child does will name as its parent."""
    record = current_request()
    if record is not None and record.span is not None:
        record.capture.ids_of(record)


def _leave_to_parent() -> None:
    """In a forked child, end the inherited request: what the child asks then counts as outside of any."""
    record = current_request()
    if record is not None:
        record.end()
        record.queries, record.held, record.parents = [], None, None
        record.complete = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_choose_ids, after_in_child=_leave_to_parent)
