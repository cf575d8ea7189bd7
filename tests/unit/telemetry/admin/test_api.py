"""The JSON endpoints: what they take, what they refuse, what they answer."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from flask.testing import FlaskClient

from telemetry import PerformanceMetrics
from telemetry.admin.api import ranked

ROUTES = "/api/admin/performance/routes"
TIMELINE = "/api/admin/performance/timeline"
LIMIT = "a whole number from 1 to 1000"
SORT_BY = "one of p95_ms, p99_ms, avg_ms, request_count"
ORDER = "one of desc, asc"
RANGE = "one of 5m, 15m, 1h, all"
ROUTE_KEYS = [
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
]


def strictly(text: str) -> Any:
    """Parse JSON as the standard has it: without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def names(client: FlaskClient, metrics: PerformanceMetrics):
    """The names of the routes that a query string gives, with a few routes recorded."""
    for name, durations_s in {"/b": [0.2], "/a": [0.2], "/c": [0.3, 0.1], "/d": [0.01, 0.01, 0.01]}.items():
        for duration_s in durations_s:
            metrics.record_endpoint_latency(f"GET {name}", duration_s)

    def get(query: str) -> list[str]:
        answer = client.get(f"{ROUTES}?{query}")
        assert answer.status_code == 200
        return [row["route"].removeprefix("GET /") for row in answer.json["routes"]]

    return get


@pytest.mark.parametrize("limit", ["", "0", "-1", "1001", "1.5", "1e2", "+1", " 1", "01", "ten", "١٢", "²", "9" * 400])
def test_a_wrong_limit_is_named(limit: str, client: FlaskClient) -> None:
    answer = client.get(ROUTES, query_string={"limit": limit})
    assert answer.status_code == 400
    body = answer.json
    assert (body["parameter"], body["must_be"]) == ("limit", LIMIT)
    assert body["got"] == (limit if len(limit) <= 100 else "9" * 99 + "…")
    assert body["error"] == f"limit must be {LIMIT}, got {body['got']!r}"
    assert list(body) == ["error", "parameter", "must_be", "got"]


@pytest.mark.parametrize("limit", ["1", "999", "1000"])
def test_a_right_limit_is_taken(limit: str, client: FlaskClient) -> None:
    assert client.get(f"{ROUTES}?limit={limit}").json == {"routes": []}


@pytest.mark.parametrize(
    ("path", "parameter", "got", "must_be"),
    [
        (ROUTES, "sort_by", "p50_ms", SORT_BY),
        (ROUTES, "sort_by", "", SORT_BY),
        (ROUTES, "sort_by", "P95_MS", SORT_BY),
        (ROUTES, "sort_by", "<script>", SORT_BY),
        (ROUTES, "order", "up", ORDER),
        (ROUTES, "order", "", ORDER),
        (ROUTES, "order", "ASC", ORDER),
        (TIMELINE, "range", "2h", RANGE),
        (TIMELINE, "range", "", RANGE),
        (TIMELINE, "range", "١٥m", RANGE),
    ],
)
def test_a_word_that_is_none_of_those_allowed_is_named(
    path: str, parameter: str, got: str, must_be: str, client: FlaskClient
) -> None:
    answer = client.get(path, query_string={parameter: got})
    assert answer.status_code == 400
    assert answer.json == {
        "error": f"{parameter} must be {must_be}, got {got!r}",
        "parameter": parameter,
        "must_be": must_be,
        "got": got,
    }


@pytest.mark.parametrize(
    ("path", "parameter", "value"),
    [
        (ROUTES, "limit", "5"),
        (ROUTES, "sort_by", "p95_ms"),
        (ROUTES, "order", "asc"),
        (TIMELINE, "range", "5m"),
        (TIMELINE, "route", "GET /"),
    ],
)
def test_a_parameter_given_twice_is_refused_even_if_both_agree(
    path: str, parameter: str, value: str, client: FlaskClient
) -> None:
    answer = client.get(path, query_string={parameter: [value, value]})
    assert answer.status_code == 400
    assert answer.json["parameter"] == parameter
    assert answer.json["got"] == [value, value]
    assert answer.json["must_be"].endswith(", given once")


def test_a_parameter_given_a_thousand_times_is_not_sent_back_whole(client: FlaskClient) -> None:
    answer = client.get(f"{ROUTES}?" + "&".join(["limit=5"] * 1000))
    assert answer.json["got"] == ["5"] * 5


def test_bytes_that_are_no_text_are_answered_in_json(client: FlaskClient) -> None:
    answer = client.get(f"{ROUTES}?limit=%FF%00")
    assert answer.status_code == 400
    assert answer.json["got"] == "%FF\0"


def test_other_parameters_are_ignored(names) -> None:
    assert names("colour=red&limit=1&_=17") == ["c"]


