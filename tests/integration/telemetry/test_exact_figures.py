"""Every number of the admin JSON against an independent computation from samples that the test collects itself."""

from __future__ import annotations

import gc
import sqlite3
import statistics
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask, Response, abort, current_app, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from telemetry import PerformanceMetrics, TelemetrySettings, instrument, uninstrument
from telemetry.instrumentation import flask as instrumentation

MS = 1_000_000


class Clock(threading.local):
    """Stands for the monotonic clock: it moves only when a view says so, in each thread for itself."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


clock = Clock()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrumentation, "perf_counter_ns", clock)


def make_app() -> Flask:
    app = Flask(__name__)

    def work() -> None:
        """Take the time and make the queries that the request's headers ask for."""
        clock.now_ns += int(request.headers["Took-Ms"]) * MS
        connection = sqlite3.connect(":memory:")
        for number in range(int(request.headers["Queries"])):
            connection.execute("SELECT ?", (number,))
        connection.close()

    @app.route("/plain", methods=["GET", "POST"])
    def plain() -> str:
        work()
        return "plain"

    @app.get("/item/<int:number>")
    def item(number: int) -> str:
        work()
        return str(number)

    @app.get("/status/<int:code>")
    def status(code: int) -> Response:
        work()
        abort(code)

    @app.get("/raise")
    def raises() -> str:
        work()
        raise ValueError("as asked")

    @app.get("/stream/<int:chunks>")
    def stream(chunks: int) -> Response:
        work()

        def body() -> Iterator[str]:
            connection = sqlite3.connect(":memory:")
            for number in range(chunks):
                clock.now_ns += MS
                connection.execute("SELECT ?", (number,))
                yield "chunk"
            connection.close()

        return current_app.response_class(body())

    @app.get("/ping")
    def ping() -> str:
        work()
        return "pong"

    return app


@dataclass
class Call:
    """One request of the test, and what the figures must say of it."""

    method: str
    path: str
    took_ms: int
    queries: int
    route: str | None = None
    is_error: bool = False
    expected_ms: int = field(init=False)
    expected_queries: int = field(init=False)

    def __post_init__(self) -> None:
        self.expected_ms, self.expected_queries = self.took_ms, self.queries

    def send(self, app: Flask) -> None:
        headers = {"Took-Ms": str(self.took_ms), "Queries": str(self.queries)}
        try:
            with app.test_client().open(self.path, method=self.method, headers=headers) as response:
                assert response.data is not None
        except ValueError:
            assert self.path == "/raise"


@st.composite
def calls(draw: st.DrawFn) -> Call:
    kind = draw(st.sampled_from(["plain", "post", "item", "status", "raise", "stream", "ping", "unknown", "method"]))
    took_ms, queries = draw(st.integers(0, 900)), draw(st.integers(0, 4))
    number = draw(st.integers(0, 5))
    match kind:
        case "plain":
            return Call("GET", "/plain", took_ms, queries, "GET /plain")
        case "post":
            return Call("POST", "/plain", took_ms, queries, "POST /plain")
        case "item":
            return Call("GET", f"/item/{number}", took_ms, queries, "GET /item/<number>")
        case "status":
            code = draw(st.sampled_from([400, 404, 418, 500, 503]))
            return Call("GET", f"/status/{code}", took_ms, queries, "GET /status/<code>", code >= 500)
        case "raise":
            return Call("GET", "/raise", took_ms, queries, "GET /raise", True)
        case "stream":
            call = Call("GET", f"/stream/{number}", took_ms, queries, "GET /stream/<chunks>")
            call.expected_ms += min(number, 1)  # to the first byte
            call.expected_queries += number  # to the last
            return call
        case "ping":
            return Call("GET", "/ping", took_ms, queries)
        case "unknown":
            return Call("GET", f"/nothing/{number}", took_ms, queries)
        case _:
            return Call("DELETE", "/plain", took_ms, queries)


def check(snapshot: dict[str, Any], sent: list[Call], window: int) -> None:
    """Compare the admin JSON with what was sent, in the order in which it completed."""
    seen = [call for call in sent if call.route is not None]
    by_route: dict[str, list[Call]] = defaultdict(list)
    for call in seen:
        by_route[str(call.route)].append(call)
    assert set(snapshot["endpoints"]) == set(by_route)
    for route, every in by_route.items():
        kept = every[-window:]
        durations = [call.expected_ms for call in kept]
        cuts = statistics.quantiles(durations, n=100, method="inclusive") if len(kept) > 1 else durations * 99
        shown = snapshot["endpoints"][route]
        assert shown["request_count"] == len(kept)
        assert shown["error_count"] == sum(call.is_error for call in kept)
        assert shown["min_ms"] == min(durations)
        assert shown["max_ms"] == max(durations)
        assert shown["avg_ms"] == pytest.approx(statistics.fmean(durations), abs=0.0006)
        assert [shown[name] for name in ("p50_ms", "p95_ms", "p99_ms")] == pytest.approx(
            [cuts[49], cuts[94], cuts[98]], abs=0.0006
        )
    counts = [call.expected_queries for call in seen[-window:]]
    assert snapshot["database"] == {
        "total_queries": sum(counts),
        "avg_per_request": pytest.approx(statistics.fmean(counts) if counts else 0.0, abs=0.0006),
        "max_per_request": max(counts, default=0),
        "count": len(counts),
    }


