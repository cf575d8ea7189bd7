"""`PerformanceMetrics`: the spec's section 3."""

from __future__ import annotations

import math
import sqlite3
import statistics
import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from telemetry import PerformanceMetrics, TelemetrySettings, get_metrics, set_metrics
from telemetry.document import RATINGS_POST_ROUTE
from telemetry.percentiles import percentile

seconds = st.floats(min_value=0, max_value=3600, allow_nan=False)


def test_a_new_instance_reads_as_zeros() -> None:
    snapshot = PerformanceMetrics().snapshot()
    assert snapshot["cache_hit_rate"] == 0.0
    assert snapshot["database"] == {"total_queries": 0, "avg_per_request": 0.0, "max_per_request": 0, "count": 0}
    assert snapshot["ratings_post"] == {"p95_latency_ms": 0.0, "avg_latency_ms": 0.0, "request_count": 0}
    assert snapshot["endpoints"] == {}
    assert snapshot["cache"] == {"hits": 0, "misses": 0, "hit_rate_percent": 0.0}
    assert snapshot["resources"]["uptime_seconds"] == snapshot["uptime_seconds"] >= 0


def test_get_metrics_always_returns_the_same_instance() -> None:
    before = set_metrics(None)
    try:
        assert get_metrics() is get_metrics()
    finally:
        set_metrics(before)


def test_instances_do_not_share_figures() -> None:
    one, other = PerformanceMetrics(), PerformanceMetrics()
    one.record_cache_hit()
    one.record_endpoint_latency("GET /", 0.1)
    assert one.cache_hits == 1
    assert other.cache_hits == 0
    assert other.snapshot()["endpoints"] == {}


def test_the_cache_hit_rate_is_hits_over_lookups_in_percent() -> None:
    metrics = PerformanceMetrics()
    for _ in range(3):
        metrics.record_cache_hit()
    metrics.record_cache_miss()
    assert metrics.get_cache_hit_rate() == 75.0
    assert metrics.snapshot()["cache"] == {"hits": 3, "misses": 1, "hit_rate_percent": 75.0}


def test_a_mean_is_not_off_by_the_errors_of_its_sums() -> None:
    metrics = PerformanceMetrics()
    metrics.ratings_post_latencies.extend([0.1] * 10)
    assert metrics.get_ratings_post_avg_latency() == 100.0


def test_lookups_are_counted_on_where_the_provider_changes() -> None:
    metrics = PerformanceMetrics()
    providers = [MeterProvider(shutdown_on_exit=False) for _ in range(2)]
    for number, provider in enumerate(providers, 1):
        metrics.attach(provider)
        metrics.record_cache_hit(number)
        metrics.record_cache_miss()
        metrics.detach(provider)
        metrics.record_cache_hit(10)
    assert (metrics.cache_hits, metrics.cache_misses) == (23, 2)


def test_cache_counts_can_be_raised_as_plain_attributes() -> None:
    metrics = PerformanceMetrics()
    with metrics.lock:
        metrics.cache_hits += 2
        metrics.cache_misses += 1
    assert (metrics.cache_hits, metrics.cache_misses) == (2, 1)


@given(st.lists(seconds, max_size=250))
def test_a_route_shows_exactly_its_last_100_samples(durations_s: list[float]) -> None:
    metrics = PerformanceMetrics()
    for duration_s in durations_s:
        metrics.record_endpoint_latency("GET /x", duration_s)
    kept = durations_s[-100:]
    assert metrics.endpoint_latencies["GET /x"] == kept
    if not kept:
        assert metrics.snapshot()["endpoints"] == {}
        return
    shown = metrics.snapshot()["endpoints"]["GET /x"]
    assert shown["request_count"] == len(kept)
    assert shown["avg_ms"] == pytest.approx(statistics.fmean(kept) * 1000, abs=0.001)
    assert shown["min_ms"] == pytest.approx(min(kept) * 1000, abs=0.001)
    assert shown["max_ms"] == pytest.approx(max(kept) * 1000, abs=0.001)
    cuts = statistics.quantiles(kept, n=100, method="inclusive") if len(kept) > 1 else kept * 99
    for name, cut in (("p50_ms", 49), ("p95_ms", 94), ("p99_ms", 98)):
        assert shown[name] == pytest.approx(cuts[cut] * 1000, abs=0.001)


