"""The diagnostic layer: the spec's section 4, on the figures of the admin pages."""

from __future__ import annotations

import dataclasses
import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask, Response, current_app, got_request_exception
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from werkzeug.exceptions import NotFound

import telemetry
from telemetry import (
    InstrumentationError,
    PerformanceMetric,
    PerformanceMetrics,
    PerformanceMonitor,
    TelemetrySettings,
    flask_route_monitor,
    instrument,
    performance_monitor,
    set_metrics,
    uninstrument,
)
from telemetry import monitor as module
from telemetry.monitor import MOST_METRICS, get_system_stats, performance_report, set_monitor
from tests.conftest import Instrument


@pytest.fixture
def monitor(metrics: PerformanceMetrics) -> Iterator[PerformanceMonitor]:
    """The test's own monitor, which the decorators use as well, on the test's own figures."""
    made = PerformanceMonitor(metrics)
    before = set_monitor(made)
    yield made
    set_monitor(before)


def shop() -> Flask:
    app = Flask(__name__)

    @app.get("/item/<int:number>")
    def item(number: int) -> str:
        return str(10 // number)

    @app.post("/item/<int:number>")
    def change(number: int) -> Response:
        return Response(status=503 if number == 5 else 201)

    @app.get("/ping")
    def ping() -> str:
        return "pong"

    return app


def endpoints(client: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/admin/performance/json").json["endpoints"]
    return found


# -- the same figures as the admin pages --------------------------------------------------------------------------------


@settings(max_examples=40)
@given(traffic=st.lists(st.tuples(st.sampled_from(["GET", "POST"]), st.integers(0, 6), st.booleans()), max_size=40))
def test_route_stats_are_those_of_the_admin_json_whatever_the_traffic(traffic: list[tuple[str, int, bool]]) -> None:
    metrics = PerformanceMetrics()
    monitor = PerformanceMonitor(metrics)
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    app = flask_route_monitor(instrument(shop(), metrics=metrics, tracer_provider=tracer_provider))
    logging.getLogger(app.name).disabled = True
    client = app.test_client()
    try:
        for method, number, by_hand in traffic:
            if by_hand:
                monitor.record_route_time(f"{method} /batch/{number}", number / 100, is_error=number == 0)
                monitor.record_cache_hit() if number else monitor.record_cache_miss()
            else:
                client.open(f"/item/{number}", method=method)
        answer = client.get("/admin/performance/json").json
        assert monitor.get_route_stats() == answer["endpoints"]
        assert sum(stats["request_count"] for stats in answer["endpoints"].values()) == len(traffic)
        assert monitor.get_cache_hit_rate() == pytest.approx(answer["cache_hit_rate"], abs=0.001)
        assert {name: monitor.cache_stats[name] for name in ("hits", "misses")} == {
            name: answer["cache"][name] for name in ("hits", "misses")
        }
        monitor.reset_stats()
        assert client.get("/admin/performance/json").json["endpoints"] == monitor.get_route_stats() == {}
    finally:
        uninstrument(app)


def test_a_reset_empties_the_windows_and_counts_lookups_anew(
    monitor: PerformanceMonitor, metrics: PerformanceMetrics, instrumented: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    exported = InMemoryMetricReader()
    client = instrumented(shop(), meter_provider=MeterProvider([exported], shutdown_on_exit=False)).test_client()
    client.get("/item/1")
    monitor.record_cache_hit()
    monitor.record_cache_miss()
    monitor.record_metric(PerformanceMetric("job", 0.5))
    caplog.set_level(logging.INFO, "telemetry.monitor")
    monitor.reset_stats()
    assert "reset: the windows of 1 routes" in caplog.text
    answer = client.get("/admin/performance/json").json
    assert answer["endpoints"] == {}
    assert answer["database"] == {"total_queries": 0, "avg_per_request": 0.0, "max_per_request": 0, "count": 0}
    assert answer["cache"] == {"hits": 0, "misses": 0, "hit_rate_percent": 0.0}
    assert answer["uptime_seconds"] > 0
    assert (monitor.metrics, dict(monitor.route_stats), monitor.get_recent_metrics()) == ([], {}, [])
    assert client.get("/admin/performance").status_code == 200
    assert client.get("/api/admin/performance/timeline").json["time"] == []
    client.get("/item/2")
    monitor.record_cache_miss()
    assert endpoints(client)["GET /item/<number>"]["request_count"] == 1
    assert [window.queries for window in metrics.route_windows()] == [(0,)]
    assert monitor.cache_stats == {"hits": 0, "misses": 1, "total_requests": 1}
    assert metrics.cache_misses == 1
    assert lookups_exported(exported) == 3


def lookups_exported(reader: InMemoryMetricReader) -> int:
    return sum(int(point.value) for point in points(reader, "telemetry.cache.lookups"))


def points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


def test_the_route_stats_hold_the_seconds_of_each_window(monitor: PerformanceMonitor) -> None:
    for number in range(150):
        monitor.record_route_time("GET /x", number / 1000)
    assert monitor.route_stats["GET /x"] == [number / 1000 for number in range(50, 150)]
    assert list(monitor.route_stats) == ["GET /x"]


def test_without_a_source_it_follows_the_metrics_of_the_process() -> None:
    monitor = PerformanceMonitor()
    before = set_metrics(PerformanceMetrics())
    try:
        monitor.record_cache_hit()
        assert monitor.get_cache_hit_rate() == 100.0
        set_metrics(PerformanceMetrics())
        assert monitor.get_cache_hit_rate() == 0.0
    finally:
        set_metrics(before)


def test_calls_reach_every_reader_as_a_histogram() -> None:
    exported = InMemoryMetricReader()
    metrics = PerformanceMetrics(meter_provider=MeterProvider([exported], shutdown_on_exit=False))
    monitor = PerformanceMonitor(metrics)
    monitor.record_metric(PerformanceMetric("job", 0.25))
    monitor.record_metric(PerformanceMetric("job", 0.5, error="ValueError"))
    found = {
        (point.attributes["code.function.name"], point.attributes.get("error.type")): (point.count, point.sum)
        for point in points(exported, "telemetry.function.duration")
    }
    assert found == {("job", None): (1, 0.25), ("job", "ValueError"): (1, 0.5)}


# -- bounds, and what can't be recorded ---------------------------------------------------------------------------------


def test_the_newest_calls_are_kept_and_no_more(monitor: PerformanceMonitor) -> None:
    for number in range(MOST_METRICS + 5):
        monitor.record_metric(PerformanceMetric(f"job {number}", 0.001))
    assert len(monitor.metrics) == MOST_METRICS
    assert [metric.name for metric in monitor.get_recent_metrics(2)] == ["job 1003", "job 1004"]
    assert len(monitor.get_recent_metrics()) == 10
    assert monitor.get_recent_metrics(0) == monitor.get_recent_metrics(-3) == []


def test_names_that_never_end_come_to_a_bounded_number_of_series() -> None:
    exported = InMemoryMetricReader()
    metrics = PerformanceMetrics(
        TelemetrySettings(max_routes=5), meter_provider=MeterProvider([exported], shutdown_on_exit=False)
    )
    monitor = PerformanceMonitor(metrics)
    for number in range(1500):
        monitor.record_metric(PerformanceMetric(f"job {number}", 0.001))
        monitor.record_route_time(f"GET /{number}", 0.001)
    names = {point.attributes["code.function.name"] for point in points(exported, "telemetry.function.duration")}
    assert len(names) == 1001
    assert "_OTHER" in names
    assert len(monitor.get_route_stats()) == 5
    assert len(points(exported, "http.server.request.duration")) == 5


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf"), "1", None])
def test_a_duration_that_is_none_is_dropped_and_said_once(
    duration: Any, monitor: PerformanceMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    monitor.record_route_time("GET /x", duration)
    monitor.record_metric(PerformanceMetric("job", duration))
    assert (monitor.get_route_stats(), monitor.metrics) == ({}, [])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_route_without_a_name_is_dropped(name: Any, monitor: PerformanceMonitor) -> None:
    monitor.record_route_time(name, 0.1)
    monitor.record_metric(name)
    assert (monitor.get_route_stats(), monitor.metrics) == ({}, [])


def test_nothing_is_raised_when_the_figures_can_not_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = PerformanceMetrics()
    monitor = PerformanceMonitor(metrics)

    def fail(*_: Any) -> None:
        raise RuntimeError("broken")

    for name in ("attach", "record_cache_hit", "record_endpoint_latency", "reset"):
        monkeypatch.setattr(metrics, name, fail)
    monitor.record_cache_hit()
    monitor.record_route_time("GET /x", 0.1)
    monitor.record_metric(PerformanceMetric("job", 0.1))
    monitor.reset_stats()


def test_wrong_settings_do_not_stop_a_function(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_WINDOW", "many")
    before, before_monitor = set_metrics(None), set_monitor(PerformanceMonitor())
    try:
        assert performance_monitor(lambda: 7)() == 7
        module.monitor.record_cache_hit()
        assert module.monitor.get_cache_hit_rate() == 100.0
        assert "the diagnostic layer goes by the defaults" in caplog.text
    finally:
        set_metrics(before)
        set_monitor(before_monitor)


def test_many_threads_lose_nothing(monitor: PerformanceMonitor) -> None:
    def work() -> None:
        for _ in range(200):
            monitor.record_cache_hit()
            monitor.record_route_time("GET /x", 0.001)
            monitor.record_metric(PerformanceMetric("job", 0.001))
            monitor.get_route_stats()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.cache_stats["hits"] == 800
    assert len(monitor.metrics) == 800
    assert monitor.get_route_stats()["GET /x"]["request_count"] == 100


# -- switched off -------------------------------------------------------------------------------------------------------


def test_with_the_setting_off_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVS_TELEMETRY_MONITOR", "false")
    monitor = PerformanceMonitor(PerformanceMetrics())
    assert not monitor.enabled
    monitor.record_cache_hit()
    monitor.record_cache_miss()
    monitor.record_route_time("GET /x", 0.1)
    monitor.record_metric(PerformanceMetric("job", 0.1))
    assert (monitor.metrics, monitor.get_route_stats(), monitor.cache_stats["total_requests"]) == ([], {}, 0)
    monitor.enabled = True
    monitor.record_cache_hit()
    assert monitor.cache_stats["hits"] == 1


# -- routes of an app ---------------------------------------------------------------------------------------------------


def test_requests_are_keyed_by_method_and_endpoint(monitor: PerformanceMonitor) -> None:
    app = flask_route_monitor(shop())
    assert flask_route_monitor(app) is app
    client = app.test_client()
    for path in ("/item/1", "/item/2", "/nowhere", "/ping", "/static/x"):
        client.get(path)
    client.post("/item/5")
    client.get("/item/0")
    stats = monitor.get_route_stats()
    assert {name: (row["request_count"], row["error_count"]) for name, row in stats.items()} == {
        "GET item": (3, 1),
        "POST change": (1, 1),
    }


def test_an_exception_that_leaves_the_app_is_an_error_too(monitor: PerformanceMonitor) -> None:
    app = flask_route_monitor(shop())
    app.testing = True
    with pytest.raises(ZeroDivisionError):
        app.test_client().get("/item/0")
    assert monitor.get_route_stats()["GET item"]["error_count"] == 1


def test_an_http_exception_that_an_extension_signals_and_answers_is_no_error(monitor: PerformanceMonitor) -> None:
    app = flask_route_monitor(shop())

    @app.get("/signalled")
    def signalled() -> tuple[str, int]:
        got_request_exception.send(current_app._get_current_object(), exception=NotFound())  # type: ignore[attr-defined]
        return "no such thing", 404

    app.test_client().get("/signalled")
    assert monitor.get_route_stats()["GET signalled"]["error_count"] == 0


def test_an_exception_that_a_handler_dresses_up_as_success_is_an_error(monitor: PerformanceMonitor) -> None:
    app = flask_route_monitor(shop())
    app.register_error_handler(500, lambda _: ("sorry", 200))
    assert app.test_client().get("/item/0").status_code == 200
    assert monitor.get_route_stats()["GET item"]["error_count"] == 1


def test_an_app_function_that_answers_early_is_measured_and_may_come_later(monitor: PerformanceMonitor) -> None:
    app = shop()
    app.before_request(lambda: ("closed", 503))
    client = app.test_client()
    client.get("/item/1")
    flask_route_monitor(app)
    client.get("/item/1")
    assert monitor.get_route_stats()["GET item"]["request_count"] == 1
    assert monitor.get_route_stats()["GET item"]["error_count"] == 1


@pytest.mark.parametrize("first", ["instrument", "monitor"])
def test_on_an_instrumented_app_nothing_is_counted_twice(
    first: str, monitor: PerformanceMonitor, instrumented: Instrument
) -> None:
    app = shop()
    steps: list[Callable[[Flask], Flask]] = [instrumented, flask_route_monitor]
    for step in steps if first == "instrument" else reversed(steps):
        step(app)
    client = app.test_client()
    for _ in range(3):
        client.get("/item/1")
    assert {name: row["request_count"] for name, row in endpoints(client).items()} == {"GET /item/<number>": 3}
    assert monitor.get_route_stats() == endpoints(client)
    uninstrument(app)
    client.get("/item/1")
    assert monitor.get_route_stats()["GET item"]["request_count"] == 1


def test_two_apps_in_one_request_are_both_measured(monitor: PerformanceMonitor) -> None:
    inner, outer = flask_route_monitor(shop()), flask_route_monitor(Flask("outer"))

    @outer.get("/item/<int:number>", endpoint="pass_on")
    def pass_on(number: int) -> Response:
        from flask import request

        return Response.from_app(inner, request.environ)

    assert outer.test_client().get("/item/2").text == "5"
    assert set(monitor.get_route_stats()) == {"GET item", "GET pass_on"}


def test_with_the_setting_off_an_app_is_served_as_before(monitor: PerformanceMonitor) -> None:
    monitor.enabled = False
    assert flask_route_monitor(shop()).test_client().get("/item/1").text == "10"
    assert monitor.get_route_stats() == {}


def test_what_is_no_app_is_refused() -> None:
    with pytest.raises(InstrumentationError, match="app must be a Flask app, got object"):
        flask_route_monitor(object())  # type: ignore[type-var]


def test_a_function_named_like_a_route_is_one_unless_its_request_is_measured(
    monitor: PerformanceMonitor, instrumented: Instrument
) -> None:
    @performance_monitor("GET /report")
    def report() -> str:
        return "report"

    @performance_monitor
    def index() -> str:
        return "index"

    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: report() + index())
    client = app.test_client()
    client.get("/")
    assert {name: row["request_count"] for name, row in monitor.get_route_stats().items()} == {"GET /report": 1}
    flask_route_monitor(app)
    client.get("/")
    assert {name: row["request_count"] for name, row in monitor.get_route_stats().items()} == {
        "GET /report": 1,
        "GET <lambda>": 1,
    }
    monitor.reset_stats()
    client = instrumented(shop()).test_client()
    client.application.view_functions["item"] = lambda number: report()
    client.get("/item/1")
    assert set(monitor.get_route_stats()) == {"GET /item/<number>"}
    assert [metric.name for metric in monitor.metrics] == ["GET /report"]


# -- the helpers --------------------------------------------------------------------------------------------------------


def test_system_stats_are_those_of_this_process(monitor: PerformanceMonitor) -> None:
    stats = get_system_stats()
    assert set(stats) >= {"cpu_percent", "memory_mb", "memory_percent", "open_files", "threads"}
    assert 5 < stats["memory_mb"] < 10_000
    assert 0 <= stats["cpu_percent"] <= 100
    assert stats["threads"] >= 1


def test_the_report_names_what_is_slow_what_failed_and_the_slow_calls(monitor: PerformanceMonitor) -> None:
    for _ in range(30):
        monitor.record_route_time("GET /slow", 0.5)
    monitor.record_route_time("GET /bad", 0.001, is_error=True)
    monitor.record_metric(PerformanceMetric("rebuild", 2.5))
    monitor.record_metric(PerformanceMetric("send", 0.001, error="OSError"))
    monitor.record_cache_miss()
    text = performance_report()
    assert "■ GET /slow: poor. Its p95 is 500 ms" in text
    assert "■ GET /bad: poor. 1 error in 1 request (100 %)." in text
    assert "■ rebuild: poor. It took 2.50 s." in text
    assert "▲ send: warning. It took 1.00 ms and raised OSError." in text
    assert "They answered 0 % of 1 lookup, too few to judge." in text
    assert "MiB resident" in text
    assert "of the machine's memory" in text


def test_the_public_names_come_from_the_package_as_well() -> None:
    assert telemetry.PerformanceMonitor is PerformanceMonitor
    assert telemetry.performance_monitor is module.performance_monitor
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = telemetry.nothing  # type: ignore[attr-defined]
    assert dataclasses.is_dataclass(PerformanceMetric)


def test_instrumenting_an_app_does_not_import_the_diagnostic_layer() -> None:
    script = (
        "import sys; from telemetry import instrument; "
        "print([name for name in sys.modules if name in "
        "('telemetry.monitor', 'telemetry.report', 'telemetry.loadtest', 'telemetry.timing')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


WITHOUT_PSUTIL = """
import sys
sys.modules["psutil"] = None
from flask import Flask
from telemetry import get_metrics, instrument
from telemetry.monitor import get_system_stats, monitor, performance_monitor, performance_report
app = instrument(Flask("app"))
app.add_url_rule("/", view_func=performance_monitor(lambda: "home"))
client = app.test_client()
assert client.get("/").status_code == 200
answer = client.get("/admin/performance/json").json
assert set(answer["resources"]) == {"uptime_seconds"}, answer
assert list(answer["endpoints"]) == ["GET /"]
assert monitor.get_route_stats() == answer["endpoints"]
assert get_system_stats() == {}
assert monitor.metrics[0].memory_before is None and monitor.metrics[0].memory_after is None
assert "The system does not tell CPU and memory." in performance_report()
assert client.get("/admin/performance").status_code == 200
print("fine")
"""


def test_without_psutil_everything_else_works() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_PSUTIL], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


def test_percentiles_rise_for_any_samples(monitor: PerformanceMonitor) -> None:
    randomness = random.Random(7)
    for _ in range(60):
        monitor.record_route_time("GET /x", randomness.random())
    stats: dict[str, Any] = dict(monitor.get_route_stats()["GET /x"])
    rising = [stats[name] for name in ("min_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms")]
    assert all(lower <= higher for lower, higher in pairwise(rising))
