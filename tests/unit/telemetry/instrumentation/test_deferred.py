"""Spans made behind the requests: while only an exporter of ours listens."""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, Response, abort
from flask.sessions import SecureCookieSessionInterface
from opentelemetry import trace
from opentelemetry.context import attach, detach, get_current
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBasedTraceIdRatio, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from werkzeug.middleware.proxy_fix import ProxyFix

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.exporters import processor
from telemetry.exporters.ended_request import MOST_OWN
from telemetry.exporters.processor import DeferredSpanProcessor
from telemetry.instrumentation.capture import EXTENSION
from telemetry.instrumentation.spans import DeferredSpan, Mode, Tracing
from telemetry.requests import MAX_PENDING_QUERIES

Instrumented = Callable[..., Flask]
TRACE, PARENT = 0xAF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


class Backend:
    """A provider whose spans end in memory, by way of our processor."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.processor = DeferredSpanProcessor(self.exporter)
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)

    def spans(self) -> list[ReadableSpan]:
        assert self.processor.force_flush()
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def named_count(self) -> Counter[str]:
        return Counter(span.name for span in self.spans())


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.provider.shutdown()


@pytest.fixture
def database() -> Iterator[Callable[[], sqlite3.Connection]]:
    """Return a function that opens a connection: after `instrument`, so that its queries are seen."""
    opened: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        opened.append(sqlite3.connect(":memory:", check_same_thread=False))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


Database = Callable[[], sqlite3.Connection]


def app_of(view: Callable[..., Any], rule: str = "/") -> Flask:
    app = Flask("shop")
    app.add_url_rule(rule, "view", view)
    return app


def test_a_request_nobody_looks_at_is_exported_whole(
    instrumented: Instrumented, backend: Backend, database: Database
) -> None:
    def view(name: str) -> str:
        connection = database()
        connection.execute("CREATE TABLE t (a)")
        connection.cursor().executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        return name

    client = instrumented(app_of(view, "/<name>"), tracer_provider=backend.provider).test_client()
    assert client.get("/a?q=secret", headers={"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01"}).status_code == 200
    server, create, insert = (backend.named(name) for name in ("GET /<name>", "CREATE", "INSERT t"))
    assert server.kind is SpanKind.SERVER
    assert create.kind is SpanKind.CLIENT
    assert server.parent is not None
    assert (server.parent.span_id, server.parent.is_remote) == (PARENT, True)
    assert {span.context.trace_id for span in backend.spans() if span.context} == {TRACE}
    assert create.parent == insert.parent == server.context
    assert server.attributes is not None
    assert (server.attributes["http.route"], server.attributes["url.path"]) == ("/<name>", "/a")
    assert "secret" not in str(dict(server.attributes))
    assert insert.attributes is not None
    assert insert.attributes["db.query.text"] == "INSERT INTO t VALUES (?)"
    times = [server.start_time, create.start_time, create.end_time, insert.start_time, insert.end_time, server.end_time]
    assert times == sorted(times, key=int)


def test_an_answer_over_500_is_an_error_and_an_exception_is_an_event(
    instrumented: Instrumented, backend: Backend
) -> None:
    app = app_of(lambda: abort(503))
    app.add_url_rule("/raises", "raises", lambda: {}["missing"])
    client = instrumented(app, tracer_provider=backend.provider).test_client()
    assert (client.get("/").status_code, client.get("/raises").status_code) == (503, 500)
    answered, raised = backend.named("GET /"), backend.named("GET /raises")
    assert answered.status.status_code is raised.status.status_code is StatusCode.ERROR
    assert answered.events == ()
    assert [event.attributes["exception.type"] for event in raised.events if event.attributes] == ["KeyError"]


def test_a_failing_query_has_its_exception_and_its_parent(
    instrumented: Instrumented, backend: Backend, database: Database
) -> None:
    def view() -> str:
        with pytest.raises(sqlite3.OperationalError):
            database().execute("SELECT * FROM missing")
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    query = backend.named("SELECT missing")
    assert [event.name for event in query.events] == ["exception"]
    assert query.parent == backend.named("GET /").context
    assert query.status.description == "OperationalError: no such table: missing"
    assert (query.attributes or {})["error.type"] == "sqlite3.OperationalError"
    assert backend.named_count() == {"GET /": 1, "SELECT missing": 1}


def test_queries_belong_to_the_span_that_they_are_made_in(
    instrumented: Instrumented, backend: Backend, database: Database
) -> None:
    elsewhere = NonRecordingSpan(SpanContext(TRACE, PARENT, True, TraceFlags(1)))

    def view() -> str:
        connection = database()
        connection.execute("SELECT 1")
        with backend.provider.get_tracer("app").start_as_current_span("work"):
            connection.execute("SELECT 2")
        token = attach(trace.set_span_in_context(elsewhere))
        connection.execute("SELECT 3")
        detach(token)
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    parents = {
        span.attributes["db.query.text"]: span.parent.span_id
        for span in backend.spans()
        if span.name == "SELECT" and span.attributes and span.parent
    }
    server, work = backend.named("GET /").context, backend.named("work").context
    assert server is not None
    assert work is not None
    assert parents == {"SELECT 1": server.span_id, "SELECT 2": work.span_id, "SELECT 3": PARENT}


def test_a_request_of_many_queries_is_exported_to_the_last_one(
    instrumented: Instrumented, backend: Backend, database: Database, metrics: PerformanceMetrics
) -> None:
    number = 2 * MAX_PENDING_QUERIES + 17

    def view() -> str:
        cursor = database().cursor()
        for _ in range(number):
            cursor.execute("SELECT 1")
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    assert backend.named_count() == {"GET /": 1, "SELECT": number}
    server = backend.named("GET /").context
    assert all(span.parent == server for span in backend.spans() if span.name == "SELECT")
    assert metrics.db_queries_per_request[:] == [number]


class CountingTracer(Tracer):
    """The SDK's, counting the spans that it makes."""

    made = 0

    def start_span(self, *args: Any, **kwargs: Any) -> Any:
        CountingTracer.made += 1
        return super().start_span(*args, **kwargs)