@pytest.mark.parametrize("propagate", [True, False])
@pytest.mark.parametrize("second_reader", [True, False])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(calls(), max_size=40), window=st.integers(1, 12))
def test_any_sequence_of_requests_gives_exactly_the_figures_of_its_samples(
    propagate: bool, second_reader: bool, sent: list[Call], window: int
) -> None:
    other = InMemoryMetricReader()
    provider = MeterProvider([other] if second_reader else [], shutdown_on_exit=False)
    metrics = PerformanceMetrics(TelemetrySettings.load(window=window), meter_provider=provider)
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = propagate
    app.logger.disabled = True
    instrument(app, metrics=metrics, tracer_provider=TracerProvider(shutdown_on_exit=False))
    try:
        for call in sent:
            call.send(app)
    finally:
        uninstrument(app)
    check(metrics.snapshot(), sent, window)
    if second_reader:
        check_totals(other, sent)


def check_totals(reader: InMemoryMetricReader, sent: list[Call]) -> None:
    """Compare the other reader's totals: it sees every request that the windows see, and the unmatched ones."""
    counted = [call for call in sent if call.path != "/ping"]
    points = {metric.name: metric.data.data_points for metric in read(reader)}
    durations = points.get("http.server.request.duration", ())
    assert sum(point.count for point in durations) == len(counted)
    matched = [point for point in durations if "http.route" in point.attributes]
    assert sum(point.sum for point in matched) == pytest.approx(
        sum(call.expected_ms for call in sent if call.route) / 1000
    )
    assert sum(point.count for point in matched if "error.type" in point.attributes) == sum(
        call.is_error for call in sent
    )
    operations = points.get("telemetry.request.db_operations", ())
    queries = sum(call.expected_queries for call in sent if call.route)
    assert sum(point.sum for point in operations) == queries
    assert sum(point.count for point in points.get("db.client.operation.duration", ())) == queries


def read(reader: InMemoryMetricReader) -> list[Any]:
    data = reader.get_metrics_data()
    if data is None:
        return []
    return [
        metric for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]


def test_windows_hold_exactly_100_by_default_across_status_codes(
    metrics: PerformanceMetrics, instrumented: Any
) -> None:
    app = instrumented(make_app())
    app.logger.disabled = True
    sent = [
        Call("GET", f"/status/{(400, 404, 500)[number % 3]}", number, 1, "GET /status/<code>", number % 3 == 2)
        for number in range(250)
    ]
    for call in sent:
        call.send(app)
    snapshot = metrics.snapshot()
    check(snapshot, sent, 100)
    assert snapshot["endpoints"]["GET /status/<code>"]["request_count"] == 100


def test_concurrent_requests_are_all_counted_each_with_its_own_queries(
    metrics: PerformanceMetrics, instrumented: Any
) -> None:
    app = instrumented(make_app())
    sent = [
        Call("GET", path, number, number % 5, route)
        for number in range(80)
        for path, route in (("/plain", "GET /plain"), ("/item/3", "GET /item/<number>"))
    ]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call.send, app) for call in sent]:
            done.result()
    snapshot = metrics.snapshot()
    for route in ("GET /plain", "GET /item/<number>"):
        assert sorted(metrics.endpoint_latencies[route]) == [number / 1000 for number in range(80)]
        assert snapshot["endpoints"][route]["request_count"] == 80
    by_route = {window.route: window.queries for window in metrics.route_windows()}
    assert sorted(by_route["GET /plain"]) == sorted(number % 5 for number in range(80))


@pytest.mark.no_cover  # the tracer allocates as well
def test_unknown_paths_leave_routes_and_memory_where_they_were(metrics: PerformanceMetrics, instrumented: Any) -> None:
    app = instrumented(make_app())
    Call("GET", "/plain", 5, 1, "GET /plain").send(app)
    client = app.test_client()
    before = metrics.snapshot()["endpoints"]
    for number in range(1_000):
        client.get(f"/scan/{number}/wp-login.php")
    gc.collect()
    blocks = sys.getallocatedblocks()  # far cheaper than tracemalloc, and no path is kept without a block of its own
    for number in range(3_000):
        client.get(f"/scan/again/{number}/wp-login.php")
    gc.collect()
    grown = sys.getallocatedblocks() - blocks
    assert metrics.snapshot()["endpoints"] == before
    assert metrics.snapshot()["database"]["count"] == 1
    assert grown < 1_000  # one for each path would be 3,000
