"""What needs a look, and why."""

from __future__ import annotations

import pytest

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.admin import attention, exporters, overview
from telemetry.document import RouteWindow
from telemetry.exporters.status import ExportStatus
from telemetry.figures import POOR, WARNING
from telemetry.readers.window import Sample
from telemetry.recent import Traces
from tests.unit.telemetry.queries import kept as made

SETTINGS = TelemetrySettings(good_below_ms=50, poor_above_ms=200, fan_out_warning=20, cache_good_percent=90)
NO_LOOKUPS = {"hits": 0, "misses": 0, "hit_rate_percent": 0.0}


def route(name: str, *, ms: float = 10, requests: int = 100, errors: int = 0, queries: tuple[int, ...] = ()):
    samples = (Sample(number, number, ms / 1000, None, number < errors) for number in range(requests))
    return overview.row(RouteWindow(name, "", tuple(samples), queries), SETTINGS)


def notes(*rows: overview.Row, cache: dict[str, float] = NO_LOOKUPS) -> list[attention.Note]:
    return attention.notes(overview.Overview((), rows, (), {"cache": cache}, 0), SETTINGS)


def texts(note: attention.Note) -> tuple[str, ...]:
    return tuple(fact.text for fact in note.facts)


def test_what_is_good_is_not_mentioned() -> None:
    for cache in ({"hits": 90, "misses": 10, "hit_rate_percent": 90}, {"hits": 0, "misses": 99, "hit_rate_percent": 0}):
        assert notes(route("GET /", ms=49, queries=(19,)), cache=cache) == []


def test_nothing_measured_needs_no_look() -> None:
    assert notes() == []


@pytest.mark.parametrize(("ms", "status"), [(50, WARNING), (200, WARNING), (201, POOR)])
def test_a_slow_route_is_named_with_its_p95_and_the_threshold(ms: float, status) -> None:
    (note,) = notes(route("GET /slow", ms=ms))
    assert (note.subject, texts(note), note.status) == ("GET /slow", (f"p95 {ms:.3g}{'.0' * (ms < 100)} ms",), status)
    assert note.rule == "p95 under 50.0 ms is good, over 200 ms poor, between them a warning"
    assert note.row is not None


@pytest.mark.parametrize(("requests", "fact"), [(1, "p95 80.0 ms of 1 request only"), (20, "p95 80.0 ms")])
def test_a_p95_of_few_requests_says_so(requests: int, fact: str) -> None:
    (note,) = notes(route("GET /", ms=80, requests=requests))
    assert texts(note) == (fact,)


@pytest.mark.parametrize(
    ("errors", "fact", "status"),
    [
        (1, "1 error in 200 requests", WARNING),
        (9, "9 errors in 200 requests", WARNING),
        (10, "10 errors in 200 requests", POOR),
    ],
)
def test_a_failing_route_is_at_least_a_warning(errors: int, fact: str, status) -> None:
    (note,) = notes(route("GET /", requests=200, errors=errors))
    assert (texts(note), note.status) == ((fact,), status)
    assert note.rule == "errors: a route with one is a warning, and poor from 5 % of its requests on"


def test_each_fact_leads_to_a_kept_request_that_shows_it() -> None:
    samples = [
        Sample(number, number, ms / 1000, 100 + number, ms == 70) for number, ms in enumerate((10, 70, 300, 20, 70, 30))
    ]
    window = RouteWindow("GET /", "", tuple(samples), (1, 1, 1, 30, 1, 1))
    requests = [
        made([], route="/", trace_id=number, query_count=30 if number == 103 else 1) for number in range(101, 105)
    ]
    (none,) = notes(overview.row(window, SETTINGS))
    assert [fact.request_id for fact in none.facts] == [None, None, None]
    (note,) = notes(overview.row(window, SETTINGS, Traces(requests)))
    slowest, newest_failed, most_queries = (requests[number].request_id for number in (1, 3, 2))
    assert [(fact.text.partition(" ")[0], fact.request_id) for fact in note.facts] == [
        ("p95", slowest),
        ("2", newest_failed),
        ("up", most_queries),
    ]


def test_a_request_with_many_queries_is_a_warning() -> None:
    (note,) = notes(route("GET /tag", queries=(1, 51)))
    assert (texts(note), note.status) == (("up to 51 queries in one request",), WARNING)
    assert "from 20 queries in one request" in note.rule


def test_all_that_is_the_matter_with_a_route_is_one_note_as_bad_as_the_worst() -> None:
    (note,) = notes(route("GET /", ms=80, errors=50, queries=(20,)))
    assert texts(note) == ("p95 80.0 ms", "50 errors in 100 requests", "up to 20 queries in one request")
    assert note.status is POOR
    assert note.rule.count("; ") == 2


def test_a_cold_cache_comes_last_and_has_no_row() -> None:
    cold = {"hits": 100, "misses": 200, "hit_rate_percent": 33.333}
    (of_route, of_cache) = notes(route("GET /", ms=60), cache=cold)
    assert of_route.subject == "GET /"
    assert (of_cache.subject, texts(of_cache), of_cache.row) == ("cache", ("answered 33.3 % of 300 lookups",), None)
    assert of_cache.rule == "from 90 % on it is good, judged from 100 lookups on"


def test_the_worst_stands_first_then_the_slowest_then_by_name() -> None:
    found = notes(
        route("GET /d", ms=60), route("GET /b", ms=90), route("GET /c", ms=90), route("GET /a", ms=1, errors=99)
    )
    assert [note.subject for note in found] == ["GET /a", "GET /b", "GET /c", "GET /d"]


class Exporter:
    name, signal, target = "otlp", "traces", "http://127.0.0.1:4318"

    def __init__(self, **status: object) -> None:
        self.status = ExportStatus(**status)  # type: ignore[arg-type]


def test_an_exporter_that_fails_is_named_and_leads_to_its_row() -> None:
    look = (Exporter(is_failing=True, last_error="refused"), Exporter(dropped_by={"queue_full": 3}), Exporter())
    rows = exporters.rows(look, 0)
    (note,) = attention.notes(overview.Overview((), (), (), {"cache": NO_LOOKUPS}, 0), SETTINGS, {}, rows)
    assert (note.subject, texts(note), note.status, note.place) == (
        "otlp traces",
        ("fails: refused",),
        POOR,
        "exporters",
    )


def test_failures_of_the_telemetry_come_first_until_a_reset(metrics: PerformanceMetrics) -> None:
    metrics.record_endpoint_latency("GET /slow", 1)
    metrics.count_failure()
    shown = overview.build(metrics, SETTINGS, 10**18)
    assert [note.subject for note in attention.notes(shown, SETTINGS)] == ["telemetry", "GET /slow"]
    metrics.reset()
    assert attention.notes(overview.build(metrics, SETTINGS, 10**18), SETTINGS) == []


def test_routes_that_are_left_out_are_told() -> None:
    metrics = PerformanceMetrics(TelemetrySettings(max_routes=1))
    metrics.record_endpoint_latency("GET /first", 0.001)
    assert attention.notes(overview.build(metrics, SETTINGS, 10**18), SETTINGS) == []
    metrics.record_endpoint_latency("GET /second", 0.001, is_error=True)
    (note,) = attention.notes(overview.build(metrics, SETTINGS, 10**18), SETTINGS)
    assert (note.subject, note.status) == ("routes", WARNING)
    assert texts(note) == ("there are more than 1 route: later ones are in no figure of a route",)
