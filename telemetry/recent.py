"""What is kept of requests that have ended: the newest, and the worst of each route.

Bounded in number and in bytes. Queries are kept as they were recorded, in their order; of a request with very many the first
ones and the sums of all. Everything told about them, fingerprints, source lines, the verdict, is worked out when somebody reads.
"""

from __future__ import annotations

import functools
import sys
from bisect import insort
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from werkzeug.urls import uri_to_iri

from telemetry import forked, source
from telemetry.query import DURATION_NS, ERROR_TYPE, FLAGS, SQL, START_NS
from telemetry.readers.window import copied, route_name
from telemetry.sums import Sums, by_query, flat, merged, sums_of
from telemetry.urls import url_path

if TYPE_CHECKING:
    from telemetry.query import Query
    from telemetry.readers.window import Sample
    from telemetry.requests import RequestRecord, Transfer
    from telemetry.sums import SumKey
    from telemetry.writes import Commit, Writes

MAX_KEPT_QUERIES: Final = 500
"""Queries of one request that are kept one by one."""

_REQUEST_BYTES: Final = 500
_QUERY_BYTES: Final = 280
_FETCHED_BYTES: Final = 30  # a number of three
_SUMS_BYTES: Final = 1200
_MANY_SUMS: Final = 50
_MAX_SQL: Final = 2000
_MAX_PATH: Final = 2000
_CUT: Final = " …"


class KeptRule(NamedTuple):
    """What is told of a rule: Werkzeug's own would keep its whole map alive, long after its app."""

    rule: str
    endpoint: str


_kept_rule: Final = functools.lru_cache(maxsize=4096)(KeptRule)


