"""The bytes that are written for a request: protobuf's own classes and the standard encoder are the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.span import TraceState

from telemetry import memo
from telemetry.exporters import wire
from telemetry.exporters.ended_request import ENVIRON_KEYS, EndedRequest, ServerFacts, Source, has_room, is_plain
from telemetry.exporters.processor import as_spans
from telemetry.failure import Failure
from telemetry.query import MADE, MANY, Query
from tests.unit.telemetry.exporters.queries import query


class Counting(IdGenerator):
    """Gives the same ids again after `restart`."""

    def __init__(self) -> None:
        self.last = 0

    def restart(self) -> None:
        self.last = 0

    def generate_span_id(self) -> int:
        self.last += 1
        return self.last

    def generate_trace_id(self) -> int:
        return self.generate_span_id()


def operation(sql: str) -> dict[str, str]:
    found = {"db.system.name": "sqlite"}
    if sql[:1].isalpha():
        found |= {"db.operation.name": sql[:3].upper(), "db.collection.name": sql[3:6]}
    return found


def source(**changes: Any) -> Source:
    values: dict[str, Any] = {
        "resource": Resource({"service.name": "shop", "list": (1, 2), "share": 0.5, "on": True}, "https://schema/1"),
        "scope": InstrumentationScope("telemetry", "", "https://schema/2"),
        "limits": SpanLimits(),
        "id_generator": Counting(),
        "operation": operation,
    }
    return Source(**values | changes)


SOURCE = source()
words = st.text(max_size=30) | st.sampled_from(["é\U0001f3ac", "x" * 200])
plain_values = words | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1)
numbers_64 = st.integers(1, 2**64 - 1)
times = st.integers(0, 2**62)
unspeakable = type("Unspeakable", (ValueError,), {"__str__": None})
error_types = (
    st.none()
    | st.sampled_from(["500", "KeyError"])
    | st.builds(lambda kind, said: Failure.of(kind(said)), st.sampled_from([KeyError, ValueError, unspeakable]), words)
)
trace_states = st.none() | st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True),
    st.from_regex(r"[!-+\--<>-~]{1,9}", fullmatch=True),
    max_size=3,
).map(lambda entries: TraceState(list(entries.items())))


@st.composite
def span_contexts(draw: st.DrawFn, remote: bool | None = None) -> SpanContext:
    is_remote = draw(st.booleans()) if remote is None else remote
    return SpanContext(draw(st.integers(1, 2**128 - 1)), draw(numbers_64), is_remote, TraceFlags(1), draw(trace_states))


@st.composite
def servers(draw: st.DrawFn) -> ServerFacts:
    environ = tuple(
        draw(st.none() | values)
        for values in (
            *(st.sampled_from(["http", "https"]), words, st.sampled_from(["80", "65535", "", "x"])),
            *(st.sampled_from(["HTTP/1.1", "HTTP/2", ""]), words | st.sampled_from(["[::1]:80", "a:b"])),
            *(st.sampled_from(["GET", "gEt"]), words, words, words, words),
        )
    )
    return ServerFacts(
        parent=draw(st.none() | span_contexts()),
        method=draw(st.sampled_from(["GET", "POST", "_OTHER"])),
        rule=draw(st.none() | words),
        status=draw(st.sampled_from([0, 200, 404, 500, 503])),
        error_type=draw(error_types),
        duration_ns=draw(times),
        environ=environ,
        own=draw(st.dictionaries(words.filter(lambda key: is_plain(key, 1)), plain_values, max_size=4)),
    )


sites = st.sampled_from([(None, 0), (operation.__code__, 0), (source.__code__, 2), ("tag.html", 12)])


@st.composite
def any_queries(draw: st.DrawFn) -> Query:
    start, took = draw(times), draw(times)
    flags = draw(st.sampled_from([0, MADE, MANY, MANY | MADE]))
    return (draw(words), start, took, draw(error_types), flags, -1, 0, *draw(sites), *draw(sites))


@st.composite
def ended(draw: st.DrawFn) -> EndedRequest:
    start = draw(times)
    return EndedRequest(
        SOURCE,
        draw(span_contexts(remote=False)),
        start_ns=start,
        start_unix_ns=start + draw(times),
        server=draw(st.none() | servers()),
        queries=draw(st.lists(any_queries(), max_size=5)),
    )


def normal(message: ExportTraceServiceRequest) -> Any:
    """Return what `message` says, whatever the order of attributes, and each scope's spans together."""
    said = []
    for resource in message.resource_spans:
        spans = []
        for scope in resource.scope_spans:
            for span in scope.spans:
                for said_of in (span, *span.events):
                    said_of.attributes.sort(key=lambda attribute: attribute.key)
                spans.append((scope.scope.SerializeToString(), scope.schema_url, span.SerializeToString()))
        said.append((resource.resource.SerializeToString(), resource.schema_url, spans))
    return said