@given(st.lists(seconds, max_size=150), st.integers(1, 99))
def test_a_percentile_never_leaves_the_range_of_the_samples(samples: list[float], percent: int) -> None:
    found = percentile(samples, percent)
    if samples:
        assert min(samples) * (1 - 1e-12) <= found <= max(samples) * (1 + 1e-12)
    else:
        assert found == 0.0


def test_errors_and_successes_share_one_window() -> None:
    metrics = PerformanceMetrics()
    for number in range(150):
        metrics.record_endpoint_latency("GET /x", number, is_error=number % 10 == 0)
    shown = metrics.snapshot()["endpoints"]["GET /x"]
    assert shown["request_count"] == 100
    assert shown["error_count"] == 10
    assert shown["min_ms"] == 50_000


def test_the_specs_way_of_writing_ends_in_the_same_windows() -> None:
    metrics = PerformanceMetrics()
    with metrics.lock:
        metrics.ratings_post_latencies.append(0.03)
        metrics.endpoint_latencies["GET /watch/<filename>"].append(0.02)
        metrics.endpoint_latencies["GET /watch/<filename>"].extend([0.04, 0.06])
        metrics.db_queries_per_request.append(7)
        metrics.total_db_queries += 7
        metrics.db_queries_per_request.append(3)
        metrics.total_db_queries += 3
    assert metrics.total_db_queries == 10
    assert metrics.get_ratings_post_count() == 1
    assert metrics.get_ratings_post_p95_latency() == pytest.approx(30)
    assert metrics.get_ratings_post_avg_latency() == pytest.approx(30)
    snapshot = metrics.snapshot()
    assert snapshot["database"] == {"total_queries": 10, "avg_per_request": 5.0, "max_per_request": 7, "count": 2}
    assert snapshot["endpoints"]["GET /watch/<filename>"]["avg_ms"] == 40.0
    assert snapshot["ratings_post"]["request_count"] == snapshot["endpoints"][RATINGS_POST_ROUTE]["request_count"] == 1


def test_a_window_reads_as_the_list_it_stands_for() -> None:
    metrics = PerformanceMetrics()
    latencies = metrics.endpoint_latencies["GET /"]
    assert list(latencies) == []
    assert metrics.endpoint_latencies.keys() == set()
    latencies.extend([0.1, 0.2, 0.3])
    assert len(latencies) == 3
    assert latencies[-1] == 0.3
    assert latencies[:2] == [0.1, 0.2]
    assert 0.2 in latencies
    assert repr(latencies) == "[0.1, 0.2, 0.3]"
    assert latencies == metrics.endpoint_latencies["GET /"]
    assert latencies != "something else"
    assert list(metrics.endpoint_latencies) == ["GET /"]
    assert len(metrics.endpoint_latencies) == 1


def test_database_entries_beyond_the_window_leave_it() -> None:
    metrics = PerformanceMetrics()
    metrics.db_queries_per_request.extend(range(150))
    assert metrics.db_queries_per_request == list(range(50, 150))
    assert metrics.snapshot()["database"]["total_queries"] == sum(range(50, 150))


def test_values_that_are_no_duration_are_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    metrics = PerformanceMetrics()
    for wrong in (-1.0, math.nan, math.inf):
        metrics.record_endpoint_latency("GET /", wrong)
    assert metrics.snapshot()["endpoints"] == {}
    assert len(caplog.records) == 3


