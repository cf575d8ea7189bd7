"""From the complete record of a request to measurements and spans."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context

from telemetry import instruments, source
from telemetry.binding import NO_IDS, BoundHistogram, Ids
from telemetry.exporters.ended_request import ServerFacts, decision_attributes, environ_facts, request_path, span_name
from telemetry.failure import Failure, error_type_of
from telemetry.instrumentation.spans import DeferredSpan, Tracing, end_span, random_ids
from telemetry.instruments import Instruments
from telemetry.query import DURATION_NS, ERROR_TYPE, SQL
from telemetry.readers.window import route_name
from telemetry.recent import RecentRequests, Row, Worst, row, weighed
from telemetry.requests import MAX_PENDING_QUERIES, serving
from telemetry.tail import TailPolicy, stronger

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, TracerProvider
    from opentelemetry.util.types import AttributeValue
    from werkzeug.routing import Rule

    from telemetry.query import Query
    from telemetry.requests import RequestRecord, Spilled
    from telemetry.settings import TelemetrySettings

_log = logging.getLogger(__name__)

KNOWN_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_OPERATIONS = frozenset(
    (
        *("ALTER", "ANALYZE", "ATTACH", "BEGIN", "COMMIT", "CREATE", "DELETE", "DETACH", "DROP", "END", "EXPLAIN"),
        *("INSERT", "PRAGMA", "REINDEX", "RELEASE", "REPLACE", "ROLLBACK", "SAVEPOINT", "SELECT", "UPDATE", "VACUUM"),
        *("VALUES", "WITH"),
    )
)
_WITH_COLLECTION = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE"})
_FIRST_WORD = re.compile(r"(?>\s|\(|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]+)", re.DOTALL)
_NAME = r"""(?:"([^"]+)"|'([^']+)'|`([^`]+)`|\[([^\]]+)\]|(\w+))"""
_SCHEMA = r"""(?:(?:"[^"]+"|'[^']+'|`[^`]+`|\[[^\]]+\]|\w+)\s*\.\s*)?"""
_BLANK = r"(?>\s|--[^\n]*\n|/\*.*?\*/)*"
_NO_CODE = r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'[^']*'?|"[^"]*"?|`[^`]*`?|\[[^\]]*\]?|\bDISTINCT\s+FROM\b"""
_BRACKETS = rf"(?>\({_BLANK})*(?!(?:SELECT|VALUES|WITH)\b)"  # FROM (albums) is FROM albums
_COLLECTION = re.compile(
    rf"{_NO_CODE}|\b(?:FROM|INTO|UPDATE(?:\s+OR\s+\w+)?)\b{_BLANK}{_BRACKETS}{_SCHEMA}{_NAME}",
    re.IGNORECASE | re.DOTALL,
)
"""Comments, names and literals, in which nothing is to be looked for, or the name of a table, which is the only group then."""
_UP_TO_LITERAL = re.compile(r"[^'0-9]*")
_MAX_STATEMENTS = 1024
_MAX_STATEMENT_CHARACTERS = 2_000_000
_MAX_COLLECTIONS = 200
_MAX_SERIES = 10_000
_OVERFLOW: Final = {"otel.metric.overflow": True}
_SHORT_SQL = 500
_KIND = itemgetter(SQL, ERROR_TYPE)
_DURATION_NS = itemgetter(DURATION_NS)
_SeriesKey = tuple[str | None, str, int, str | None]
"""Rule, method, status code and error type."""
_Series = tuple[BoundHistogram, BoundHistogram, Worst | None]


class _Statement:
    """What is known of a statement: the series of its durations, and what keeping one more run of it may cost in bytes."""

    __slots__ = ("cost", "series")

    def __init__(self, series: BoundHistogram, cost: int) -> None:
        self.series = series
        self.cost = cost


