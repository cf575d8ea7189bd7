"""Ended requests in the wire format of OTLP, written straight from their records.

Making protobuf objects of a span costs twenty times more than these bytes do. What is the same from request to request is
encoded once and kept. `opentelemetry.proto` is the oracle: `test_wire.py` parses what is written here and compares it with what
the standard exporter makes of the same requests.
"""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from telemetry import instruments
from telemetry.exporters.ended_request import (
    FEW,
    HOST,
    Code,
    EndedRequest,
    ServerFacts,
    Source,
    bounded,
    client_attributes,
    constant_attributes,
    database_attributes,
    decision_attributes,
    query_span_name,
    source_attributes,
    span_name,
)
from telemetry.failure import Failure, failure_in
from telemetry.memo import Memo
from telemetry.query import FLAGS, MADE
from telemetry.urls import url_path

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from telemetry.recent import Row
    from telemetry.tail import Decision

_BREATH_SPANS = 64
"""So many spans are encoded before other threads may run: a request should not wait for the whole batch."""
_BREATH_S = 0.0005
"""So long, at least: without a pause this thread has the interpreter's lock back before another one is awake, which then
waits for 5 ms, again for each query that it makes."""

_INTERNAL, _SERVER, _CLIENT = b"\x30\x01", b"\x30\x02", b"\x30\x03"  # kind (6)
_CODE_ERROR = b"\x18\x02"
_UNSET, _ERROR = b"\x7a\x00", b"\x7a\x02" + _CODE_ERROR  # status (15): empty, or code (3) = ERROR
# Span: trace_id (1), span_id (2), parent_span_id (4), start_time_unix_nano (7), end_time_unix_nano (8).
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_IDS_AND_TIMES = 18 + 10 + 10 + 9 + 9  # bytes
_pack_times = struct.Struct("<cQcQ").pack
_START, _END = b"\x39", b"\x41"
_pack_double = struct.Struct("<d").pack


