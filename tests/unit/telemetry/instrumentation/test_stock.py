"""With `instrumentation="stock"`, OpenTelemetry's own instrumentations feed the windows and the admin JSON."""

from __future__ import annotations

import contextvars
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
from flask import Flask, Response, current_app
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from werkzeug.middleware.proxy_fix import ProxyFix

from telemetry import InstrumentationError, PerformanceMetrics, TelemetrySettings, instrument, uninstrument

Instrumented = Callable[..., Flask]
STOCK = TelemetrySettings.load(instrumentation="stock")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def shop() -> Flask:
    """An app of which each route says how many queries it makes."""
    app = Flask(__name__)

    @app.get("/items/<int:number>")
    def items(number: int) -> str:
        connection = sqlite3.connect(":memory:")
        for _ in range(number):
            connection.cursor().execute("SELECT 1")
        connection.close()
        return "ok"

    @app.get("/ping")
    def ping() -> dict[str, str]:
        items(2)
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    @app.get("/fail")
    def fail() -> str:
        raise ValueError("as asked")

    return app


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, Callable[[], list[ReadableSpan]]]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, lambda: list(exporter.get_finished_spans())
    provider.shutdown()


def counts(metrics: PerformanceMetrics) -> dict[str, tuple[int, int]]:
    return {
        route: (stats["request_count"], stats["error_count"])
        for route, stats in metrics.snapshot()["endpoints"].items()
    }


def test_requests_and_their_queries_reach_the_windows_and_the_admin_json(instrumented: Instrumented) -> None:
    app = instrumented(shop(), settings=STOCK)
    app.logger.disabled = True
    client = app.test_client()
    for number in (0, 3, 7):
        assert client.get(f"/items/{number}").status_code == 200
    assert client.get("/fail").status_code == 500
    assert client.get("/nothing").status_code == 404
    shown = client.get("/admin/performance/json").json
    assert shown is not None
    assert {route: row["request_count"] for route, row in shown["endpoints"].items()} == {
        "GET /items/<number>": 3,
        "GET /fail": 1,
    }
    assert shown["endpoints"]["GET /fail"]["error_count"] == 1
    assert shown["database"] == {"total_queries": 10, "avg_per_request": 2.5, "max_per_request": 7, "count": 4}


def test_the_page_of_requests_says_why_it_is_empty(instrumented: Instrumented) -> None:
    client = instrumented(shop(), settings=STOCK).test_client()
    client.get("/items/3")
    assert client.get("/api/admin/performance/requests").json == {"requests": [], "kept": 0}
    page = client.get("/admin/performance/requests").text
    assert "<strong>No request is kept.</strong> With OpenTelemetry's own instrumentations" in page
    assert "will appear here" not in page


def test_spans_are_those_of_the_stock_instrumentations(instrumented: Instrumented, spans: Any) -> None:
    provider, finished = spans
    app = instrumented(shop(), settings=STOCK, tracer_provider=provider)
    app.test_client().get("/items/1")
    query, server = finished()
    assert (query.name, query.kind, query.parent) == ("SELECT", SpanKind.CLIENT, server.context)
    assert (server.name, server.kind) == ("GET /items/<int:number>", SpanKind.SERVER)
    assert server.attributes["http.request.method"] == "GET"
    assert {span.instrumentation_scope.name for span in (query, server)} == {
        "opentelemetry.instrumentation.flask",
        "opentelemetry.instrumentation.sqlite3",
    }