class Capture:
    """Records what the requests and queries of one pipeline of providers did. Thread-safe; never raises into a request."""

    def __init__(
        self,
        made: Instruments,
        tracer_provider: TracerProvider,
        settings: TelemetrySettings,
        recent: RecentRequests | None = None,
        count_failure: Callable[[], object] = lambda: None,
    ) -> None:
        self.instruments = made
        self.recent = recent or RecentRequests()
        fan_out = min(settings.fan_out_warning, MAX_PENDING_QUERIES)  # no request keeps more of them back
        tail = TailPolicy.of(settings.export, settings.poor_above_ms, fan_out)
        self.tracing = Tracing(tracer_provider, self.operation, tail, settings.repeats_warning)
        self.site = source.find if settings.source_lines else source.none
        self._excluded_rules = settings.excluded_routes
        self._requests: dict[_SeriesKey, _Series] = {}
        self._overflow: _Series | None = None
        self._excluded: dict[tuple[str, str], bool] = {}
        self._statements: dict[str, _Statement] = {}
        self._statement_characters = 0
        self._operations: dict[tuple[tuple[str, str], ...], _Statement] = {}
        self._collections: set[str] = set()
        self._leads: dict[str, dict[str, str]] = {}  # what statements begin with -> their attributes
        self._count_failure = count_failure
        self._has_failed = False

    # -- requests ----------------------------------------------------------------------------------------------------

    def is_excluded(self, rule: Rule) -> bool:
        """Tell whether the windows leave out the requests of `rule`: admin pages, static files, `excluded_routes`."""
        key = rule.endpoint, rule.rule
        known = self._excluded.get(key)
        if known is None:
            known = self._excluded[key] = excludes(rule, self._excluded_rules)
        return known

    def complete(self, record: RequestRecord, end_ns: int, environ: Mapping[str, Any]) -> None:
        """Record a request that has ended, `end_ns` by the clock of `record.start_ns`. A second call does nothing."""
        if record.complete:
            return
        try:
            self._complete(record, end_ns, environ)
        except Exception:
            self.fail("a request could not be recorded")
        finally:
            record.close()

    def _complete(self, record: RequestRecord, end_ns: int, environ: Mapping[str, Any]) -> None:
        record.end()
        rule, status, span = record.rule, record.status, record.span
        duration_ns = end_ns - record.start_ns
        error_type = None
        if record.error is not None:
            error_type = error_type_of(record.error)
        elif status >= 500:
            error_type = str(status)
        is_excluded = rule is not None and self.is_excluded(rule)
        ids, sampled, kept = None, False, None
        if type(span) is DeferredSpan and not record.exported and span.made is None:
            ids = span.reserved  # nobody listens, and nobody has looked: no exception is written down either
        elif span is not None:
            try:
                ids, sampled, kept = self._end_span(span, record, environ, error_type, duration_ns, is_excluded)
                if record.parents and not is_excluded:
                    self.tracing.emit_inside(record, record.take_parents(record.queries))
                if record.held is not None:
                    self.tracing.release(record)
                    sampled = sampled and not record.is_rejected
            except Exception:
                self.fail("a request's span could not be ended")
        record.complete = True
        if is_excluded:
            return
        if ids is None:
            ids = random_ids()
        context = record.context or Context()
        now = record.start_unix_ns + (record.transfer_ns or duration_ns)  # a stream is complete at its end
        key = (None if rule is None else rule.rule, record.method, status, error_type)
        duration, operations, worst = self._requests.get(key) or self._new_series(key)
        duration.record(duration_ns / 1e9, context, now, ids, sampled)
        operations.record(record.query_count, context, now, ids, sampled)
        statement_bytes = self.record_queries(record.queries, context, now, ids, sampled) if record.queries else 0
        if worst is None:
            return
        if record.writes is not None and record.writes.wait_ns:
            self.instruments.lock_wait.record(record.writes.wait_ns / 1e9, operations.attributes, context)
        if kept is None:
            kept = row(record, request_path(environ), error_type, duration_ns, ids)
        self.recent.add(weighed(kept, statement_bytes) if statement_bytes else kept, worst)

    def _end_span(
        self,
        span: Span,
        record: RequestRecord,
        environ: Mapping[str, Any],
        error_type: str | None,
        duration_ns: int,
        is_excluded: bool,
    ) -> tuple[tuple[int, int] | None, bool, Row | None]:
        """End the server span, made or not, and return its ids, whether it is sampled, and what is kept, if it was needed."""
        if isinstance(span, DeferredSpan):
            if span.made is None:
                ended = self._end_unmade(span, record, environ, error_type, duration_ns, is_excluded)
                if ended is not None:
                    return ended
            made = span.make()
            if record.rule is not None and span.made_for is None:  # somebody looked at it before the routing
                made.update_name(span_name(record.method, record.rule.rule))
                made.set_attribute(instruments.HTTP_ROUTE, record.rule.rule)
            span = made
        if record.status:
            span.set_attribute(instruments.HTTP_RESPONSE_STATUS_CODE, record.status)
        if record.query_count or record.writes is not None:
            span.set_attribute(instruments.REQUEST_OPERATIONS, record.query_count)
            span.set_attribute(instruments.REQUEST_DB_DURATION, record.db_time_ns() / 1e9)
        if record.writes is not None and record.writes.commit_count:
            span.set_attribute(instruments.REQUEST_COMMIT_DURATION, record.writes.commit_ns / 1e9)
        span.set_attributes(self._decide(record, span.get_span_context().trace_id, error_type, duration_ns))
        ids = span.get_span_context()
        kept = None
        if (record.exported or record.eager) and ids.trace_flags.sampled and not is_excluded:
            kept = row(record, request_path(environ), error_type, duration_ns, (ids.trace_id, ids.span_id))
        record.kept = kept
        token = serving.set(record)  # our processor leaves the span to the request, if that may not be kept
        try:
            end_span(span, record.error, error_type, duration_ns, record.start_unix_ns)
        finally:
            serving.reset(token)
            record.kept = None
        if record.exported and ids.trace_flags.sampled and not is_excluded:
            self.tracing.emit(record, ids, None, record.queries)
        return ((ids.trace_id, ids.span_id) if ids.is_valid else None), ids.trace_flags.sampled, kept

    def _end_unmade(
        self,
        span: DeferredSpan,
        record: RequestRecord,
        environ: Mapping[str, Any],
        error_type: str | None,
        duration_ns: int,
        is_excluded: bool,
    ) -> tuple[tuple[int, int] | None, bool, Row | None] | None:
        """End a span that nobody has looked at; `None` if somebody has meanwhile."""
        if is_excluded:
            return None, False, None
        ids, sampled = span.chosen_ids()
        if not span.settle(ids):
            return None
        pair = (ids.trace_id, ids.span_id)
        kept = None
        if sampled:
            self._decide(record, ids.trace_id, error_type, duration_ns)
            kept = row(record, request_path(environ), error_type, duration_ns, pair)
            facts = ServerFacts._make(  # in half of the time
                (
                    span.parent_context,
                    record.method,
                    None if record.rule is None else record.rule.rule,
                    record.status,
                    error_type if record.error is None else Failure.of(record.error),
                    duration_ns,
                    span.facts or environ_facts(environ),
                    record.decision,
                    kept,
                    span.own,
                )
            )
            self.tracing.emit(record, ids, facts, record.queries)
        return pair, sampled, kept

    def _decide(
        self, record: RequestRecord, trace_id: int, error_type: str | None, duration_ns: int
    ) -> Mapping[str, AttributeValue]:
        """Find out why the request is exported, if not every request is, and return the attributes that say so."""
        tail = self.tracing.tail
        if tail is not None and record.held is not None:
            own = tail.decide(trace_id, error_type, duration_ns, record.query_count)
            record.decision = stronger(own, record.decision)  # that of a request inside it may be there already
        return decision_attributes(record.decision)

    def _new_series(self, key: _SeriesKey) -> _Series:
        rule, method, status, error_type = key
        if len(self._requests) >= _MAX_SERIES:
            key = rule, method, status, error_type = _coarse(key)
            if rule is None:
                return self._overflow_series()
            if key in self._requests:
                return self._requests[key]
        route = {instruments.HTTP_REQUEST_METHOD: method}
        if rule is not None:
            route[instruments.HTTP_ROUTE] = rule
        attributes: dict[str, str | int] = dict(route)
        if status:
            attributes[instruments.HTTP_RESPONSE_STATUS_CODE] = status
        if error_type is not None:
            attributes[instruments.ERROR_TYPE] = error_type
        series = (
            BoundHistogram(self.instruments.request_duration, attributes),
            BoundHistogram(self.instruments.request_operations, route),
            None if rule is None else self.recent.of_route(method, rule),
        )
        self._requests[key] = series
        return series

    def _overflow_series(self) -> _Series:
        """Return the series of requests to no route beyond the limit, as the metrics SDK specification has it: "Cardinality
        limits".
        """
        if self._overflow is None:
            _log.warning("more than %d series of requests: later ones to no route share one", _MAX_SERIES)
            self._overflow = (
                BoundHistogram(self.instruments.request_duration, _OVERFLOW),
                BoundHistogram(self.instruments.request_operations, _OVERFLOW),
                None,
            )
        return self._overflow

    # -- queries -----------------------------------------------------------------------------------------------------

    def record_queries(
        self,
        queries: Sequence[Query],
        context: Context,
        time_unix_nano: int,
        ids: Ids = NO_IDS,
        sampled: bool = False,
    ) -> int:
        """Record the durations of `queries`, made in `context`, whose span has these `ids` and is sampled or not.

        Return what their statements may take up in memory, in bytes, where these are not the short ones of the code.
        """
        known = self._statements
        kinds = list(map(_KIND, queries))
        if kinds.count(kinds[0]) == len(kinds):  # one query, or one in a loop
            sql, error_type = kinds[0]
            statement = known.get(sql) if error_type is None else None
            if statement is None:
                statement = self._statement(sql, error_type)
            statement.series.record_many(list(map(_DURATION_NS, queries)), context, time_unix_nano, ids, sampled)
            return statement.cost * len(queries)
        by_series: dict[BoundHistogram, list[int]] = {}
        cost = 0
        for query in queries:
            statement = known.get(query[SQL])
            if statement is None or query[ERROR_TYPE] is not None:
                statement = self._statement(query[SQL], query[ERROR_TYPE])
            cost += statement.cost
            series = statement.series
            if series in by_series:
                by_series[series].append(query[DURATION_NS])
            else:
                by_series[series] = [query[DURATION_NS]]
        for series, durations_ns in by_series.items():
            series.record_many(durations_ns, context, time_unix_nano, ids, sampled)
        return cost

    def leaves_out(self, record: RequestRecord) -> bool:
        """Tell whether the request has been found to be for a rule that is left out."""
        rule = record.find_rule()
        return rule is not None and self.is_excluded(rule)

    def ids_of(self, record: RequestRecord) -> SpanContext | None:
        """Return the ids of the server span of a request that goes on, if its queries are exported."""
        try:
            span = record.span
            if record.exported and span is not None and not self.leaves_out(record):
                return span.get_span_context()
        except Exception:
            self.fail("the ids of a request could not be told")
        return None

    def spill(self, record: RequestRecord, spilled: Spilled) -> None:
        """Record queries of a request that goes on."""
        try:
            queries, context, ids, sampled = spilled.queries, spilled.context or Context(), NO_IDS, False
            found = spilled.ids
            if found is not None:
                if record.held is not None:  # so much is not kept back
                    self._decide(record, found.trace_id, None, 0)
                    self.tracing.release(record)
                ids, sampled = (found.trace_id, found.span_id), found.trace_flags.sampled and not record.is_rejected
                if sampled:
                    self.tracing.emit(record, found, None, queries)
                if spilled.parents:
                    self.tracing.emit_inside(record, spilled.parents)
            self.record_queries(queries, context, spilled.time_unix_nano, ids, sampled)
        except Exception:
            self.fail("the queries of a request could not be recorded")

    def _statement(self, sql: str, error_type: str | None) -> _Statement:
        """Return the entry of a statement that is new, or that has failed."""
        attributes = self.operation(sql)
        if error_type is not None:
            attributes[instruments.ERROR_TYPE] = str(error_type)  # alone, if more is known of it
        key = tuple(attributes.items())  # which come in one order
        short = self._operations.get(key)
        if short is None:
            made = _Statement(BoundHistogram(self.instruments.operation_duration, attributes), 0)
            short = self._operations.setdefault(key, made)
        new = _Statement(short.series, len(sql))
        if error_type is not None:
            return new
        self._statement_characters += len(sql)
        if len(self._statements) >= _MAX_STATEMENTS or self._statement_characters > _MAX_STATEMENT_CHARACTERS:
            self._statements.clear()
            self._statement_characters = len(sql)
        self._statements[sql] = new if len(sql) > _SHORT_SQL else short
        return new

    def operation(self, sql: str) -> dict[str, str]:
        """Return the attributes of a statement: bounded in number whatever the SQL, by leaving out what is not known."""
        lead = _UP_TO_LITERAL.match(sql)[0]  # type: ignore[index]  # it matches anything
        known = self._leads.get(lead)
        if known is not None:
            return known.copy()
        attributes = {instruments.DB_SYSTEM_NAME: "sqlite"}
        first = _FIRST_WORD.match(sql)
        word = first.group(1).upper() if first else ""
        if word not in _OPERATIONS:
            return attributes
        attributes[instruments.DB_OPERATION_NAME] = word
        found = None
        if word in _WITH_COLLECTION:
            found = next((each for each in _COLLECTION.finditer(sql) if each.lastindex), None)
        if found:
            name = found[found.lastindex or 0]
            if name in self._collections or len(self._collections) < _MAX_COLLECTIONS:
                self._collections.add(name)
                attributes[instruments.DB_COLLECTION_NAME] = name
            is_in_lead = first is not None and first.start(1) <= found.start() and found.end() < len(lead)
            # Else the name may be in a comment, or go on; `main` may be the schema of what follows.
            if is_in_lead and len(lead) < min(len(sql), _SHORT_SQL) and lead[found.end() :].lstrip()[:1] != ".":
                if len(self._leads) >= _MAX_STATEMENTS:
                    self._leads.clear()
                self._leads[lead] = attributes.copy()
        return attributes

    def fail(self, what: str) -> None:
        """Count a failure of the telemetry itself, and log the first."""
        self._count_failure()
        if not self._has_failed:
            self._has_failed = True
            _log.exception("%s; later failures are counted only", what)