_ONE_BYTE = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Return a not negative number as protobuf writes it."""
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field: a string, bytes or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def text(value: str) -> bytes:
    """Return a string as protobuf takes it: what is no Unicode, such as a lone surrogate, is replaced."""
    return value.encode("utf-8", "replace")


def any_value(value: object) -> bytes:
    """Return an `AnyValue` of a string, boolean, number, bytes, or a sequence of these."""
    if isinstance(value, bool):
        return b"\x10" + varint(value)
    if isinstance(value, str):
        return field(1, text(value))
    if isinstance(value, int):
        return b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    if isinstance(value, bytes):
        return field(7, value)
    if isinstance(value, Sequence):
        return field(5, b"".join(field(1, any_value(each)) for each in value))
    if value is None:
        return b""
    return field(1, text(str(value)))


def attributes(number: int, values: Mapping[str, Any]) -> bytes:
    """Return the repeated `KeyValue` field `number`."""
    return b"".join(field(number, field(1, text(key)) + field(2, any_value(value))) for key, value in values.items())


def encode(items: Sequence[EndedRequest]) -> bytes:
    """Return an `ExportTraceServiceRequest` with the spans of `items`, whose limits must have room; nothing without any."""
    by_source: dict[int, tuple[Source, list[bytes]]] = {}  # by identity: hashing a resource means dumping it
    since_breath = 0
    for item in items:
        _write(item, by_source.setdefault(id(item.source), (item.source, []))[1])
        since_breath += item.span_count
        if since_breath >= _BREATH_SPANS:
            since_breath = 0
            time.sleep(_BREATH_S)
    return b"".join(_resource_spans(source, b"".join(written)) for source, written in by_source.values() if written)


def _resource_spans(source: Source, spans: bytes) -> bytes:
    scope_spans = field(1, _scope(source.scope)) + spans + field(3, text(source.scope.schema_url or ""))
    schema_url = field(3, text(source.resource.schema_url)) if source.resource.schema_url else b""
    return field(1, field(1, _resource(source.resource)) + field(2, scope_spans) + schema_url)


@functools.lru_cache(maxsize=8)
def _resource(resource: Resource) -> bytes:
    return attributes(1, resource.attributes)


@functools.lru_cache(maxsize=8)
def _scope(scope: InstrumentationScope) -> bytes:
    return field(1, text(scope.name)) + (field(2, text(scope.version)) if scope.version else b"")


def _write(item: EndedRequest, out: list[bytes]) -> None:
    ids = item.ids
    trace_id, span_id = ids.trace_id.to_bytes(16), ids.span_id.to_bytes(8)
    trace_state = _trace_state(ids)
    server = item.server
    if server is not None:
        out += _server_span(item, server, trace_id, span_id, trace_state)
    if not item.queries:
        return
    offset_ns, source = item.start_unix_ns - item.start_ns, item.source
    before, behind = _TRACE_ID + trace_id + _SPAN_ID, _PARENT_ID + span_id
    queries, query_ids = item.queries, item.query_ids()
    if len(query_ids) < len(queries):
        queries = [query for query in queries if not query[FLAGS] & MADE]
    for (sql, start_ns, duration_ns, error_type, _, _, _, code, position, _, _), query_id in zip(
        queries, query_ids, strict=True
    ):
        head, tail = _statement(source, sql, code, position, trace_state)
        start = start_ns + offset_ns
        end = start + duration_ns
        if error_type is not None:
            tail = (
                tail[: -len(_UNSET)] + _attribute(instruments.ERROR_TYPE, str(error_type)) + _outcome(error_type, end)
            )
            head = _head(tail)
        out += (head, before, query_id, behind, _pack_times(_START, start, _END, end), tail)


def _server_span(
    item: EndedRequest, server: ServerFacts, trace_id: bytes, span_id: bytes, trace_state: bytes
) -> tuple[bytes, bytes]:
    start, parent, environ = item.start_unix_ns, server.parent, server.environ
    end, error_type = start + server.duration_ns, server.error_type and str(server.error_type)
    script_name, path, address, agent = environ[FEW:]
    content = b"".join(
        (
            _TRACE_ID,
            trace_id,
            _SPAN_ID,
            span_id,
            b"" if parent is None else _PARENT_ID + parent.span_id.to_bytes(8),
            _pack_times(_START, start, _END, end),
            trace_state,
            _SERVER if parent is None or parent.is_remote else _INTERNAL,
            bounded(_server_constant, environ[HOST])(
                server.method, server.rule, server.status, error_type, environ[:FEW], server.decision
            ),
            _outcome(server.error_type, end),
            bounded(_path, path)(script_name, path),
            bounded(_client, agent)(address, agent),
            attributes(9, server.own) if server.own else b"",
            _database(server.kept, item.source.repeats),
            b"\x85\x01\x00\x03\x00\x00" if parent is not None and parent.is_remote else _LOCAL,
        )
    )
    return b"\x12" + varint(len(content)), content


_LOCAL = b"\x85\x01\x00\x01\x00\x00"  # flags (16): whether the parent is remote is known, and it is not


def _outcome(error_type: str | None, end_unix_ns: int) -> bytes:
    """Return the status (15) of a span, before it the event (11) of an exception of which more than its type is known."""
    failure = failure_in(error_type)
    if failure is None:
        return _UNSET if error_type is None else _ERROR
    known = _failures.made.get(failure.said)
    before, behind = known[0] if known is not None else _failed(failure)
    return before + end_unix_ns.to_bytes(8, "little") + behind


def _failed(failure: Failure) -> tuple[bytes, bytes]:
    """Return what stands before and behind the time of an exception: event, and status of the span."""
    rest = b"\x12\x09exception" + attributes(3, failure.attributes)  # name (2) and attributes (3)
    before = b"\x5a" + varint(9 + len(rest)) + b"\x09"  # time_unix_nano (1)
    description = b"" if failure.description is None else field(2, text(failure.description))
    made = before, rest + field(15, description + _CODE_ERROR)  # message (2) and code (3)
    return _failures.keep(failure.said, made, None, len(rest))


_failures: Memo[tuple[bytes, bytes]] = Memo()


@functools.lru_cache(maxsize=2048)
def _server_constant(
    method: str,
    rule: str | None,
    status: int,
    error_type: str | None,
    environ: tuple[str | None, ...],
    decision: Decision | None,
) -> bytes:
    """Return name and the attributes that are few in number."""
    values = {**constant_attributes(method, rule, status, error_type, environ), **decision_attributes(decision)}
    name = field(5, text(span_name(method, rule)))
    return name + attributes(9, values)


@functools.lru_cache(maxsize=512)
def _client(address: str | None, agent: str | None) -> bytes:
    return attributes(9, client_attributes(address, agent))


@functools.lru_cache(maxsize=512)
def _path(script_name: str | None, path: str | None) -> bytes:
    return attributes(9, {"url.path": url_path(f"{script_name or ''}{path or ''}")})


def _database(row: Row | None, repeats: int) -> bytes:
    """Return what the queries of a request come to, of which the times alone differ between most."""
    return b"".join(
        [
            _double_key(key) + _pack_double(value) if isinstance(value, float) else _attribute(key, value)
            for key, value in database_attributes(row, repeats).items()
        ]
    )


@functools.lru_cache(maxsize=1024)
def _attribute(key: str, value: object) -> bytes:
    return attributes(9, {key: value})


@functools.lru_cache(maxsize=8)
def _double_key(key: str) -> bytes:
    """Return what stands before the eight bytes of an attribute that is a double."""
    return attributes(9, {key: 0.0})[:-8]


_QUERY_TEXT = field(1, text(instruments.DB_QUERY_TEXT))


def _statement(source: Source, sql: str, code: Code, position: int, trace_state: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and behind the ids and times of a query's span, the status at the very end."""
    key = (sql, id(code), position)
    known = None if trace_state else source.written.made.get(key)
    if known is not None:
        return known[0]
    query_text = field(9, _QUERY_TEXT + field(2, field(1, text(sql))))
    place = _place(source, source.operation(sql), code, position)
    tail = b"".join((trace_state, place, query_text, _LOCAL, _UNSET))
    made = _head(tail), tail
    return made if trace_state else source.written.keep(key, made, code, len(sql))


def _head(tail: bytes) -> bytes:
    """Return what stands before the ids and times of a span that this is behind."""
    return b"\x12" + varint(_IDS_AND_TIMES + len(tail))


def _place(source: Source, values: Mapping[str, str], code: Code, position: int) -> bytes:
    """Return name, kind, and the attributes of a query's span but for its text, which may be another one each time."""
    key = (tuple(values.items()), id(code), position)
    known = source.places.made.get(key)
    if known is not None:
        return known[0]
    name = field(5, text(query_span_name(values)))
    made = name + _CLIENT + attributes(9, {**values, **source_attributes(code, position)})
    return source.places.keep(key, made, code, len(made))


def _trace_state(ids: SpanContext) -> bytes:
    if not ids.trace_state:
        return b""
    return field(3, text(",".join(f"{key}={value}" for key, value in ids.trace_state.items())))
