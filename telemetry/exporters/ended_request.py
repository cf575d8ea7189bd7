"""What is kept of a request for its spans, and the spans made of it."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import INVALID_SPAN_ID, SpanContext, SpanKind, Status, StatusCode

from telemetry import instruments
from telemetry.failure import failure_in
from telemetry.memo import Memo
from telemetry.query import CODE, ERROR_TYPE, FLAGS, MADE, POSITION, SQL
from telemetry.recent import QUERY_COUNT, WRITES, KeptRequest
from telemetry.settings import TelemetrySettings
from telemetry.source import line_of
from telemetry.urls import url_path

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationInfo
    from opentelemetry.util.types import AttributeValue

    from telemetry.failure import Failure
    from telemetry.query import Query
    from telemetry.recent import Row
    from telemetry.tail import Decision

ENVIRON_KEYS = (
    "wsgi.url_scheme",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "HTTP_HOST",
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "REMOTE_ADDR",
    "HTTP_USER_AGENT",
)
"""What of the WSGI environment becomes attributes of the server span."""
FEW: Final = 6
"""So many of `ENVIRON_KEYS` have few values; behind them are script name, path, client and agent."""


Code = CodeType | str | None


@dataclass(eq=False, slots=True)
class Source:
    """What all spans of one tracer have in common, and what has been made of its statements for many of them."""

    resource: Resource
    scope: InstrumentationScope
    limits: SpanLimits
    id_generator: IdGenerator
    operation: Callable[[str], Mapping[str, str]]
    """The attributes of a statement."""
    info: InstrumentationInfo | None = None
    """What spans had before there were scopes; some exporters ask for it yet."""
    repeats: int = TelemetrySettings.repeats_warning
    """The setting `repeats_warning`, by which exported verdicts go too."""
    facts: Memo[tuple[str, dict[str, AttributeValue]]] = field(default_factory=Memo)
    """Name and attributes of the spans of statements."""
    written: Memo[tuple[bytes, bytes]] = field(default_factory=Memo)
    """What stands before and behind ids and times of these spans on the wire."""
    places: Memo[bytes] = field(default_factory=Memo)
    """Name, kind and attributes of these spans on the wire, but for their text."""


Plain = str | bool | int | float
"""A value of an attribute that needs no second look."""
NO_ATTRIBUTES: Final[Mapping[str, Plain]] = {}
MOST_OWN: Final = 32
OURS: Final = frozenset(
    {
        "client.address",
        "http.request.method_original",
        "network.protocol.version",
        "server.address",
        "server.port",
        "url.path",
        "url.scheme",
        "user_agent.original",
        instruments.ERROR_TYPE,
        instruments.EXPORT_REASON,
        instruments.EXPORT_SHARE,
        instruments.HTTP_REQUEST_METHOD,
        instruments.HTTP_RESPONSE_STATUS_CODE,
        instruments.HTTP_ROUTE,
        instruments.REQUEST_COMMIT_DURATION,
        instruments.REQUEST_DB_DURATION,
        instruments.REQUEST_OPERATIONS,
        instruments.REQUEST_STATEMENTS,
        instruments.REQUEST_VERDICT,
    }
)
"""Every attribute that a server span of ours may have."""


def is_plain(key: object, value: object) -> bool:
    """Tell whether that is an attribute beside ours which needs no second look."""
    if type(key) is not str or not key or key in OURS:
        return False
    return type(value) in (str, bool, float) or (type(value) is int and -(2**63) <= value < 2**63)


def has_room(limits: SpanLimits) -> bool:
    """Tell whether neither an attribute of ours, one that is noted for the app, nor an exception can meet a limit."""
    numbers = (
        (limits.max_span_attributes, len(OURS) + MOST_OWN),
        (limits.max_events, 1),
        (limits.max_event_attributes, 4),
    )
    lengths = limits.max_span_attribute_length, limits.max_attribute_length
    return lengths == (None, None) and all(most is None or most >= wanted for most, wanted in numbers)


class ServerFacts(NamedTuple):
    """What the server span is made of."""

    parent: SpanContext | None
    method: str
    rule: str | None
    status: int
    error_type: str | None
    duration_ns: int
    environ: tuple[str | None, ...]
    """The values of `ENVIRON_KEYS`."""
    decision: Decision | None = None
    """Why the request is exported, where not every request is."""
    kept: Row | None = None
    """What is known of its queries."""
    own: Mapping[str, Plain] = NO_ATTRIBUTES
    """What the app has said of the span: none of the names in `OURS`, and at most `MOST_OWN`."""

    @property
    def kind(self) -> SpanKind:
        """A request that is served inside a span of this process is internal to it."""
        return SpanKind.SERVER if self.parent is None or self.parent.is_remote else SpanKind.INTERNAL


Told = Callable[["Row | None"], Mapping[str, "AttributeValue"]]
_OF_NONE: Final[list[Sequence[bytes]]] = [()]
_PORT_DIGITS: Final = 5  # a client may send any number, which fits nowhere
_INVALID: Final = INVALID_SPAN_ID.to_bytes(8)
_sql_of: Final = itemgetter(SQL)
_error_type_of: Final = itemgetter(ERROR_TYPE)
_of_clients: Final = itemgetter(*map(ENVIRON_KEYS.index, ("HTTP_HOST", "SCRIPT_NAME", "PATH_INFO", "HTTP_USER_AGENT")))


class EndedRequest:
    """A request that has ended, or a part of its queries: what becomes spans later. Not to be changed once it is queued."""

    __slots__ = ("_query_ids", "ids", "queries", "server", "source", "start_ns", "start_unix_ns")

    def __init__(
        self,
        source: Source,
        ids: SpanContext,
        start_ns: int,
        start_unix_ns: int,
        server: ServerFacts | None,
        queries: Sequence[Query],
    ) -> None:
        self.source = source
        self.ids = ids
        self.start_ns = start_ns
        self.start_unix_ns = start_unix_ns
        self.server = server  # None where the SDK has made that span
        self.queries = queries
        # Appended to, which is one step: several exporters may ask at once.
        self._query_ids: list[Sequence[bytes]] = [] if queries else _OF_NONE

    def query_ids(self) -> Sequence[bytes]:
        """Return the span ids of the queries whose spans the SDK has not made, the same ones whenever it is asked.

        They are made at once where nobody has a generator of his own.
        """
        if not self._query_ids:
            self._query_ids.append(self._new_query_ids())
        return self._query_ids[0]

    def _new_query_ids(self) -> Sequence[bytes]:
        generate = self.source.id_generator.generate_span_id
        number = len(self.queries) - sum([query[FLAGS] & MADE for query in self.queries])
        if type(self.source.id_generator) is not RandomIdGenerator or number < 2:
            return [generate().to_bytes(8) for _ in range(number)]
        many = random.getrandbits(64 * number).to_bytes(8 * number)
        found = [many[at : at + 8] for at in range(0, 8 * number, 8)]
        return [generate().to_bytes(8) if each == _INVALID else each for each in found]

    @property
    def span_count(self) -> int:
        """How many spans this becomes, at most."""
        return len(self.queries) + (self.server is not None)

    @property
    def characters(self) -> int:
        """How long the statements of its queries are, together with exceptions and what a client chooses of the request."""
        own = 0
        if self.server is not None:
            host, script_name, path, agent = _of_clients(self.server.environ)
            own = len(host or "") + len(script_name or "") + len(path or "") + len(agent or "")
            if self.server.own:
                own += sum([len(key) + len(str(value)) for key, value in self.server.own.items()])
            if (failure := failure_in(self.server.error_type)) is not None:
                own += failure.characters
        if not self.queries:
            return own
        failures = map(failure_in, filter(None, map(_error_type_of, self.queries)))
        return own + sum(map(len, map(_sql_of, self.queries))) + sum(each.characters for each in failures if each)

    @property
    def exact_span_count(self) -> int:
        """How many spans this becomes: without the queries whose spans the SDK has made."""
        return sum(not query[FLAGS] & MADE for query in self.queries) + (self.server is not None)

    def halves(self) -> tuple[EndedRequest, EndedRequest]:
        """Return the request in two parts, the server span in the first; the ids stay, which other exporters send too."""
        middle = len(self.queries) // 2
        shared = (self.source, self.ids, self.start_ns, self.start_unix_ns)
        first = EndedRequest(*shared, self.server, self.queries[:middle])
        second = EndedRequest(*shared, None, self.queries[middle:])
        ids, ahead = self.query_ids(), sum([not query[FLAGS] & MADE for query in first.queries])
        first._query_ids, second._query_ids = [ids[:ahead]], [ids[ahead:]]
        return first, second

    def spans(self, told: Told | None = None) -> list[ReadableSpan]:
        """Return the spans, as the SDK would have made them; of its queries the server span says what `told` returns, without
        it all that is known of them."""
        told = told or functools.partial(database_attributes, repeats=self.source.repeats)
        made = [] if self.server is None else [self._server_span(self.server, told)]
        queries = [query for query in self.queries if not query[FLAGS] & MADE]
        made += [self._query_span(*each) for each in zip(queries, self.query_ids(), strict=True)]
        return made

    def _server_span(self, server: ServerFacts, told: Told) -> ReadableSpan:
        start = self.start_unix_ns
        return self._span(
            span_name(server.method, server.rule),
            self.ids,
            server.parent,
            server.kind,
            server_attributes(server, told),
            server.error_type,
            (start, start + server.duration_ns),
        )

    def _query_span(self, query: Query, span_id: bytes) -> ReadableSpan:
        sql, start_ns, duration_ns, error_type = query[:FLAGS]
        own = self.ids
        ids = SpanContext(own.trace_id, int.from_bytes(span_id), False, own.trace_flags, own.trace_state)
        start = self.start_unix_ns + start_ns - self.start_ns
        name, attributes = self._query_facts(sql, query[CODE], query[POSITION])
        attributes = attributes.copy()
        if error_type is not None:
            attributes[instruments.ERROR_TYPE] = str(error_type)
        return self._span(name, ids, own, SpanKind.CLIENT, attributes, error_type, (start, start + duration_ns))

    def _query_facts(self, sql: str, code: Code, position: int) -> tuple[str, dict[str, AttributeValue]]:
        """Return name and attributes of a query's span, which others have as well."""
        key = (sql, id(code), position)
        known = self.source.facts.made.get(key)
        if known is not None:
            return known[0]
        values = self.source.operation(sql)
        made = query_span_name(values), query_attributes(values, sql) | source_attributes(code, position)
        return self.source.facts.keep(key, made, code, len(sql))

    def _span(
        self,
        name: str,
        ids: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        error_type: str | None,
        interval: tuple[int, int],
    ) -> ReadableSpan:
        most, longest = self.source.limits.max_span_attributes, self.source.limits.max_span_attribute_length
        if longest is not None or (most is not None and most < len(attributes)):
            attributes = BoundedAttributes(most, attributes, False, longest)
        status, events = _UNSET if error_type is None else _ERROR, _NO_EVENTS
        failure = failure_in(error_type)
        if failure is not None:
            status, events = Status(StatusCode.ERROR, failure.description), self._events(failure, interval[1])
        return ReadableSpan(
            name=name,
            context=ids,
            parent=parent,
            resource=self.source.resource,
            attributes=attributes,
            events=events,
            kind=kind,
            status=status,
            start_time=interval[0],
            end_time=interval[1],
            instrumentation_info=self.source.info,
            instrumentation_scope=self.source.scope,
        )

    def _events(self, failure: Failure, time_unix_nano: int) -> Sequence[Event]:
        """Return the event of an exception, as far as the limits allow."""
        limits = self.source.limits
        attributes = BoundedAttributes(
            limits.max_event_attributes, failure.attributes, True, limits.max_attribute_length
        )
        return BoundedList.from_seq(limits.max_events, [Event("exception", attributes, time_unix_nano)])