_SIGN_OF_LIFE: Final = "/ping"
ADMIN_BLUEPRINT: Final = "telemetry_admin"
EXTENSION: Final = "telemetry.instrument"
"""Where `app.extensions` has what an instrumented app carries: a name that no extension of the app's own has."""


def _coarse(key: _SeriesKey) -> _SeriesKey:
    """Return the series of a route beyond the limit: without a status, and with one type for all errors.

    There are no more of these than an app has rules and methods, whatever clients ask for.
    """
    rule, method, _, error_type = key
    return rule, method, 0, None if error_type is None else instruments.OTHER


def excludes(rule: Rule, patterns: Sequence[str]) -> bool:
    """Tell whether `rule` is one of static files or admin pages, `/ping`, or matches one of `patterns`, as it is or is shown."""
    if rule.endpoint.startswith(ADMIN_BLUEPRINT + ".") or _is_static(rule):
        return True
    names = {rule.rule, route_name("", rule.rule)}
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (_SIGN_OF_LIFE, *patterns) for name in names)


def _is_static(rule: Rule) -> bool:
    """Tell whether Flask itself has made the rule, for the files of a folder; a view may well have that name."""
    is_named = rule.endpoint == "static" or rule.endpoint.endswith(".static")
    return is_named and rule.rule.endswith("/<path:filename>")


def method_of(environ_method: str, rule: Rule | None) -> str:
    """Return the method as `http.request.method` wants it: one that is not known only where `rule` names it."""
    is_named = rule is not None and rule.methods is not None
    return environ_method if is_named or environ_method in KNOWN_METHODS else instruments.OTHER