@given(st.lists(ended(), min_size=1, max_size=4))
def test_what_is_written_is_what_the_standard_exporter_writes_of_the_same_spans(items: list[EndedRequest]) -> None:
    generator = SOURCE.id_generator
    assert isinstance(generator, Counting)
    generator.restart()
    written = ExportTraceServiceRequest.FromString(wire.encode(items))
    generator.restart()
    standard = encode_spans(as_spans(items))
    assert normal(written) == normal(standard)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=6,
    )
)
def test_values_are_written_as_protobuf_writes_them(value: Any) -> None:
    from opentelemetry.exporter.otlp.proto.common._internal import _encode_value

    try:
        expected = _encode_value(value)
    except ValueError:
        return
    assert AnyValue.FromString(wire.any_value(value)) == expected


def test_of_ever_new_statements_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "MAX_NUMBER", 4)
    own = source()
    ids = SpanContext(1, 2, False, TraceFlags(1))
    names = [f"ABC{number}" for number in range(10)]
    request = EndedRequest(own, ids, 0, 0, None, [query(name) for name in names])
    body = wire.encode([request])
    assert len(request.spans()) == 10
    assert all(0 < len(kept.made) <= 4 for kept in (own.written, own.places, own.facts))
    spans = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert [span.name for span in spans] == [f"ABC {number}" for number in range(10)]


def test_of_long_statements_only_so_many_are_kept() -> None:
    own = source()
    for number in range(20):
        sql = f"SELECT {number}, '{'x' * 400_000}'"
        request = EndedRequest(own, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, [query(sql)])
        assert sql.encode() in wire.encode([request])
        assert (request.spans()[0].attributes or {})["db.query.text"] == sql
    for kept in (own.written, own.facts):
        assert sum(len(str(text)) for text, _, _ in kept.made) <= memo.MAX_CHARACTERS


def test_a_lone_surrogate_is_replaced_instead_of_losing_the_batch() -> None:
    item = EndedRequest(SOURCE, SpanContext(1, 1, False), 0, 0, None, [query("SELECT '\ud800'")])
    (resource,) = ExportTraceServiceRequest.FromString(wire.encode([item])).resource_spans
    (span,) = resource.scope_spans[0].spans
    assert {"db.query.text": "SELECT '?'"}.items() <= {
        attribute.key: attribute.value.string_value for attribute in span.attributes
    }.items()


def test_what_clients_choose_is_kept_only_while_it_is_short() -> None:
    def ask(text: str) -> None:
        chosen = {"HTTP_HOST": text, "PATH_INFO": text, "HTTP_USER_AGENT": text}
        environ = tuple(chosen.get(key) for key in ENVIRON_KEYS)
        facts = ServerFacts(None, "GET", "/", 200, None, 1, environ, None)
        wire.encode([EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, facts, ())])

    caches = (wire._server_constant, wire._path, wire._client)
    before = [cache.cache_info().currsize for cache in caches]
    ask("x" * 501)
    assert [cache.cache_info().currsize for cache in caches] == before
    ask("x" * 500)
    assert all(cache.cache_info().currsize > size for cache, size in zip(caches, before, strict=True))


def test_requests_of_two_sources_come_under_their_own_resources() -> None:
    other = source(resource=Resource({"service.name": "other"}))
    queries = [query("SELECT 1")]
    items = [EndedRequest(each, SpanContext(1, 1, False), 0, 0, None, queries) for each in (SOURCE, other, SOURCE)]
    found = ExportTraceServiceRequest.FromString(wire.encode(items)).resource_spans
    assert [len(resource.scope_spans[0].spans) for resource in found] == [2, 1]


def test_random_span_ids_are_distinct_and_valid() -> None:
    random = source(id_generator=RandomIdGenerator())
    item = EndedRequest(random, SpanContext(1, 1, False), 0, 0, None, [query("SELECT 1")] * 1000)
    (resource,) = ExportTraceServiceRequest.FromString(wire.encode([item])).resource_spans
    ids = {span.span_id for span in resource.scope_spans[0].spans}
    assert len(ids) == 1000
    assert {len(each) for each in ids} == {8}
    assert bytes(8) not in ids


@pytest.mark.parametrize("number", [1, 1000])
def test_a_request_that_is_sent_again_has_the_same_ids(number: int) -> None:
    random = source(id_generator=RandomIdGenerator())
    item = EndedRequest(random, SpanContext(1, 1, False), 0, 0, None, [query("SELECT 1")] * number)
    assert wire.encode([item]) == wire.encode([item])
    (resource,) = ExportTraceServiceRequest.FromString(wire.encode([item])).resource_spans
    assert [span.span_id for span in resource.scope_spans[0].spans] == [
        span.context.span_id.to_bytes(8) for span in item.spans() if span.context
    ]


def test_an_empty_batch_is_an_empty_message() -> None:
    assert wire.encode([]) == b""


@pytest.mark.parametrize(
    ("limits", "plain"),
    [
        (SpanLimits(), True),
        (SpanLimits(max_span_attribute_length=10), False),
        (SpanLimits(max_span_attributes=3), False),
        (SpanLimits(max_events=0), False),
        (SpanLimits(max_event_attributes=3), False),
        (SpanLimits(max_attribute_length=1000), False),
        (SpanLimits(max_events=1, max_event_attributes=4), True),
        (SpanLimits(max_span_attributes=SpanLimits.UNSET), True),
    ],
)
def test_limits_that_our_attributes_can_meet_are_left_to_the_sdk(limits: SpanLimits, plain: bool) -> None:
    assert has_room(limits) is plain