def test_another_window_size_is_a_setting() -> None:
    metrics = PerformanceMetrics(TelemetrySettings.load(window=3))
    metrics.endpoint_latencies["GET /"].extend([1, 2, 3, 4])
    assert metrics.endpoint_latencies["GET /"] == [2, 3, 4]


def test_routes_beyond_the_limit_get_no_window(caplog: pytest.LogCaptureFixture) -> None:
    metrics = PerformanceMetrics(TelemetrySettings.load(max_routes=2))
    for route in ("GET /a", "GET /b", "GET /c", "GET /d", "GET /a"):
        metrics.record_endpoint_latency(route, 0.1)
    assert list(metrics.endpoint_latencies) == ["GET /a", "GET /b"]
    assert [record.message for record in caplog.records] == ["more than 2 routes: GET /c and later ones get no window"]


def test_each_status_of_many_routes_enters_their_windows(instrumented: Callable[..., Flask]) -> None:
    metrics = PerformanceMetrics(TelemetrySettings.load())
    app = Flask(__name__)
    for number in range(700):
        app.add_url_rule(f"/{number}/<int:status>", f"view{number}", lambda status: ("", status))
    client = instrumented(app, metrics=metrics).test_client()
    for status in (200, 404, 500):  # more series together than the SDK's limit on the cardinality of an instrument
        for number in range(700):
            client.get(f"/{number}/{status}")
    figures = metrics.snapshot()["endpoints"].values()
    assert {(each["request_count"], each["error_count"]) for each in figures} == {(3, 1)}


def test_queries_of_routes_beyond_the_limit_count_among_those_of_all_routes(instrumented: Callable[..., Flask]) -> None:
    app = Flask(__name__)

    def queries(number: int) -> str:
        with closing(sqlite3.connect(":memory:")) as opened:
            for _ in range(number):
                opened.execute("SELECT 1")
        return ""

    app.add_url_rule("/a", "a", lambda: queries(2))
    app.add_url_rule("/b", "b", lambda: queries(5))
    metrics = PerformanceMetrics(TelemetrySettings.load(max_routes=1))
    client = instrumented(app, metrics=metrics).test_client()
    for path in ("/a", "/b", "/b"):
        client.get(path)
    assert metrics.snapshot()["database"] == {
        "total_queries": 12,
        "avg_per_request": 4.0,
        "max_per_request": 5,
        "count": 3,
    }


def test_many_threads_lose_no_sample() -> None:
    metrics = PerformanceMetrics(TelemetrySettings.load(window=10_000))

    def write() -> None:
        for _ in range(500):
            metrics.record_endpoint_latency("GET /", 0.001)
            metrics.record_cache_hit()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(metrics.endpoint_latencies["GET /"]) == 4000
    assert metrics.cache_hits == 4000


def test_uptime_grows_and_a_route_of_the_json_is_a_stats_object() -> None:
    metrics = PerformanceMetrics()
    first = metrics.get_uptime_seconds()
    metrics.record_endpoint_latency("GET /", 0.01)
    assert metrics.get_uptime_seconds() >= first >= 0
    assert set(metrics.snapshot()["endpoints"]["GET /"]) == {
        "route",
        "endpoint",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "avg_ms",
        "min_ms",
        "max_ms",
        "request_count",
        "error_count",
        "last_updated",
    }


@pytest.mark.parametrize("other_readers", [0, 1])
def test_a_gauge_of_the_app_may_show_the_hit_rate(other_readers: int) -> None:
    others = [InMemoryMetricReader() for _ in range(other_readers)]
    provider = MeterProvider(others, shutdown_on_exit=False)
    metrics = PerformanceMetrics(meter_provider=provider)
    seen = []

    def observe(_: CallbackOptions) -> list[Observation]:
        seen.append(metrics.get_cache_hit_rate())
        return [Observation(seen[-1])]

    provider.get_meter("app").create_observable_gauge("hit_rate", [observe])
    metrics.record_cache_hit(3)
    metrics.record_cache_miss()
    read = others[0].get_metrics_data if others else metrics.snapshot
    for _ in range(2):  # the second time it sees what the reader has collected the first time
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert metrics.get_cache_hit_rate() == 75
    assert seen[-1] == (0 if others else 75)