_NO_EVENTS: Final[Sequence[Event]] = ()
_UNSET: Final = Status(StatusCode.UNSET)
_ERROR: Final = Status(StatusCode.ERROR)


class MadeServerSpan(NamedTuple):
    """A server span that the SDK has made and ended, and what is known of its request's queries."""

    span: ReadableSpan
    kept: Row
    repeats: int
    """The setting `repeats_warning`."""

    def annotated(self) -> ReadableSpan:
        """Return the span with what its queries come to, which is worked out here, away from the request's path."""
        own = self.span._attributes
        most, longest = getattr(own, "maxlen", None), getattr(own, "max_value_len", None)
        attributes = BoundedAttributes(
            most, {**(own or {}), **database_attributes(self.kept, self.repeats)}, False, longest
        )
        attributes.dropped += self.span.dropped_attributes
        made = copy.copy(self.span)
        made._attributes = attributes
        return made


def environ_facts(environ: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Return the values of `ENVIRON_KEYS`."""
    get = environ.get
    return (
        get("wsgi.url_scheme"),
        get("SERVER_NAME"),
        get("SERVER_PORT"),
        get("SERVER_PROTOCOL"),
        get("HTTP_HOST"),
        get("REQUEST_METHOD"),
        get("SCRIPT_NAME"),
        get("PATH_INFO"),
        get("REMOTE_ADDR"),
        get("HTTP_USER_AGENT"),
    )


def server_attributes(server: ServerFacts, told: Told) -> dict[str, AttributeValue]:
    """Return all attributes of a server span; of its queries, what `told` returns."""
    few = server.environ[:FEW]
    script_name, path, address, agent = server.environ[FEW:]
    return {
        **bounded(_known_constant, few[HOST])(
            server.method, server.rule, server.status, server.error_type and str(server.error_type), few
        ),
        "url.path": url_path(f"{script_name or ''}{path or ''}"),
        **client_attributes(address, agent),
        **server.own,
        **decision_attributes(server.decision),
        **told(server.kept),
    }


def constant_attributes(
    method: str, rule: str | None, status: int, error_type: str | None, environ: tuple[str | None, ...]
) -> Mapping[str, AttributeValue]:
    """Return the attributes of a server span that are few in number; `environ` are the first `FEW` values."""
    attributes = request_attributes(dict(zip(ENVIRON_KEYS, environ, strict=False)), method, rule)
    del attributes["url.path"]
    if status:
        attributes[instruments.HTTP_RESPONSE_STATUS_CODE] = status
    if error_type is not None:
        attributes[instruments.ERROR_TYPE] = error_type
    return attributes


def bounded(cached: Any, chosen: str | None) -> Any:
    """Return a function with an `lru_cache`, or without it, where a client has `chosen` a text too long to be kept."""
    return cached if chosen is None or len(chosen) <= _LONGEST_KEPT else cached.__wrapped__


_LONGEST_KEPT: Final = 500
HOST: Final = ENVIRON_KEYS.index("HTTP_HOST")
_known_constant: Final = functools.lru_cache(maxsize=2048)(constant_attributes)


def client_attributes(address: str | None, agent: str | None) -> dict[str, AttributeValue]:
    """Return what is known of who has sent the request."""
    values = {"client.address": address, "user_agent.original": agent}
    return {key: value for key, value in values.items() if value}


def database_attributes(row: Row | None, repeats: int) -> dict[str, AttributeValue]:
    """Return what the server span says of the request's queries, judged by `repeats`; nothing where there are none."""
    known = query_figures(row)
    if row is None or not known:
        return {}
    from telemetry import fanout  # for exporters alone

    summary = fanout.summary(KeptRequest._make(row), repeats)
    return {
        **known,
        instruments.REQUEST_STATEMENTS: summary.statements,
        instruments.REQUEST_VERDICT: summary.verdict,
    }


def query_figures(row: Row | None) -> dict[str, AttributeValue]:
    """Return what can be said of the request's queries without understanding them; nothing where there are none."""
    if row is None or not (row[QUERY_COUNT] or row[WRITES]):
        return {}
    kept = KeptRequest._make(row)
    told: dict[str, AttributeValue] = {
        instruments.REQUEST_OPERATIONS: kept.query_count,
        instruments.REQUEST_DB_DURATION: kept.db_time_ns / 1e9,
    }
    if kept.commit_count:
        told[instruments.REQUEST_COMMIT_DURATION] = kept.commit_ns / 1e9
    return told


def source_attributes(code: CodeType | str | None, position: int) -> dict[str, AttributeValue]:
    """Return the line of the app's code that a query comes from, by the conventions for source code."""
    line = line_of(code, position)
    if line is None:
        return {}
    named: dict[str, AttributeValue] = {instruments.CODE_FILE_PATH: line.file, instruments.CODE_LINE_NUMBER: line.line}
    return named | ({instruments.CODE_FUNCTION_NAME: line.function} if line.function else {})


def decision_attributes(decision: Decision | None) -> dict[str, AttributeValue]:
    """Return the attributes that let a backend weigh the requests that it gets."""
    if decision is None:
        return {}
    return {instruments.EXPORT_REASON: decision.reason, instruments.EXPORT_SHARE: decision.share}


def request_attributes(environ: Mapping[str, Any], method: str, rule: str | None) -> dict[str, AttributeValue]:
    """Return the attributes a server span starts with, by the stable HTTP conventions; the query string is not kept."""
    attributes: dict[str, AttributeValue] = {
        instruments.HTTP_REQUEST_METHOD: method,
        "url.scheme": str(environ.get("wsgi.url_scheme") or "http"),
        "url.path": url_path(request_path(environ)),
    }
    if rule is not None:
        attributes[instruments.HTTP_ROUTE] = rule
    original = str(environ.get("REQUEST_METHOD") or "")
    if original != method:
        attributes["http.request.method_original"] = original
    attributes |= client_attributes(*(str(environ.get(key) or "") for key in ("REMOTE_ADDR", "HTTP_USER_AGENT")))
    address, port = _server(environ)
    if address:
        attributes["server.address"] = address
    if port.isdecimal() and len(port) <= _PORT_DIGITS:
        attributes["server.port"] = int(port)
    protocol = str(environ.get("SERVER_PROTOCOL") or "").partition("/")[2]
    if protocol:
        attributes["network.protocol.version"] = protocol
    return attributes


def request_path(environ: Mapping[str, Any]) -> str:
    """Return the path of the URL as WSGI has it, with the mount point of the app and without the query string."""
    mount, path = environ.get("SCRIPT_NAME"), environ.get("PATH_INFO") or ""
    return f"{mount}{path}" if mount else str(path)


def _server(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return address and port that the client has asked for, which is what the `Host` header says; else the server's own."""
    host = str(environ.get("HTTP_HOST") or "")
    if not host:
        return str(environ.get("SERVER_NAME") or ""), str(environ.get("SERVER_PORT") or "")
    address, colon, port = host.rpartition(":")
    if not (colon and port.isdecimal()):
        address, port = host, str(environ.get("SERVER_PORT") or "")
    return address.strip("[]"), port


def span_name(method: str, rule: str | None) -> str:
    """Return `METHOD rule`, or the method alone where no rule matched (HTTP conventions, "Name")."""
    shown = "HTTP" if method == instruments.OTHER else method
    return shown if rule is None else f"{shown} {rule}"


def query_attributes(operation: Mapping[str, str], sql: str) -> dict[str, AttributeValue]:
    """Return the attributes a query span starts with, by the stable database conventions; no parameter is kept."""
    return {**operation, instruments.DB_QUERY_TEXT: sql}


def query_span_name(operation: Mapping[str, str]) -> str:
    """Return `OPERATION collection`, as far as they are known (database conventions, "Name")."""
    parts = (instruments.DB_OPERATION_NAME, instruments.DB_COLLECTION_NAME)
    return " ".join(operation[part] for part in parts if part in operation) or "sqlite"