def test_counts_do_not_depend_on_sampling(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = instrumented(
        shop(), settings=STOCK, tracer_provider=TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    )
    app.test_client().get("/items/4")
    assert metrics.snapshot()["database"]["total_queries"] == 4


def test_queries_of_threads_that_have_the_requests_context_are_its_own(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = shop()

    @app.get("/threads")
    def threads() -> str:
        items = current_app.view_functions["items"]
        started = [Thread(target=contextvars.copy_context().run, args=(items, 5)) for _ in range(4)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
        return "ok"

    instrumented(app, settings=STOCK).test_client().get("/threads")
    assert metrics.snapshot()["database"]["total_queries"] == 20


def test_excluded_routes_have_no_span_and_no_sample_and_pass_the_trace_on(
    metrics: PerformanceMetrics, instrumented: Instrumented, spans: Any, tmp_path: Any
) -> None:
    provider, finished = spans
    (tmp_path / "style.css").write_text("")
    app = shop()
    app.static_folder = str(tmp_path)
    instrumented(app, settings=STOCK, tracer_provider=provider)
    client = app.test_client()
    for path in ("/admin/performance", "/admin/performance/json", "/static/style.css"):
        with client.get(path) as response:
            assert response.status_code == 200, path
    assert client.get("/ping", headers={"traceparent": TRACEPARENT}).json == {"traceparent": TRACEPARENT}
    assert finished() == []
    assert counts(metrics) == {}
    assert metrics.snapshot()["database"]["count"] == 0


def test_two_apps_each_have_their_own_figures_and_spans(spans: Any) -> None:
    provider, finished = spans
    first, second = shop(), shop()
    other = TracerProvider(shutdown_on_exit=False)
    of_first, of_second = PerformanceMetrics(), PerformanceMetrics()
    instrument(first, metrics=of_first, settings=STOCK, tracer_provider=provider)
    instrument(second, metrics=of_second, settings=STOCK, tracer_provider=other)
    first.test_client().get("/items/1")
    second.test_client().get("/items/2")
    uninstrument(first)
    second.test_client().get("/items/3")
    uninstrument(second)
    assert of_first.db_queries_per_request == [1]
    assert of_second.db_queries_per_request == [2, 3]
    assert len(finished()) == 2


def test_instrumenting_twice_does_nothing_more(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = instrumented(shop(), settings=STOCK)
    before = app.wsgi_app
    assert instrument(app, settings=STOCK).wsgi_app is before
    app.test_client().get("/items/1")
    assert counts(metrics) == {"GET /items/<number>": (1, 0)}


def test_uninstrumenting_leaves_the_app_and_sqlite3_as_they_were(metrics: PerformanceMetrics) -> None:
    app = shop()
    connect = sqlite3.connect
    instrument(app, metrics=metrics, settings=STOCK, tracer_provider=TracerProvider(shutdown_on_exit=False))
    assert sqlite3.connect is not connect
    uninstrument(app)
    assert "wsgi_app" not in vars(app)
    assert not app.before_request_funcs.get(None)
    assert not app.teardown_request_funcs.get(None)
    assert sqlite3.connect is connect
    app.test_client().get("/items/1")
    assert app.test_client().get("/admin/performance").status_code == 404
    assert counts(metrics) == {}


def test_middleware_that_was_wrapped_around_it_stays_when_it_is_taken_out(
    metrics: PerformanceMetrics, instrumented: Instrumented, caplog: pytest.LogCaptureFixture
) -> None:
    app = instrumented(shop(), settings=STOCK)
    app.wsgi_app = around = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    app.test_client().get("/items/1")
    uninstrument(app)
    assert app.wsgi_app is around
    app.test_client().get("/items/1")
    assert counts(metrics) == {"GET /items/<number>": (1, 0)}
    assert caplog.text == ""


def test_a_connection_that_outlives_the_instrumentation_can_still_be_used(metrics: PerformanceMetrics) -> None:
    app = shop()
    instrument(app, metrics=metrics, settings=STOCK, tracer_provider=TracerProvider(shutdown_on_exit=False))
    connection = sqlite3.connect(":memory:")
    connection.cursor().execute("SELECT 1")  # outside of any request
    uninstrument(app)
    assert connection.cursor().execute("SELECT 1").fetchall() == [(1,)]
    connection.close()


def test_one_process_takes_one_kind_of_instrumentation(instrumented: Instrumented) -> None:
    instrumented(shop())
    message = "^the setting instrumentation must be the same for all apps of a process, got 'stock' beside another$"
    with pytest.raises(InstrumentationError, match=message):
        instrument(shop(), settings=STOCK)


def test_an_app_that_has_answered_a_request_is_left_as_it_was(metrics: PerformanceMetrics) -> None:
    app = shop()
    app.test_client().get("/ping")
    settings = TelemetrySettings.load(instrumentation="stock", admin=False)
    with pytest.raises(InstrumentationError, match="before the app's first request"):
        instrument(app, metrics=metrics, settings=settings, tracer_provider=TracerProvider(shutdown_on_exit=False))
    assert "wsgi_app" not in vars(app)
    assert app.test_client().get("/ping").status_code == 200
    assert not metrics.is_attached(metrics.meter_provider) or counts(metrics) == {}


@pytest.mark.parametrize("whose", ["flask", "sqlite3"])
def test_what_somebody_else_has_instrumented_is_refused(
    whose: str, metrics: PerformanceMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database")  # the first to read it does so for the process
    app = shop()
    providers: Any = {"tracer_provider": TracerProvider(shutdown_on_exit=False)}
    if whose == "flask":
        FlaskInstrumentor.instrument_app(app, **providers)
    else:
        SQLite3Instrumentor().instrument(**providers)
    try:
        with pytest.raises(InstrumentationError, match="already: with the setting"):
            instrument(app, metrics=metrics, settings=STOCK, **providers)
    finally:
        if whose == "sqlite3":
            SQLite3Instrumentor().uninstrument()


def test_the_environment_is_left_as_it_was(instrumented: Instrumented, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    instrumented(shop(), settings=STOCK)
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == "gen_ai_latest_experimental"


def test_the_stable_names_reach_every_reader() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    app = shop()
    instrument(
        app,
        metrics=PerformanceMetrics(meter_provider=provider),
        settings=STOCK,
        tracer_provider=TracerProvider(shutdown_on_exit=False),
    )
    app.test_client().get("/items/2")
    uninstrument(app)
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert points["http.server.request.duration"][0].count == 1
    assert points["telemetry.request.db_operations"][0].sum == 2


def test_a_stream_is_served_as_it_is(metrics: PerformanceMetrics, instrumented: Instrumented) -> None:
    app = Flask(__name__)
    app.add_url_rule("/", "stream", lambda: Response(iter(["a", "b"])))
    assert instrumented(app, settings=STOCK).test_client().get("/").data == b"ab"
    assert counts(metrics) == {"GET /": (1, 0)}


def test_the_current_span_is_the_stock_one(instrumented: Instrumented) -> None:
    app = Flask(__name__)
    app.add_url_rule("/", "look", lambda: type(trace.get_current_span()).__name__)
    assert instrumented(app, settings=STOCK).test_client().get("/").text == "_Span"


def test_old_names_chosen_by_another_instrumentation_are_refused() -> None:
    program = """
from flask import Flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from telemetry import InstrumentationError, TelemetrySettings, instrument
FlaskInstrumentor.instrument_app(Flask("theirs"))
app = Flask("ours")
try:
    instrument(app, settings=TelemetrySettings.load(instrumentation="stock"))
except InstrumentationError as error:
    print(error, "wsgi_app" in vars(app))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert "set OTEL_SEMCONV_STABILITY_OPT_IN=http,database in its environment False" in done.stdout


@pytest.mark.parametrize("package", ["flask", "sqlite3"])
def test_without_the_packages_one_line_says_what_to_install(package: str) -> None:
    program = f"""
import sys
sys.modules["opentelemetry.instrumentation.{package}"] = None
from flask import Flask
from telemetry import InstrumentationError, TelemetrySettings, instrument
app = instrument(Flask("unaffected"))
from telemetry import uninstrument
uninstrument(app)
try:
    instrument(Flask("ours"), settings=TelemetrySettings.load(instrumentation="stock"))
except InstrumentationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert 'the setting instrumentation="stock" needs' in done.stdout
    assert "pip install opentelemetry-instrumentation-flask opentelemetry-instrumentation-sqlite3" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_the_default_imports_none_of_it() -> None:
    program = """
import sys
from flask import Flask
from telemetry import instrument
instrument(Flask("ours"))
print([name for name in sys.modules if name.startswith("opentelemetry.instrumentation")])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