def test_routes_are_sorted_by_name() -> None:
    metrics = PerformanceMetrics()
    for route in ("nightly", "GET /b", "POST /a", "GET /a"):
        metrics.record_endpoint_latency(route, 0.1)
    assert list(metrics.endpoint_latencies) == ["GET /a", "GET /b", "POST /a", "nightly"]


def test_the_p95_of_ratings_is_no_other_percentile() -> None:
    metrics = PerformanceMetrics()
    metrics.ratings_post_latencies.extend(number / 1000 for number in range(1, 101))
    assert metrics.get_ratings_post_p95_latency() == pytest.approx(95.05)


def test_each_provider_can_be_detached_and_what_is_recorded_goes_to_the_first() -> None:
    providers = [MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False) for _ in range(3)]
    metrics = PerformanceMetrics()
    for provider in providers:
        metrics.attach(provider)
    metrics.detach(providers[2])
    assert [metrics.is_attached(provider) for provider in providers] == [True, True, False]
    assert metrics.meter_provider is metrics.attached_provider is providers[0]


def test_what_others_measure_of_requests_and_of_the_process_is_no_figure_of_ours() -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    metrics = PerformanceMetrics(meter_provider=provider)
    other = provider.get_meter("opentelemetry.instrumentation.another")
    duration = other.create_histogram("http.server.request.duration", "s")
    metrics.record_endpoint_latency("GET /", 0.5)
    for route in ("/", "/of/another/framework"):
        duration.record(9, {"http.request.method": "GET", "http.route": route})
    other.create_observable_gauge("process.cpu.utilization", [lambda _: [Observation(1000)]])
    other.create_counter("telemetry.cache.lookups").add(5, {"telemetry.cache.outcome": "hit"})
    snapshot = metrics.snapshot()
    assert {route: stats["request_count"] for route, stats in snapshot["endpoints"].items()} == {"GET /": 1}
    assert sum(each.request_count for each in metrics.slices()) == 1
    assert metrics.cache_lookups() == (0, 0)
    assert snapshot["resources"].get("cpu_percent", 0) <= 100


def test_time_lost_to_locks_is_of_routes_until_it_is_reset() -> None:
    metrics = PerformanceMetrics()
    made = metrics.attach(metrics.meter_provider)
    route = {"http.request.method": "POST", "http.route": "/rate"}
    made.lock_wait.record(0.5, route)
    made.lock_wait.record(0.25, route)
    made.lock_wait.record(1, {})
    metrics.db_queries_per_request.append(3)
    assert metrics.lock_waits() == {"POST /rate": 0.75}
    metrics.reset()
    assert (metrics.lock_waits(), metrics.db_queries_per_request) == ({}, [])


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (lambda metrics: metrics.record_cache_hit(math.nan), "lookups must be a whole number, got nan"),
        (lambda metrics: metrics.record_cache_miss(None), "lookups must be a whole number, got None"),
        (lambda metrics: metrics.record_endpoint_latency("GET /", "slow"), "duration must be a number, got 'slow'"),
        (lambda metrics: metrics.record_endpoint_latency(None, 1.0), "route must be a text, got None"),
        (lambda metrics: metrics.db_queries_per_request.append("1"), "the number of queries must be a number, got '1'"),
    ],
)
def test_what_can_t_be_recorded_is_dropped_and_told(
    record: Callable[[PerformanceMetrics], None],
    told: str,
    metrics: PerformanceMetrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics.record_cache_hit()
    before = metrics.snapshot()
    record(metrics)
    after = metrics.snapshot()
    assert {**after, "resources": None, "uptime_seconds": None} == {**before, "resources": None, "uptime_seconds": None}
    assert told in caplog.text