class KeptRequest(NamedTuple):
    """A request that has ended. Times in nanoseconds.

    What is kept are plain tuples, made in a fifth of the time; whoever reads makes this of them.
    """

    method: str
    rule: KeptRule | None
    path: str
    status: int
    error_type: str | None
    start_ns: int
    start_unix_ns: int
    duration_ns: int
    transfer: int | Transfer | None
    """Until the end of the body, where that was made while it was sent; of one that the server was handed as it is, what will
    know. One field for both: a tuple of twenty would take half a megabyte more for the routes of a large app."""
    trace_id: int
    span_id: int
    query_count: int
    writes: Writes | None
    """What its writing took beside the queries, if it wrote."""
    queries: Sequence[Query]
    """All queries, or the first ones where there are `sums`."""
    repeats: Mapping[int, int] | None
    """A number for each start of a query, equal where statement and parameters are; `None` if no two are."""
    sums: Sequence[Sums] | None
    fetches: Sequence[int]
    """For each time that rows were fetched at once the start of their query, how long it took and how many there were.

    Where there are `sums`, these have what is told of `queries`, and what is in neither has a start of 0.
    """
    estimated_bytes: int

    @property
    def route(self) -> str:
        """The name of the route; the method alone where no rule matched."""
        return self.method if self.rule is None else route_name(self.method, self.rule.rule)

    @property
    def request_id(self) -> str:
        """What tells it from every other request, also of its trace: `TRACE_ID-SPAN_ID`, in hexadecimal."""
        return f"{self.trace_id:032x}-{self.span_id:016x}"

    @property
    def address(self) -> str:
        """The path as an address bar shows it; what would read as something else there is percent-encoded."""
        return uri_to_iri(url_path(self.path))

    @property
    def endpoint(self) -> str:
        """Flask's name of the endpoint, empty where no rule matched."""
        return "" if self.rule is None else self.rule.endpoint

    @property
    def transfer_ns(self) -> int | None:
        """Until the end of a body that was made while it was sent."""
        return self.transfer if isinstance(self.transfer, int) else None

    @property
    def whole_transfer_ns(self) -> int | None:
        """Until the end of the body, whoever made it; `None` where the duration says it, or while it is being sent."""
        return self.transfer if self.transfer is None or isinstance(self.transfer, int) else self.transfer.ns

    @property
    def complete_unix_ns(self) -> int:
        """When it was complete: a stream is at its end."""
        return self.start_unix_ns + (self.transfer_ns or self.duration_ns)

    @property
    def db_time_ns(self) -> int:
        """Time in the database: all queries, fetching rows at once, and commits; with threads it may exceed the duration."""
        if self.sums is not None:
            return self.commit_ns + sum(self._unsummed[1:2]) + sum(each.duration_ns for each in self.sums)
        return self.commit_ns + sum(self.fetches[1::3]) + sum([query[DURATION_NS] for query in self.queries])

    @property
    def wait_ns(self) -> int:
        """Time lost to locks of the database."""
        return 0 if self.writes is None else self.writes.wait_ns

    @property
    def waited_for(self) -> str | None:
        """The route of the request that held the lock that took longest; `None` where that is not known."""
        return None if self.writes is None or self.writes.waited_for is None else self.writes.waited_for[1] or None

    @property
    def commit_count(self) -> int:
        """How many write transactions were committed by a call of `commit`, or at the end of a `with connection`."""
        return 0 if self.writes is None else self.writes.commit_count

    @property
    def commit_ns(self) -> int:
        """Time of these calls."""
        return 0 if self.writes is None else self.writes.commit_ns

    @property
    def commits_of_one_database(self) -> tuple[int, int]:
        """How many of them the database took on which they took longest, and how long that was."""
        return (0, 0) if self.writes is None else self.writes.of_one_database

    @property
    def commits(self) -> Iterator[Commit]:
        """The first of these commits, one by one."""
        return iter(()) if self.writes is None else self.writes.commits

    @property
    def _unsummed(self) -> tuple[int, ...]:
        """What was fetched of queries that are known by their sums alone, when these were made already."""
        return tuple(self.fetches[:3]) if self.fetches and not self.fetches[0] else ()

    def shortened(self, max_bytes: int) -> Row:
        """Return it without what makes it large: long statements, queries beyond the first, sums of rare statements.

        The figures stay exact: what there is no room for goes into sums of the line it comes from, or of all.
        """
        sums = self.sums
        if sums is None:
            sums = summed(self.queries, self.repeats or {}, by_query(self.fetches))
        cut: dict[str, str] = {}
        queries = [(_cut(query[SQL], cut), *query[START_NS:]) for query in self.queries[:100]]
        for each in sums:
            each.sql = _cut(each.sql, cut)
        path = self.path[:_MAX_PATH]
        writes = self.writes and self.writes.shortened(max_bytes // 4)
        fixed = _REQUEST_BYTES + len(path) + (writes.estimated_bytes if writes else 0)
        room = max_bytes - fixed
        while len(sums) > 1 and sum(map(_sums_bytes, sums)) > room // 2:
            sums = _folded(sums, (len(sums) - 1) // 2)
        room -= sum(map(_sums_bytes, sums))
        while queries and _queries_bytes(queries) > room:
            queries = queries[: len(queries) // 2]
        cost = fixed + sum(map(_sums_bytes, sums)) + _queries_bytes(queries)
        short = self._replace(
            path=path,
            writes=writes,
            queries=queries,
            repeats=None,
            sums=sums,
            fetches=() if self.sums is None else self._unsummed,
            estimated_bytes=cost,
        )
        return tuple(short)


Row = tuple[Any, ...]
"""A `KeptRequest` as a plain tuple."""

_DURATION, QUERY_COUNT, _BYTES = map(KeptRequest._fields.index, ("duration_ns", "query_count", "estimated_bytes"))
SPAN_ID: Final = KeptRequest._fields.index("span_id")
WRITES: Final = KeptRequest._fields.index("writes")
_START: Final = KeptRequest._fields.index("start_unix_ns")
_ERROR: Final = KeptRequest._fields.index("error_type")


def row(record: RequestRecord, path: str, error_type: str | None, duration_ns: int, ids: tuple[int, int]) -> Row:
    """Return what is kept of `record`, whose trace and span have these `ids`."""
    queries, repeats, sums, rule = record.queries, None, None, record.rule
    if record.sums is not None or len(queries) > MAX_KEPT_QUERIES:
        record.sum_up(queries)
        first, fetched = record.first or ([], {})
        queries = first[:MAX_KEPT_QUERIES]
        sums = settled(record.sums or {})
    elif record.calls:
        repeats = _ordinals(record.calls)
    if record.failed:
        queries = [
            query if query[ERROR_TYPE] is None else (*query[:ERROR_TYPE], str(query[ERROR_TYPE]), *query[FLAGS:])
            for query in queries
        ]
    fetches = tuple(record.fetches)
    if sums is None:
        cost = _REQUEST_BYTES + len(path) + _QUERY_BYTES * len(queries) + _FETCHED_BYTES * len(fetches)
    else:
        told = {query[START_NS]: fetched[query[START_NS]] for query in queries if query[START_NS] in fetched}
        fetches = (*_together(fetches), *flat(told))
        cost = _REQUEST_BYTES + len(path) + _queries_bytes(queries) + sum(map(_sums_bytes, sums))
        cost += _FETCHED_BYTES * len(fetches)
    writes = None
    if record.writes is not None:
        writes = record.writes.copy()  # a thread that outlives the request may wait on
        cost += writes.estimated_bytes
    trace_id, span_id = ids
    return (
        record.method,
        None if rule is None else _kept_rule(rule.rule, rule.endpoint),
        path,
        record.status,
        error_type,
        record.start_ns,
        record.start_unix_ns,
        duration_ns,
        record.transfer_ns if record.handed_over is None else record.handed_over,
        trace_id,
        span_id,
        record.query_count,
        writes,
        queries or (),  # an empty list and an empty dictionary of its own would be a fifth of the row
        repeats,
        sums,
        fetches,
        cost,
    )


def _cut(sql: str, known: dict[str, str]) -> str:
    """Return `sql` no longer than it may be; equal statements are one object afterwards."""
    found = known.get(sql)
    if found is None:
        found = known[sql] = sql if len(sql) <= _MAX_SQL else sql[:_MAX_SQL] + _CUT
    return found


def _sums_bytes(sums: Sums) -> int:
    return _SUMS_BYTES + sys.getsizeof(sums.sql)


def _queries_bytes(queries: Sequence[Query]) -> int:
    """Return what `queries` and their statements take, each statement once."""
    statements = {id(query[SQL]): query[SQL] for query in queries}
    return _QUERY_BYTES * len(queries) + sum(map(sys.getsizeof, statements.values()))


def _together(fetches: tuple[int, ...]) -> tuple[int, ...]:
    """Return `fetches` of queries that are known by their sums alone as one."""
    return (0, sum(fetches[1::3]), sum(fetches[2::3])) if fetches else fetches


def summed(queries: Sequence[Query], repeats: Mapping[int, int], fetches: Mapping[int, tuple[int, int]]) -> list[Sums]:
    """Return the settled sums of `queries`."""
    sums: dict[SumKey, Sums] = {}
    for query in queries:
        sums_of(sums, query).add(query, repeats.get(query[START_NS]), fetches.get(query[START_NS]))
    return settled(sums)


def settled(sums: Mapping[SumKey, Sums]) -> list[Sums]:
    """Return `sums` as they are kept: where there are many, those of statements that differ in literals alone as one."""
    found = list((merged(sums) if len(sums) > _MANY_SUMS else sums).values())
    for each in found:
        each.settle()
    return found


def _folded(sums: Sequence[Sums], number: int) -> list[Sums]:
    """Return the `number` of `sums` with the most runs, in their order, and the others as one."""
    kept = set(sorted(range(len(sums)), key=lambda at: -sums[at].runs)[:number])
    rest = Sums("", source.NO_SITE)
    for at, each in enumerate(sums):
        if at not in kept:
            rest.absorb(each)
    return [*(sums[at] for at in sorted(kept)), rest]


def _ordinals(calls: Sequence[int | None]) -> Mapping[int, int] | None:
    """Return a number for each start of a query, equal where the keyed hashes are; `None` if no two are equal.

    The hashes themselves end with the request.
    """
    hashes = calls[2::3]
    if len(set(hashes)) == len(hashes):
        return None
    seen: dict[int, int] = {}
    found = {
        start_ns: seen.setdefault(hashed, len(seen))
        for start_ns, hashed in zip(calls[::3], hashes, strict=False)  # a thread may still add to `calls`
        if start_ns is not None and hashed is not None
    }
    return found if len(seen) < len(found) else None


def weighed(kept: Row, statement_bytes: int) -> Row:
    """Return `kept` with what its statements take beside its queries."""
    return (*kept[:_BYTES], kept[_BYTES] + statement_bytes)


class Worst:
    """The worst requests of one route; each list the least bad first, so that the first is the next to go."""

    __slots__ = ("failing", "least_duration_ns", "least_queries", "most_queries", "numbers", "slowest")

    def __init__(self, size: int) -> None:
        self.failing: deque[Row] = deque(maxlen=size)
        self.clear()

    def clear(self) -> None:
        """Forget every request."""
        self.slowest: list[Row] = []
        self.most_queries: list[Row] = []
        self.failing.clear()
        self.least_duration_ns = -1  # what a request has to exceed
        self.least_queries = 0
        self.numbers: frozenset[int] = frozenset()  # one request of each number of queries says all that ten would

    def __iter__(self) -> Iterator[Row]:
        yield from self.slowest
        yield from self.most_queries
        yield from self.failing

    def ranks(self) -> Iterator[tuple[int, Row]]:
        """Yield each request with its place in one of the lists, 0 for the worst, or of those that failed the newest."""
        for ranked in (self.slowest, self.most_queries, self.failing):
            yield from enumerate(reversed(ranked))

    def drop(self, dropped: Container[int], size: int) -> None:
        """Forget the requests with these ids."""

        def is_kept(kept: Row) -> bool:
            return id(kept) not in dropped

        self.slowest = list(filter(is_kept, self.slowest))
        self.most_queries = list(filter(is_kept, self.most_queries))
        self.failing = deque(filter(is_kept, self.failing), size)
        self.set_limits(size)

    def set_limits(self, size: int) -> None:
        """Note what a request has to exceed to be among the worst `size`."""
        self.least_duration_ns = self.slowest[0][_DURATION] if 0 < size <= len(self.slowest) else -1
        self.least_queries = self.most_queries[0][QUERY_COUNT] if 0 < size <= len(self.most_queries) else 0
        self.numbers = frozenset(kept[QUERY_COUNT] for kept in self.most_queries)


class RecentRequests:
    """The last `newest` requests, and of each route the `worst` slowest, with most queries and failing. Thread-safe.

    They take at most `max_bytes`, by an estimate: half for the newest, of which the oldest go first, half for the worst, of which
    those go first that are the least bad of their routes.
    """

    def __init__(self, newest: int = 200, worst: int = 10, max_bytes: int = 8 * 1024 * 1024) -> None:
        self._worst_size = worst
        self._share = max_bytes // 2
        # As long as none is larger, the newest need no counting: together they fill half of their share at most.
        self._large = self._share // (2 * max(newest, 1))
        self._lock = forked.lock()
        self._newest: deque[Row] = deque(maxlen=newest)
        self._routes: dict[tuple[str, str], Worst] = {}
        self._worst_bytes = 0
        self._large_bytes = self._large_count = 0  # of the newest, those that are large

    def clear(self) -> None:
        """Forget every request."""
        with self._lock:
            self._newest.clear()
            self._large_bytes = self._large_count = 0
            for worst in self._routes.copy().values():
                worst.clear()
            self._worst_bytes = 0

    def of_route(self, method: str, rule: str) -> Worst:
        """Return where the worst requests of a route are kept."""
        return self._routes.setdefault((method, rule), Worst(self._worst_size))

    def add(self, kept: Row, worst: Worst) -> None:
        """Keep a request, whose route has `worst`."""
        if kept[_BYTES] > self._share // 4:
            kept = KeptRequest._make(kept).shortened(self._share // 4)
        if kept[_BYTES] > self._large or self._large_bytes:
            self._append_counted(kept)
        else:
            self._newest.append(kept)
        if (
            kept[_DURATION] > worst.least_duration_ns
            or (kept[QUERY_COUNT] > worst.least_queries and kept[QUERY_COUNT] not in worst.numbers)
            or kept[_ERROR] is not None
        ):
            self._rank(kept, worst)

    def _append_counted(self, kept: Row) -> None:
        """Keep a request while there are large ones, and let the oldest go that are too much with it."""
        newest = self._newest
        with self._lock:
            if newest and len(newest) == newest.maxlen:
                self._count(newest.popleft(), -1)
            newest.append(kept)
            self._count(kept, 1)
            if self._newest_bytes() > self._share:
                self._recount()  # others may have appended uncounted
                while self._newest_bytes() > self._share and len(newest) > 1:
                    self._count(newest.popleft(), -1)

    def _count(self, kept: Row, sign: int) -> None:
        if kept[_BYTES] > self._large:
            self._large_bytes += sign * kept[_BYTES]
            self._large_count += sign

    def _recount(self) -> None:
        self._large_bytes = self._large_count = 0
        for kept in copied(self._newest):
            self._count(kept, 1)

    def _newest_bytes(self) -> int:
        """Return what the newest take at most: the large ones what they do, each other one as much as it may."""
        return self._large_bytes + (len(self._newest) - self._large_count) * self._large

    def _rank(self, kept: Row, worst: Worst) -> None:
        size = self._worst_size
        if not size:
            return
        with self._lock:
            if kept[_DURATION] > worst.least_duration_ns:
                self._insert(worst.slowest, kept, itemgetter(_DURATION))
            if kept[QUERY_COUNT] > worst.least_queries and kept[QUERY_COUNT] not in worst.numbers:
                self._insert(worst.most_queries, kept, itemgetter(QUERY_COUNT))
            if kept[_ERROR] is not None:
                if len(worst.failing) == size:
                    self._worst_bytes -= worst.failing[0][_BYTES]
                worst.failing.append(kept)
                self._worst_bytes += kept[_BYTES]
            worst.set_limits(size)
            if self._worst_bytes > self._share:
                self._make_room()

    def _insert(self, ranked: list[Row], kept: Row, key: itemgetter[int]) -> None:
        insort(ranked, kept, key=key)
        self._worst_bytes += kept[_BYTES]
        if len(ranked) > self._worst_size:
            self._worst_bytes -= ranked.pop(0)[_BYTES]

    def _make_room(self) -> None:
        """Forget the least bad of the worst, the largest first, until they fit with an eighth to spare."""
        held: Counter[int] = Counter()
        places: dict[int, int] = {}
        every: dict[int, Row] = {}
        for worst in self._routes.copy().values():
            for place, kept in worst.ranks():
                held[id(kept)] += 1
                places[id(kept)] = min(place, places.get(id(kept), place))
                every[id(kept)] = kept

        def order(kept: Row) -> tuple[int, int]:
            return -places[id(kept)], -kept[_BYTES]

        total, dropped = self._worst_bytes, set()
        for kept in sorted(every.values(), key=order)[:-1]:
            if total <= self._share - self._share // 8:
                break
            total -= kept[_BYTES] * held[id(kept)]
            dropped.add(id(kept))
        for worst in self._routes.copy().values():
            worst.drop(dropped, self._worst_size)
        self._worst_bytes = total

    def all(self) -> list[KeptRequest]:
        """Return every request that is kept, once, the newest first."""
        with self._lock:
            found = {id(kept): kept for kept in copied(self._newest)}
            found |= {id(kept): kept for worst in self._routes.copy().values() for kept in worst}
        return [KeptRequest._make(kept) for kept in sorted(found.values(), key=itemgetter(_START), reverse=True)]

    @property
    def estimated_bytes(self) -> int:
        """What the requests are taken to need; one that is kept twice counts twice."""
        with self._lock:
            newest_bytes: int = sum(kept[_BYTES] for kept in copied(self._newest))
            return newest_bytes + self._worst_bytes


class Traces:
    """Which of the kept requests a sample of a window is of: it knows its trace, of which there may be several requests."""

    def __init__(self, requests: Iterable[KeptRequest] = ()) -> None:
        self._requests: dict[tuple[int, str], list[KeptRequest]] = {}
        for kept in requests:
            self._requests.setdefault((kept.trace_id, kept.route), []).append(kept)

    def of(self, sample: Sample, route: str) -> KeptRequest | None:
        """Return the request that `sample` of `route` is of, if that is kept: of a trace, the one that ended then."""
        found = None if sample.trace_id is None else self._requests.get((sample.trace_id, route))
        if not found:
            return None
        return min(found, key=lambda kept: abs(kept.complete_unix_ns - sample.time_unix_nano))


NO_REQUESTS: Final = Traces()