def test_queries_in_spans_of_the_app_are_exported_to_the_last_one_without_the_sdk(
    instrumented: Instrumented, backend: Backend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = MAX_PENDING_QUERIES + 17

    def view() -> str:
        connection, tracer = database(), backend.provider.get_tracer("app")
        with tracer.start_as_current_span("outer"):
            for _ in range(number):
                connection.execute("SELECT 1")
            with tracer.start_as_current_span("inner"):
                work = contextvars.copy_context().run
                thread = threading.Thread(target=work, args=(connection.execute, "SELECT 2"))
                thread.start()
                thread.join()
        connection.execute("SELECT 3")
        return "ok"

    client = instrumented(app_of(view), tracer_provider=backend.provider).test_client()
    capture = client.application.extensions[EXTENSION].middleware.capture
    monkeypatch.setattr(CountingTracer, "made", 0)
    capture.tracing.tracer.__class__ = CountingTracer
    client.get("/")
    assert CountingTracer.made == 0
    queries = [span for span in backend.spans() if span.name == "SELECT"]
    server, outer, inner = (backend.named(name).context for name in ("GET /", "outer", "inner"))
    texts = [(span.attributes or {})["db.query.text"] for span in queries]
    assert Counter(texts) == {"SELECT 1": number, "SELECT 2": 1, "SELECT 3": 1}
    parents = {"SELECT 1": outer, "SELECT 2": inner, "SELECT 3": server}
    assert all(span.parent == parents[str(text)] for span, text in zip(queries, texts, strict=True))


def test_queries_in_spans_of_the_app_share_what_becomes_of_their_request_and_of_their_span(
    instrumented: Instrumented, backend: Backend, database: Database, metrics: PerformanceMetrics
) -> None:
    unsampled = NonRecordingSpan(SpanContext(TRACE, PARENT, False, TraceFlags(0)))

    def view(name: str) -> str:
        connection = database()
        with backend.provider.get_tracer("app").start_as_current_span("work"):
            connection.execute(f"SELECT '{name}'")
        token = attach(trace.set_span_in_context(unsampled))
        connection.execute("SELECT 'unsampled'")
        detach(token)
        if name == "failing":
            abort(500)
        return "ok"

    settings = TelemetrySettings(export="notable+1/1000000000")
    app = instrumented(app_of(view, "/<name>"), tracer_provider=backend.provider, settings=settings)
    for name in ("dull", "failing"):
        app.test_client().get(f"/{name}")
    assert {(span.attributes or {}).get("db.query.text") for span in backend.spans()} == {None, "SELECT 'failing'"}
    assert metrics.db_queries_per_request[:] == [2, 2]


class OddSpan(NonRecordingSpan):
    """A span of somebody's own class."""

    def get_span_context(self) -> SpanContext:
        raise RuntimeError("no ids today")


@pytest.mark.parametrize("export", ["all", "notable+1/1"])
@pytest.mark.parametrize(
    "odd",
    [
        OddSpan(SpanContext(1, 2, False)),
        NonRecordingSpan(None),  # type: ignore[arg-type]  # as is meant
        NonRecordingSpan(SpanContext(5, 6, False, 1)),  # type: ignore[arg-type]
    ],
)
def test_an_odd_span_of_the_app_costs_neither_the_query_nor_other_spans(
    odd: NonRecordingSpan, export: str, instrumented: Instrumented, backend: Backend, database: Database
) -> None:
    def view() -> str:
        connection, tracer = database(), backend.provider.get_tracer("app")
        for current in (odd, tracer.start_span("work")):
            token = attach(trace.set_span_in_context(current))
            connection.execute("SELECT 'inside'")
            detach(token)
            current.end()
        connection.execute("SELECT 'direct'")
        return "ok"

    settings = TelemetrySettings(export=export)
    app = instrumented(app_of(view), tracer_provider=backend.provider, settings=settings)
    assert app.test_client().get("/").text == "ok"
    names = backend.named_count()
    assert (names["GET /"], names["work"]) == (1, 1)
    assert names["SELECT"] >= 2


def test_the_sql_of_a_query_in_a_span_of_the_app_counts_once_in_the_queue(
    instrumented: Instrumented, backend: Backend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "MAX_QUEUE_CHARACTERS", 15_000)
    monkeypatch.setattr(backend.processor, "_max_queue_spans", 15)

    def view() -> str:
        with backend.provider.get_tracer("app").start_as_current_span("work"):
            for number in range(10):
                database().execute(f"SELECT {number}, '{'x' * 1000}'")
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    assert backend.named_count() == {"GET /": 1, "work": 1, "SELECT": 10}


class SlowIds(RandomIdGenerator):
    """A generator that lets other threads ask meanwhile."""

    def generate_trace_id(self) -> int:
        time.sleep(0.02)
        return super().generate_trace_id()


def test_threads_that_ask_for_the_ids_at_once_get_the_same(instrumented: Instrumented, backend: Backend) -> None:
    backend.provider.id_generator = SlowIds()

    def view() -> str:
        span: Any = trace.get_current_span()
        with ThreadPoolExecutor(4) as threads:
            asked = [threads.submit(span.chosen_ids) for _ in range(4)]
        return str(len({each.result()[0].trace_id for each in asked}))

    assert instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/").text == "1"


def test_a_request_that_ends_while_its_queries_are_recorded_is_one_trace(
    instrumented: Instrumented, backend: Backend, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    spills, threads = threading.Event(), []

    def ask() -> None:
        with backend.provider.get_tracer("app").start_as_current_span("work"):
            cursor = database().cursor()
            for _ in range(MAX_PENDING_QUERIES):
                cursor.execute("SELECT 1")

    def view() -> str:
        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(ask,)))
        threads[0].start()
        assert spills.wait(10)
        return "ok"

    settings = TelemetrySettings(server_timing=False)
    app = instrumented(app_of(view), tracer_provider=backend.provider, settings=settings)
    capture = app.extensions[EXTENSION].middleware.capture
    spill = capture.spill

    def slow(*args: Any) -> None:
        spills.set()
        time.sleep(0.2)
        spill(*args)

    monkeypatch.setattr(capture, "spill", slow)
    app.test_client().get("/")
    threads[0].join()
    assert backend.named_count() == {"GET /": 1, "work": 1, "SELECT": MAX_PENDING_QUERIES}
    assert len({span.context.trace_id for span in backend.spans() if span.context}) == 1