@pytest.mark.parametrize(
    ("query", "order"),
    [
        ("", "cabd"),
        ("order=asc", "dabc"),
        ("sort_by=avg_ms", "abcd"),
        ("sort_by=avg_ms&order=asc", "dabc"),
        ("sort_by=request_count", "dcab"),
        ("sort_by=request_count&order=asc", "abcd"),
        ("sort_by=p99_ms&limit=2", "ca"),
    ],
)
def test_routes_are_ranked_and_equals_stand_by_name_in_both_orders(names, query: str, order: str) -> None:
    assert "".join(names(query)) == order


def test_ranking_depends_on_no_order_that_the_rows_came_in() -> None:
    rows = [{"route": name, "p95_ms": 1.0} for name in "cab"]
    for order in ("asc", "desc"):
        assert [row["route"] for row in ranked(rows, "p95_ms", order)] == ["a", "b", "c"]


def test_a_route_has_every_field_of_the_spec_and_no_other(client: FlaskClient) -> None:
    client.get("/item/5")
    (row,) = client.get(ROUTES).json["routes"]
    assert list(row) == ROUTE_KEYS
    assert (row["route"], row["endpoint"], row["request_count"]) == ("GET /item/<number>", "item", 1)
    assert client.get("/admin/performance/json").json["endpoints"] == {"GET /item/<number>": row}


def test_fifty_routes_are_shown_unless_more_are_asked_for(client: FlaskClient, metrics: PerformanceMetrics) -> None:
    for number in range(60):
        metrics.record_endpoint_latency(f"GET /{number}", 0.01)
    assert len(client.get(ROUTES).json["routes"]) == 50
    assert len(client.get(f"{ROUTES}?limit=1000").json["routes"]) == 60


def test_before_the_first_request_the_figures_are_zeros(client: FlaskClient) -> None:
    figures = strictly(client.get("/admin/performance/json").text)
    assert figures.pop("uptime_seconds") >= 0
    resources = figures.pop("resources")
    assert resources.keys() <= {"uptime_seconds", "cpu_percent", "memory_percent"}
    assert all(value >= 0 for value in resources.values())
    assert figures == {
        "cache_hit_rate": 0.0,
        "database": {"total_queries": 0, "avg_per_request": 0.0, "max_per_request": 0, "count": 0},
        "ratings_post": {"p95_latency_ms": 0.0, "avg_latency_ms": 0.0, "request_count": 0},
        "endpoints": {},
        "cache": {"hits": 0, "misses": 0, "hit_rate_percent": 0.0},
    }
    assert client.get(ROUTES).json == {"routes": []}


def test_the_alias_answers_the_same(client: FlaskClient) -> None:
    client.get("/")
    one, two = (client.get(path).json for path in ("/admin/performance/json", "/admin/performance.json"))
    for figures in (one, two):
        del figures["uptime_seconds"], figures["resources"]
    assert one == two
    assert list(one["endpoints"]) == ["GET /"]


@pytest.mark.parametrize("duration_s", [float("nan"), float("inf"), float("-inf"), -1.0])
def test_no_figure_is_ever_nan_or_infinite(
    duration_s: float, client: FlaskClient, metrics: PerformanceMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    client.get("/")
    with caplog.at_level(logging.CRITICAL):
        metrics.record_endpoint_latency("GET /", duration_s)
        metrics.record_endpoint_latency("GET /odd", duration_s)
        metrics.ratings_post_latencies.append(duration_s)
    for path in ("/admin/performance/json", ROUTES, f"{TIMELINE}?range=all"):
        strictly(client.get(path).text)
    assert client.get("/admin/performance").status_code == 200
    assert list(client.get("/admin/performance/json").json["endpoints"]) == ["GET /"]


def test_the_timeline_has_every_request_once(client: FlaskClient) -> None:
    for path in ("/", "/item/1", "/"):
        client.get(path)
    body = client.get(TIMELINE).json
    assert [body["routes"][index] for index in body["route"]] == ["GET /", "GET /item/<number>", "GET /"]
    assert body["time"] == sorted(body["time"])
    assert body["start"] <= body["time"][0] <= body["time"][-1] <= body["end"]
    assert {len(body[column]) for column in ("time", "duration_ms", "is_error", "route", "trace_id")} == {3}


@pytest.mark.parametrize(
    ("route", "shown"), [("GET /", 1), ("GET /item/<number>", 2), ("GET /none", 0), ("", 0), ("\u2603", 0)]
)
def test_the_timeline_of_one_route(route: str, shown: int, client: FlaskClient) -> None:
    for path in ("/", "/item/1", "/item/2"):
        client.get(path)
    body = client.get(TIMELINE, query_string={"route": route}).json
    assert len(body["time"]) == shown
    assert body["routes"] == ([route] if shown else [])
