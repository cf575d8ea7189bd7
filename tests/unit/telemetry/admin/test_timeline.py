"""Requests over time: which are shown, and how they leave as JSON."""

from __future__ import annotations

import pytest

from telemetry import PerformanceMetrics
from telemetry.admin import timeline
from telemetry.document import RouteWindow
from telemetry.readers.slices import Slice
from telemetry.readers.window import Sample
from telemetry.recent import Traces
from tests.unit.telemetry.queries import kept as made

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def window(route: str, *ages_s: float) -> RouteWindow:
    samples = (Sample(number, NOW - int(age * SECOND), 0.02, None, False) for number, age in enumerate(ages_s))
    return RouteWindow(route, "", tuple(samples), ())


def ages(shown: timeline.Timeline) -> list[float]:
    return [(NOW - point.sample.time_unix_nano) / SECOND for point in shown.points]


@pytest.mark.parametrize(("span", "shown"), [("5m", [299]), ("15m", [899, 299]), ("1h", [3599, 899, 299])])
def test_a_range_ends_now_and_leaves_out_what_is_older(span: str, shown: list[float]) -> None:
    chosen = timeline.select([window("GET /", 3601, 3599, 899, 299)], [], span, None, NOW)
    assert ages(chosen) == shown
    assert (chosen.start_unix_nano, chosen.end_unix_nano) == (NOW - timeline.RANGES_S[span] * SECOND, NOW)
    assert chosen.newest_unix_nano == NOW - 299 * SECOND


def test_all_starts_with_the_oldest_request() -> None:
    chosen = timeline.select([window("GET /", 90_000, 1)], [], "all", None, NOW)
    assert ages(chosen) == [90_000, 1]
    assert chosen.start_unix_nano == NOW - 90_000 * SECOND


def test_routes_are_merged_by_time_and_one_can_be_picked() -> None:
    windows = [window("GET /a", 30, 10), window("GET /b", 20)]
    assert ages(timeline.select(windows, [], "5m", None, NOW)) == [30, 20, 10]
    assert ages(timeline.select(windows, [], "5m", "GET /b", NOW)) == [20]
    assert ages(timeline.select(windows, [], "5m", "GET /none", NOW)) == []


def test_no_more_points_than_the_eye_can_tell_apart_and_the_newest_stay() -> None:
    chosen = timeline.select([window("GET /", *range(250, 0, -1))] * 10, [], "5m", None, NOW)
    assert len(chosen.points) == timeline.MAX_POINTS
    assert min(ages(chosen)) == 1
    assert max(ages(chosen)) == 200


def test_a_clock_that_went_back_hides_no_request() -> None:
    chosen = timeline.select([window("GET /", -60)], [], "all", None, NOW)
    assert ages(chosen) == [-60]
    assert chosen.start_unix_nano <= NOW < chosen.end_unix_nano == NOW + 60 * SECOND


def test_a_clock_that_had_run_ahead_leaves_the_last_minutes_what_they_are() -> None:
    chosen = timeline.select([window("GET /", -86_400, 30)], [], "15m", None, NOW)
    assert ages(chosen) == [30]
    assert chosen.end_unix_nano == NOW


@pytest.mark.parametrize("span", timeline.RANGES_S)
def test_without_a_request_there_is_the_last_minute_and_no_newest(span: str) -> None:
    chosen = timeline.select([], [], span, None, NOW)
    assert chosen == timeline.Timeline((), (), NOW - 60 * SECOND, NOW, None)


def test_a_range_that_is_mostly_empty_starts_with_the_first_request_but_is_never_under_a_minute() -> None:
    assert timeline.select([window("GET /", 200, 10)], [], "1h", None, NOW).start_unix_nano == NOW - 200 * SECOND
    assert timeline.select([window("GET /", 10)], [], "1h", None, NOW).start_unix_nano == NOW - 60 * SECOND


def test_slices_of_all_requests_are_shown_from_the_range_on_and_start_it() -> None:
    old, newer = (Slice(NOW - age * SECOND, NOW - (age - 10) * SECOND, 20, 0.1, 0.2, 0.3) for age in (400, 305))
    chosen = timeline.select([window("GET /", 1)], [old, newer], "5m", None, NOW)
    assert chosen.slices == (newer,)
    assert chosen.start_unix_nano == NOW - 300 * SECOND
    assert timeline.select([window("GET /", 1)], [old, newer], "1h", None, NOW).start_unix_nano == old.start_unix_nano


def test_slices_of_one_route_are_cut_out_of_its_window() -> None:
    windows = [window("GET /a", *range(40, 0, -1)), window("GET /b", 30)]
    chosen = timeline.select(windows, [Slice(NOW - SECOND, NOW, 41, 0.1, 0.2, 0.3)], "5m", "GET /a", NOW)
    assert [(each.request_count, each.p50_s) for each in chosen.slices] == [(20, 0.02), (20, 0.02)]


def test_the_body_is_columns_of_seconds_and_milliseconds() -> None:
    samples = (
        Sample(0, NOW - 2 * SECOND, 0.0201234, 0xABC, False),
        Sample(1, NOW - SECOND, 1.5, None, True),
    )
    windows = [RouteWindow("GET /b", "b", samples[:1], ()), RouteWindow("GET /a", "a", samples[1:], ())]
    slices = [Slice(NOW - 2 * SECOND, NOW - SECOND, 2, 0.76012345, 1.4, 1.48)]
    kept = made([], route="/b", trace_id=0xABC, span_id=0xDEF)
    assert timeline.select(windows, slices, "5m", None, NOW, Traces([kept])).body() == {
        "start": 1_699_999_940.0,
        "end": 1_700_000_000.0,
        "routes": ["GET /a", "GET /b"],
        "time": [1_699_999_998.0, 1_699_999_999.0],
        "duration_ms": [20.123, 1500.0],
        "is_error": [False, True],
        "route": [1, 0],
        "is_kept": [True, False],
        "trace_id": [f"{0xABC:032x}", None],
        "span_id": [f"{0xDEF:016x}", None],
        "slices": {
            "start": [1_699_999_998.0],
            "end": [1_699_999_999.0],
            "count": [2],
            "p50_ms": [760.123],
            "p95_ms": [1400.0],
            "p99_ms": [1480.0],
            "worker": [None],
        },
    }


def test_it_reads_what_the_metrics_hold() -> None:
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /", 0.25, is_error=True)
    recorded = metrics.store.samples("GET /")[0].time_unix_nano
    (point,) = timeline.read(metrics, metrics.recent.all(), "5m", None, recorded + SECOND).points
    assert (point.route, point.sample.value, point.sample.is_error) == ("GET /", 0.25, True)