@pytest.mark.parametrize("limits", [SpanLimits(max_span_attributes=6), SpanLimits(max_span_attribute_length=3)])
def test_limits_meet_the_attributes_of_the_app_as_where_the_sdk_makes_the_span(
    limits: SpanLimits, instrumented: Instrumented
) -> None:
    seen: list[dict[str, Any]] = []
    for is_ours in (True, False):
        exporter, provider = InMemorySpanExporter(), TracerProvider(span_limits=limits, shutdown_on_exit=False)
        provider.add_span_processor(DeferredSpanProcessor(exporter) if is_ours else SimpleSpanProcessor(exporter))

        def view() -> str:
            for key in "abcdefa":
                trace.get_current_span().set_attribute(key, "value")
            return "ok"

        instrumented(app_of(view), tracer_provider=provider).test_client().get("/")
        provider.shutdown()
        seen.append(dict(exporter.get_finished_spans()[-1].attributes or {}))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "limits",
    [
        SpanLimits(),
        SpanLimits(max_events=0),
        SpanLimits(max_event_attributes=2),
        SpanLimits(max_attribute_length=9),
        SpanLimits(max_events=1, max_span_attribute_length=5),
    ],
)
def test_limits_meet_exceptions_as_where_the_sdk_makes_the_spans(
    limits: SpanLimits, instrumented: Instrumented, database: Database
) -> None:
    def fail() -> None:
        database().execute("SELECT missing")

    seen: list[dict[str, Any]] = []
    for is_ours in (True, False):
        exporter, provider = InMemorySpanExporter(), TracerProvider(span_limits=limits, shutdown_on_exit=False)
        provider.add_span_processor(DeferredSpanProcessor(exporter) if is_ours else SimpleSpanProcessor(exporter))
        app = instrumented(app_of(fail), tracer_provider=provider)
        app.logger.disabled = True
        assert app.test_client().get("/").status_code == 500
        provider.shutdown()
        seen.append({span.name: said_of_failure(span) for span in exporter.get_finished_spans()})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2


def said_of_failure(span: ReadableSpan) -> tuple[object, ...]:
    """Return what a span says of its exception, with the last line alone of the stack, which names lines of ours."""
    events = [
        (
            event.name,
            event.dropped_attributes,
            {**attributes, "stack": attributes.get("exception.stacktrace", "")[-20:]},
        )
        for event in span.events
        for attributes in [dict(event.attributes or {})]
    ]
    for *_, attributes in events:
        attributes.pop("exception.stacktrace", None)
    return span.status.status_code, span.status.description, events, span.dropped_events


def test_attributes_that_are_none_are_the_concern_of_the_sdk(instrumented: Instrumented, backend: Backend) -> None:
    def view() -> str:
        span: Any = trace.get_current_span()
        span.set_attribute(["a"], 1)
        span.set_attributes(None)
        span.set_attributes({})
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    assert backend.named_count() == {"GET /": 1}


def test_sampling_thins_out_spans_and_never_figures(
    instrumented: Instrumented, database: Database, metrics: PerformanceMetrics
) -> None:
    backend = Backend(ParentBasedTraceIdRatio(0.1))

    def view() -> str:
        connection = database()
        for _ in range(3):
            connection.execute("SELECT 1")
        return "ok"

    client = instrumented(app_of(view), tracer_provider=backend.provider).test_client()
    for _ in range(100):
        client.get("/")
    counts = backend.named_count()
    assert 0 < counts["GET /"] < 50
    assert counts["SELECT"] == 3 * counts["GET /"]
    assert metrics.db_queries_per_request[:] == [3] * 100
    backend.provider.shutdown()


def test_what_is_left_out_of_the_figures_makes_no_span_even_if_it_is_looked_at(
    instrumented: Instrumented, backend: Backend
) -> None:
    seen = []
    app = app_of(lambda: seen.append(trace.get_current_span().get_span_context()) or "pong", "/ping")
    client = instrumented(app, tracer_provider=backend.provider).test_client()
    client.get("/ping")
    client.get("/static/none.css")
    assert backend.spans() == []
    assert [span_context.is_valid for span_context in seen] == [False]


def test_a_span_looked_at_before_the_routing_gets_its_route(instrumented: Instrumented, backend: Backend) -> None:
    app = app_of(lambda: "ok", "/<name>")
    inner = app.wsgi_app

    def looks(environ: Any, start_response: Any) -> Any:
        trace.get_current_span().set_attribute("looked", True)
        return inner(environ, start_response)

    app.wsgi_app = looks  # type: ignore[method-assign]
    instrumented(app, tracer_provider=backend.provider).test_client().get("/a")
    attributes = backend.named("GET /<name>").attributes
    assert attributes is not None
    assert (attributes["http.route"], attributes["looked"]) == ("/<name>", True)


def test_a_look_after_the_end_sees_the_ids_that_were_exported(instrumented: Instrumented, backend: Backend) -> None:
    kept: list[Any] = []

    def view() -> str:
        kept.append(get_current())
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    span = trace.get_current_span(kept[0])
    exported = backend.named("GET /").context
    assert exported is not None
    assert (span.get_span_context().span_id, span.is_recording()) == (exported.span_id, False)


def test_a_look_after_the_end_where_nobody_listens_sees_valid_ids_that_stay(instrumented: Instrumented) -> None:
    kept: list[Any] = []
    app = app_of(lambda: kept.append(trace.get_current_span()) or "ok")
    instrumented(app).test_client().get("/")
    (span,) = kept
    assert span.get_span_context().is_valid
    assert span.get_span_context() == span.get_span_context()
    span.set_attribute("too", "late")
    assert not span.is_recording()


def test_an_exception_where_nobody_listens_is_counted_and_not_written_down(
    instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    class TellingError(Exception):
        written = 0

        def __str__(self) -> str:
            TellingError.written += 1
            return "failed"

    def view() -> str:
        raise TellingError

    app = instrumented(app_of(view))
    app.log_exception = lambda _: None  # type: ignore[method-assign]  # Flask would write it into its log
    assert app.test_client().get("/").status_code == 500
    assert metrics.snapshot()["endpoints"]["GET /"]["error_count"] == 1
    assert metrics.recent.all()[0].error_type.endswith("TellingError")  # type: ignore[union-attr]
    assert TellingError.written == 0


def test_a_span_that_was_looked_at_where_nobody_listens_ends_with_the_exception(instrumented: Instrumented) -> None:
    kept: list[Any] = []

    def view() -> str:
        kept.append(trace.get_current_span())
        assert kept[0].name == "GET /"
        raise LookupError("no such film")

    assert instrumented(app_of(view)).test_client().get("/").status_code == 500
    (span,) = kept
    assert not span.is_recording()
    assert span.end_time is not None
    assert [event.name for event in span.events] == ["exception"]
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "LookupError")


@pytest.mark.parametrize(
    ("attributes", "is_made"),
    [
        ({"a": 1, "b": "x", "c": True, "d": 0.5, "e": -(2**63), "f": "\udc80"}, False),
        ({"http.route": "/mine"}, True),
        ({"error.type": "mine"}, True),
        ({"": 1}, True),
        ({"a": [1, 2]}, True),
        ({"a": None}, True),
        ({"a": 2**63}, True),
        ({str(number): number for number in range(MOST_OWN - 1)}, False),
        ({str(number): number for number in range(MOST_OWN)}, True),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_attributes_that_the_app_sets_are_exported_as_the_sdk_would(
    attributes: dict[str, Any], is_made: bool, at_once: bool, instrumented: Instrumented, backend: Backend
) -> None:
    made: list[bool] = []

    def view() -> str:
        span: Any = trace.get_current_span()
        assert span.is_recording()
        span.set_attribute("first", 1)
        span.set_attribute("first", "again")
        if at_once:
            span.set_attributes(attributes)
        else:
            for key, value in attributes.items():
                span.set_attribute(key, value)
        made.append(span.made is not None)
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    assert made == [is_made]
    by_sdk = TracerProvider(shutdown_on_exit=False).get_tracer("oracle").start_span("x")
    by_sdk.set_attributes({"first": "again", **attributes})
    wanted = dict(by_sdk.attributes or {})  # type: ignore[attr-defined]  # it is the SDK's
    found = backend.named("GET /").attributes or {}
    assert {key: found.get(key) for key in wanted} == wanted


def test_an_unsampled_span_records_nothing_and_is_not_made(instrumented: Instrumented) -> None:
    backend = Backend(ALWAYS_OFF)
    seen: list[Any] = []

    def view() -> str:
        span: Any = trace.get_current_span()
        span.set_attribute("a", 1)
        seen.append((span.is_recording(), span.made, dict(span.own)))
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    assert seen == [(False, None, {})]
    assert backend.spans() == []


class QueryingSessions(SecureCookieSessionInterface):
    """Asks the database for each session, which is before the routing."""

    def __init__(self, database: Database, provider: TracerProvider) -> None:
        self._database = database
        self._provider = provider

    def open_session(self, *args: Any) -> Any:
        connection = self._database()
        connection.execute("SELECT 'session'")
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("SELECT missing")
        with self._provider.get_tracer("app").start_as_current_span("own"):
            connection.execute("SELECT 'inside'")
        return super().open_session(*args)


@pytest.mark.parametrize("number", [2, MAX_PENDING_QUERIES + 5])
def test_what_an_exception_says_is_exported_and_not_kept(
    number: int, backend: Backend, instrumented: Instrumented, database: Database, metrics: PerformanceMetrics
) -> None:
    def view() -> str:
        connection = database()
        for _ in range(number):
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("SELECT missing")
        return "ok"

    client = instrumented(app_of(view), tracer_provider=backend.provider).test_client()
    client.get("/")
    (kept,) = metrics.recent.all()
    assert {type(query[3]) for query in kept.queries} == {str}
    answer = client.get(f"/api/admin/performance/requests/{kept.trace_id:032x}")
    assert {query["error_type"] for query in answer.json["queries"]} == {"sqlite3.OperationalError"}
    assert "no such column" not in answer.text
    said = [dict(event.attributes or {}) for span in backend.spans() for event in span.events]
    assert [each["exception.message"] for each in said] == ["no such column: missing"] * number


@pytest.mark.parametrize("is_eager", [True, False])
def test_queries_before_the_routing_are_children_of_the_request(
    is_eager: bool, backend: Backend, instrumented: Instrumented, database: Database
) -> None:
    recorder = Recorder()
    if is_eager:
        backend.provider.add_span_processor(recorder)
    app = app_of(lambda name: name, "/<name>")
    app.add_url_rule("/left-out", "left_out", lambda: "x")
    app.session_interface = QueryingSessions(database, backend.provider)
    settings = TelemetrySettings(excluded_routes=("/left-out",))
    client = instrumented(app, tracer_provider=backend.provider, settings=settings).test_client()
    for path in ("/a", "/left-out", "/no/such/page"):
        client.get(path)
    wanted = Counter({"GET /<name>": 1, "GET": 1, "SELECT": 6, "own": 3})
    if not is_eager:
        wanted["GET /left-out"] = 1  # the parent of a span of the app's own, before anybody knew what was asked for
    assert backend.named_count() == wanted
    server = backend.named("GET /<name>")
    asked, failed = [span for span in backend.spans() if span.parent == server.context and span.name == "SELECT"]
    own = {span.context.span_id for span in backend.spans() if span.name == "own" and span.context}
    inside = [span.parent for span in backend.spans() if "inside" in str(span.attributes)]
    assert {parent.span_id for parent in inside if parent} <= own
    assert ([len(span.events) for span in (asked, failed)], server.parent) == ([0, 1], None)
    assert asked.start_time is not None
    assert server.start_time is not None
    assert asked.end_time is not None
    assert server.start_time <= asked.start_time <= asked.end_time
    assert failed.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("is_eager", [True, False])
def test_a_span_that_stays_current_over_the_chunks_of_a_body_is_the_parent_of_their_queries(
    is_eager: bool, backend: Backend, instrumented: Instrumented, database: Database
) -> None:
    if is_eager:
        backend.provider.add_span_processor(Recorder())
    connections: list[sqlite3.Connection] = []

    def view() -> Response:
        def chunks() -> Iterator[str]:
            connection = database()
            connections.append(connection)
            connection.execute("SELECT 'before'")
            with backend.provider.get_tracer("app").start_as_current_span("report"):
                for number in range(2):
                    connection.execute(f"SELECT {number}")
                    yield str(number)
            connection.execute("SELECT 'behind'")
            yield "end"
            stack.enter_context(backend.provider.get_tracer("app").start_as_current_span("left open"))
            yield ""

        stack = contextlib.ExitStack()
        response = Response(chunks())
        response.call_on_close(lambda: connections[0].execute("SELECT 'closing'"))
        return response

    app = instrumented(app_of(view), tracer_provider=backend.provider)
    before = get_current()
    with app.test_client().get("/") as response:
        assert response.text == "01end"
    assert get_current() is before
    names = {span.context.span_id: span.name for span in backend.spans() if span.context}
    parents = {
        str((span.attributes or {})["db.query.text"]): names[span.parent.span_id]
        for span in backend.spans()
        if span.parent and span.name == "SELECT"
    }
    assert parents == {
        "SELECT 'before'": "GET /",
        "SELECT 0": "report",
        "SELECT 1": "report",
        "SELECT 'behind'": "GET /",
        "SELECT 'closing'": "GET /",
    }


def test_a_span_that_ends_in_another_thread_is_the_parent_of_nothing_later(
    backend: Backend, instrumented: Instrumented, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def view() -> Response:
        def chunks() -> Iterator[str]:
            connection = database()
            with backend.provider.get_tracer("app").start_as_current_span("report"):
                yield "first"
            for number in range(2):
                connection.execute(f"SELECT {number}")
                yield str(number)

        return Response(chunks())

    app = instrumented(app_of(view), tracer_provider=backend.provider)
    body = app.test_client().get("/", buffered=False).response
    read: list[Any] = []

    def go_on() -> None:
        read.append(next(iter(body), None))

    for _ in range(4):
        thread = threading.Thread(target=go_on)
        thread.start()
        thread.join()
    assert read == [b"first", b"0", b"1", None]
    server = backend.named("GET /").context
    assert [span.parent for span in backend.spans() if span.name == "SELECT"] == [server, server]
    caplog.clear()  # OpenTelemetry tells that a span has ended elsewhere


class SubclassedProcessor(BatchSpanProcessor):
    """One that may well do something when a span starts."""


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("processor", "export", "is_deferred"),
    [(BatchSpanProcessor, "all", True), (BatchSpanProcessor, "1/1", False), (SubclassedProcessor, "all", False)],
)
def test_a_batch_processor_of_the_app_gets_each_span_once_with_the_least_work(
    processor: type[BatchSpanProcessor],
    export: str,
    is_deferred: bool,
    beside: bool,
    instrumented: Instrumented,
    backend: Backend,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exporter, batches = InMemorySpanExporter(), backend if beside else Backend()
    if not beside:
        batches.provider = TracerProvider(shutdown_on_exit=False)
    batches.provider.add_span_processor(processor(exporter))

    def view(name: str) -> str:
        connection = database()
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("SELECT missing")
        for number in range(3):
            connection.execute("SELECT ?", (number,))
        with batches.provider.get_tracer("app").start_as_current_span("work"):
            connection.execute("SELECT 'inside'")
        if name == "looked":
            trace.get_current_span().add_event("looked")
        if name == "failed":
            raise ValueError(name)
        return name

    settings = TelemetrySettings(export=export)
    app = instrumented(app_of(view, "/<name>"), tracer_provider=batches.provider, settings=settings)
    app.logger.disabled = True
    capture = app.extensions[EXTENSION].middleware.capture
    monkeypatch.setattr(CountingTracer, "made", 0)
    capture.tracing.tracer.__class__ = CountingTracer
    client = app.test_client()
    client.get("/plain")
    assert (CountingTracer.made == 0) is is_deferred
    client.get("/looked")
    client.get("/failed")
    batches.provider.force_flush()
    spans = list(exporter.get_finished_spans())
    assert Counter(span.name for span in spans) == {"GET /<name>": 3, "SELECT": 15, "work": 3}
    assert len({span.context.span_id for span in spans if span.context}) == len(spans)
    servers = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [len(server.events) for server in servers] == [0, 1, 1]
    for server in servers:
        assert (server.attributes or {})["telemetry.request.db_operations"] == 5
        assert "telemetry.request.verdict" not in (server.attributes or {}), "which only exporters of ours work out"
    inside = [span.parent for span in spans if (span.attributes or {}).get("db.query.text") == "SELECT 'inside'"]
    assert inside == [span.context for span in spans if span.name == "work"]
    if beside:
        assert sorted(span.name for span in backend.spans()) == sorted(span.name for span in spans)
    batches.provider.shutdown()


@pytest.fixture
def exporting_in_batches() -> Iterator[Callable[[SpanExporter], TracerProvider]]:
    """Return a function that returns a provider with a batch processor for an exporter."""
    made: list[TracerProvider] = []

    def make(exporter: SpanExporter) -> TracerProvider:
        made.append(TracerProvider(shutdown_on_exit=False))
        made[-1].add_span_processor(BatchSpanProcessor(exporter))
        return made[-1]

    yield make
    for provider in made:
        provider.shutdown()


InBatches = Callable[[SpanExporter], TracerProvider]
Deferred = tuple[TracerProvider, InMemorySpanExporter]


@pytest.fixture(params=["ours", "a batch processor"])
def deferred(request: pytest.FixtureRequest, backend: Backend, exporting_in_batches: InBatches) -> Deferred:
    """A provider whose spans are made of records, whoever takes them, and the exporter where they end."""
    if request.param == "ours":
        return backend.provider, backend.exporter
    exporter = InMemorySpanExporter()
    return exporting_in_batches(exporter), exporter


def test_a_batch_processor_that_was_given_a_function_of_its_own_sees_spans_start(
    exporting_in_batches: InBatches, instrumented: Instrumented, database: Database
) -> None:
    exporter = InMemorySpanExporter()
    provider = exporting_in_batches(exporter)
    (processor,) = provider._active_span_processor._span_processors
    seen: list[str] = []

    def view() -> str:
        database().execute("SELECT 1")
        processor.on_start = lambda span, **_: seen.append(span.name)  # type: ignore[method-assign]
        assert tracing().mode is Mode.EAGER  # as the next request finds it, while this one is under way
        return "ok"

    app = instrumented(app_of(view), tracer_provider=provider)
    client = app.test_client()

    def tracing() -> Tracing:
        found: Tracing = app.extensions[EXTENSION].middleware.capture.tracing
        return found

    client.get("/")
    assert seen == []
    client.get("/")
    assert seen == ["GET /", "SELECT"]
    del processor.on_start
    assert tracing().mode is Mode.DEFERRED
    provider.force_flush()
    assert Counter(span.name for span in exporter.get_finished_spans()) == {"GET /": 2, "SELECT": 2}


class NumberingExporter(InMemorySpanExporter):
    """One that takes liberties with spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for number, span in enumerate(spans):
            assert span._instrumentation_info is not None
            span._attributes["number"] = number  # type: ignore[index]
        return super().export(spans)


def test_spans_share_nothing_that_an_exporter_can_change(
    exporting_in_batches: InBatches, instrumented: Instrumented, database: Database
) -> None:
    exporter = NumberingExporter()
    provider = exporting_in_batches(exporter)

    def view() -> str:
        for _ in range(3):
            database().execute("SELECT 1")
        return "ok"

    instrumented(app_of(view), tracer_provider=provider).test_client().get("/")
    provider.shutdown()
    assert [(span.attributes or {})["number"] for span in exporter.get_finished_spans()] == [0, 1, 2, 3]


@pytest.mark.parametrize("traceparent", [{}, {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01"}])
@pytest.mark.parametrize("how", ["fails", "many", "inside", "inside, fails", "suppressed", "suppressed, fails"])
def test_what_is_left_out_or_suppressed_makes_no_span_of_a_query(
    how: str,
    traceparent: dict[str, str],
    deferred: Deferred,
    instrumented: Instrumented,
    database: Database,
    metrics: PerformanceMetrics,
) -> None:
    provider, exporter = deferred

    def view() -> str:
        connection, sql = database(), "SELECT missing" if "fails" in how else "SELECT 1"
        with contextlib.ExitStack() as stack:
            if "suppressed" in how:
                stack.enter_context(suppress_instrumentation())
            if "inside" in how:
                stack.enter_context(provider.get_tracer("app").start_as_current_span("work"))
            stack.enter_context(contextlib.suppress(sqlite3.OperationalError))
            for _ in range(MAX_PENDING_QUERIES + 5 if how == "many" else 1):
                connection.execute(sql)
        return "ok"

    settings = TelemetrySettings() if "suppressed" in how else TelemetrySettings(excluded_routes=("/",))
    app = instrumented(app_of(view), tracer_provider=provider, settings=settings)
    assert app.test_client().get("/", headers=traceparent).status_code == 200
    provider.force_flush()
    names = Counter(span.name for span in exporter.get_finished_spans())
    assert names == {**({"work": 1} if "inside" in how else {}), **({"GET /": 1} if "suppressed" in how else {})}
    assert metrics.failures == 0
    assert metrics.db_queries_per_request[:] == ([1] if "suppressed" in how else [])


def test_a_request_whose_queries_all_fail_is_recorded_whole(
    deferred: Deferred,
    instrumented: Instrumented,
    database: Database,
    metrics: PerformanceMetrics,
) -> None:
    provider, exporter = deferred

    def view() -> str:
        connection = database()
        for _ in range(MAX_PENDING_QUERIES + 5):
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("SELECT missing")
        trace.get_current_span().update_name("looked at")
        return "ok"

    instrumented(app_of(view), tracer_provider=provider).test_client().get("/")
    provider.force_flush()
    spans = exporter.get_finished_spans()
    assert Counter(span.name for span in spans) == {"SELECT": MAX_PENDING_QUERIES + 5, "looked at": 1}
    assert metrics.failures == 0
    assert {span.context.trace_id for span in spans if span.context} == {metrics.recent.all()[0].trace_id}


class Recorder(SpanProcessor):
    """Somebody's own processor."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started.append(span.name)


def test_ids_are_told_without_making_the_span_and_it_is_exported_with_them(
    instrumented: Instrumented, backend: Backend, metrics: PerformanceMetrics
) -> None:
    seen: list[trace.SpanContext] = []

    def view() -> str:
        span = trace.get_current_span()
        seen.append(span.get_span_context())
        metrics.record_cache_hit()
        assert isinstance(span, DeferredSpan)
        assert span.made is None
        assert span.get_span_context() is seen[0]
        return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    assert backend.named("GET /").context == seen[0]
    assert metrics.recent.all()[0].trace_id == seen[0].trace_id


def test_a_span_that_is_made_after_its_ids_were_told_has_them(instrumented: Instrumented, backend: Backend) -> None:
    seen: list[trace.SpanContext] = []

    def view() -> str:
        span = trace.get_current_span()
        seen.append(span.get_span_context())
        span.set_attribute("mine", 1)
        seen.append(span.get_span_context())
        with trace.get_tracer("app", tracer_provider=backend.provider).start_as_current_span("child"):
            return "ok"

    instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/")
    server = backend.named("GET /")
    assert server.attributes is not None
    assert server.attributes["mine"] == 1
    assert backend.named("child").parent == server.context == seen[0] == seen[1]


def test_a_lookup_counted_where_nobody_listens_makes_no_span(
    instrumented: Instrumented, metrics: PerformanceMetrics
) -> None:
    made: list[object] = []

    def view() -> str:
        metrics.record_cache_miss(3)
        span = trace.get_current_span()
        assert isinstance(span, DeferredSpan)
        made.append(span.made)
        return "ok"

    instrumented(app_of(view)).test_client().get("/")
    assert made == [None]
    assert metrics.cache_misses == 3


def test_a_processor_that_is_added_later_sees_spans_start_from_then_on(
    instrumented: Instrumented, backend: Backend, database: Database
) -> None:
    recorder = Recorder()

    def view() -> str:
        database().execute("SELECT 1")
        started.append(list(recorder.started))
        return "ok"

    started: list[list[str]] = []
    client = instrumented(app_of(view), tracer_provider=backend.provider).test_client()
    client.get("/")
    backend.provider.add_span_processor(recorder)
    client.get("/")
    assert started == [[], ["GET /", "SELECT"]]
    assert backend.named_count() == {"GET /": 2, "SELECT": 2}


def test_queries_of_a_streamed_body_and_of_a_thread_are_exported_with_their_request(
    instrumented: Instrumented, backend: Backend, database: Database
) -> None:
    def view() -> Response:
        connection, context = database(), get_current()

        def in_thread() -> None:
            attach(context)
            connection.execute("SELECT 'thread'")

        def body() -> Iterator[str]:
            connection.execute("SELECT 'body'")
            yield "ok"

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        return Response(body())

    assert instrumented(app_of(view), tracer_provider=backend.provider).test_client().get("/").text == "ok"
    server = backend.named("GET /").context
    queries = [span for span in backend.spans() if span.name == "SELECT"]
    assert {span.attributes["db.query.text"] for span in queries if span.attributes} == {
        "SELECT 'thread'",
        "SELECT 'body'",
    }
    assert all(span.parent == server for span in queries)


@pytest.mark.parametrize(
    ("metric_name", "query_count"),
    [
        ("http.server.request.duration", 0),
        ("db.client.operation.duration", 1),
        ("db.client.operation.duration", MAX_PENDING_QUERIES),  # recorded while the request goes on
    ],
)
def test_exemplars_lead_to_spans_that_were_exported(
    metric_name: str, query_count: int, instrumented: Instrumented, backend: Backend
) -> None:
    def view() -> str:
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            for _ in range(query_count):
                connection.execute("SELECT 1")
        return "ok"

    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    client = instrumented(app_of(view), tracer_provider=backend.provider, meter_provider=meters).test_client()
    client.get("/")
    reader.get_metrics_data()  # those of the public API, which the first of a series goes through
    for _ in range(2):
        client.get("/")
    data = reader.get_metrics_data()
    assert data is not None
    exemplars = {
        (exemplar.trace_id, exemplar.span_id)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == metric_name
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
        for exemplar in point.exemplars
    }
    servers = [span.context for span in backend.spans() if span.name == "GET /"]
    exported = {(context.trace_id, context.span_id) for context in servers if context}
    assert exemplars
    assert exemplars <= exported


def test_a_processor_that_raises_costs_its_own_span_alone(
    instrumented: Instrumented, metrics: PerformanceMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("broken")

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken())
    client = instrumented(app_of(lambda: "ok"), tracer_provider=provider).test_client()
    for _ in range(3):
        assert client.get("/").status_code == 200
    assert metrics.db_queries_per_request[:] == [0, 0, 0]
    assert caplog.text.count("later failures are counted only") == 1


@pytest.mark.parametrize("looks", [None, "attribute", "event", "from the start"])
@pytest.mark.parametrize("export", ["all", "1/1"])
def test_the_server_span_carries_the_verdict_and_what_commits_took_whoever_makes_it(
    looks: str | None, export: str, instrumented: Callable[..., Flask]
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    processor = DeferredSpanProcessor(exporter)
    provider.add_span_processor(processor)
    if looks == "from the start":
        provider.add_span_processor(Recorder())
    app = Flask("verdicts")

    @app.get("/")
    def view() -> str:
        if looks:
            trace.get_current_span().set_attribute("app.looked", looks)
        if looks == "event":
            trace.get_current_span().add_event("looked")
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE TABLE tags (id)")
            for number in range(6):
                connection.execute("SELECT id FROM tags WHERE id = ?", (number,)).fetchall()
            connection.execute("INSERT INTO tags VALUES (1)")
            connection.commit()
        return "done"

    instrumented(app, tracer_provider=provider, settings=TelemetrySettings(export=export)).test_client().get("/")
    provider.shutdown()
    (server,) = [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    attributes = dict(server.attributes or {})
    assert attributes["telemetry.request.verdict"] == "n_plus_one"
    assert (attributes["telemetry.request.db_operations"], attributes["telemetry.request.db_statements"]) == (8, 3)
    took_s = attributes["telemetry.request.db_commit_duration"]
    assert isinstance(took_s, float)
    assert 0 < took_s < 60
    assert attributes.get("app.looked") == looks


FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example"}


def test_a_span_tells_what_the_app_was_told_by_middleware_before_it(
    backend: Backend, instrumented: Instrumented
) -> None:
    app = app_of(lambda: "x", "/x")
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # type: ignore[method-assign]
    client = instrumented(app, tracer_provider=backend.provider).test_client()
    client.get("/x", headers=FORWARDED, environ_base={"REMOTE_ADDR": "10.0.0.1"})
    attributes = dict(backend.named("GET /x").attributes or {})
    assert attributes["client.address"] == "203.0.113.9"
    assert attributes["url.scheme"] == "https"
    assert attributes["server.address"] == "shop.example"


def test_a_span_has_the_method_that_middleware_has_chosen(backend: Backend, instrumented: Instrumented) -> None:
    app = Flask("shop")
    app.add_url_rule("/x", "view", lambda: "x", methods=["DELETE"])
    inner = app.wsgi_app

    def override(environ: Any, start_response: Any) -> Any:
        environ["REQUEST_METHOD"] = "DELETE"
        return inner(environ, start_response)

    app.wsgi_app = override  # type: ignore[method-assign]
    instrumented(app, tracer_provider=backend.provider).test_client().post("/x")
    assert "http.request.method_original" not in (backend.named("DELETE /x").attributes or {})


@pytest.mark.parametrize("looks", [True, False])
def test_no_port_that_a_client_makes_up_costs_the_request_or_its_span(
    looks: bool, backend: Backend, instrumented: Instrumented
) -> None:
    def view() -> str:
        if looks:
            trace.get_current_span().add_event("looked")
        return "x"

    client = instrumented(app_of(view), tracer_provider=backend.provider).test_client()
    assert client.get("/", headers={"Host": "a:" + "9" * 5000}).status_code == 200
    attributes = backend.named("GET /").attributes or {}
    assert attributes["server.address"] == "a"
    assert "server.port" not in attributes


def test_a_request_that_fails_with_text_that_is_no_unicode_has_its_span(
    backend: Backend, instrumented: Instrumented
) -> None:
    def view() -> str:
        raise ValueError("cannot read \udc80.mp4")

    app = instrumented(app_of(view), tracer_provider=backend.provider)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.logger.disabled = True  # what it says could not be told of a test that fails
    app.test_client().get("/")
    span = backend.named("GET /")
    assert span.status.description == "ValueError: cannot read ?.mp4"
    encode_spans([span]).SerializeToString()


def reader_count(reader: InMemoryMetricReader) -> int:
    """Return how many queries the metric has."""
    data = reader.get_metrics_data()
    return sum(
        point.count
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "db.client.operation.duration"
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    )


@pytest.mark.parametrize("listened_to", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_query_that_runs_on_when_its_request_ends_is_measured_and_a_child_of_its_span(
    listened_to: bool, fails: bool, backend: Backend, instrumented: Instrumented, database: Database
) -> None:
    begun, answered, threads = threading.Event(), threading.Event(), []

    def wait() -> int:
        begun.set()
        assert answered.wait(10)
        if fails:
            raise ValueError
        return 1

    def work() -> None:
        connection = database()
        connection.create_function("wait", 0, wait)
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("SELECT wait()").fetchall()

    def view() -> str:
        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(work,)))
        threads[0].start()
        assert begun.wait(10)
        return "x"

    reader = InMemoryMetricReader()
    providers = {"tracer_provider": backend.provider} if listened_to else {}
    app = instrumented(app_of(view), meter_provider=MeterProvider([reader]), **providers)
    app.test_client().get("/")
    answered.set()
    threads[0].join()
    assert reader_count(reader) == 1
    if listened_to:
        span = backend.named("SELECT")
        assert span.parent == backend.named("GET /").context
        assert [event.name for event in span.events] == (["exception"] if fails else [])
        assert span.status.status_code is (StatusCode.ERROR if fails else StatusCode.UNSET)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("export", ["all", "notable+1/1"])
def test_a_process_that_a_request_forks_exports_and_measures_its_own_queries_as_children_of_the_request(
    export: str, backend: Backend, instrumented: Instrumented, database: Database
) -> None:
    reader = InMemoryMetricReader()
    told, tell = os.pipe()

    def view() -> str:
        connection = database()
        connection.execute("SELECT 'parent'")
        child = os.fork()
        if not child:
            try:
                connection.execute("SELECT 'child'")
                spans = [span for span in backend.spans() if span.name == "SELECT" and span.parent]
                parents = [(span.parent.trace_id, span.parent.span_id) for span in spans if span.parent]
                os.write(tell, json.dumps([parents, reader_count(reader)]).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return "ok"

    settings = TelemetrySettings(export=export)
    app = instrumented(
        app_of(view), tracer_provider=backend.provider, meter_provider=MeterProvider([reader]), settings=settings
    )
    app.test_client().get("/")
    os.close(tell)
    with os.fdopen(told, "rb") as answer:
        parents, measured = json.load(answer)
    server = backend.named("GET /").context
    assert server is not None
    assert parents == [[server.trace_id, server.span_id]]
    assert measured == reader_count(reader) == 1
    assert backend.named_count() == {"GET /": 1, "SELECT": 1}


@pytest.mark.parametrize("is_looked_at", [False, True], ids=["deferred", "made by the SDK"])
def test_the_exported_verdict_is_that_of_the_admin_pages(
    is_looked_at: bool, instrumented: Instrumented, backend: Backend, database: Database
) -> None:
    def view() -> str:
        connection = database()
        for at in range(10):
            connection.execute("SELECT a FROM (SELECT 1 AS a) WHERE a = ?", (at,)).fetchall()
        if is_looked_at:
            trace.get_current_span().add_event("seen")
        return "ok"

    settings = TelemetrySettings(repeats_warning=20)
    metrics = PerformanceMetrics(settings)
    app = instrumented(app_of(view), tracer_provider=backend.provider, settings=settings, metrics=metrics)
    client = app.test_client()
    client.get("/")
    (shown,) = client.get("/api/admin/performance/requests").json["requests"]
    assert (backend.named("GET /").attributes or {})["telemetry.request.verdict"] == shown["verdict"] == "ok"
