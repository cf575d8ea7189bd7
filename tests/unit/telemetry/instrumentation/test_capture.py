"""What a capture remembers is bounded, whatever an app asks of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask, request
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from werkzeug.routing import Rule

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.instrumentation import capture
from telemetry.instrumentation.capture import Capture
from telemetry.instruments import Instruments
from tests.unit.telemetry.queries import query

Instrumented = Callable[..., Flask]


@pytest.fixture
def made() -> Capture:
    """A capture whose measurements nobody reads."""
    return Capture(
        Instruments(MeterProvider(shutdown_on_exit=False)), TracerProvider(shutdown_on_exit=False), TelemetrySettings()
    )


def run(made: Capture, *statements: str) -> None:
    for sql in statements:
        made.record_queries([query(sql, 0)], capture.Context(), 0)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'mail from bob', id FROM users",
        "SELECT id -- from here\nFROM users",
        "SELECT id /* copied from legacy */ FROM users",
        'SELECT "from x", [from y], `from z` FROM users',
        "SELECT a IS NOT DISTINCT FROM b FROM users",
        "SELECT upper('it''s from '||a) FROM users",
        "SELECT date_from, valid_from FROM users",
        "SELECT (SELECT 1) FROM/* all */users",
        'SELECT * FROM"users"',
        "SELECT * FROM[users]",
        "SELECT * FROM (SELECT * FROM main.users)",
        "SELECT * FROM (users) WHERE id = 1",
        "SELECT * FROM (( main.users JOIN posts))",
        "INSERT OR REPLACE INTO 'users' VALUES ('from x')",
        "UPDATE OR IGNORE users SET a = 'from x'",
        "DELETE FROM users -- into the void",
    ],
)
def test_the_table_is_looked_for_in_the_code_of_a_statement_alone(sql: str, made: Capture) -> None:
    assert made.operation(sql)["db.collection.name"] == "users"


def test_statements_are_remembered_up_to_a_number(made: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_MAX_STATEMENTS", 10)
    run(made, *(f"SELECT {number}" for number in range(25)))
    assert 0 < len(made._statements) <= 10


def test_statements_are_remembered_up_to_a_length_together(made: Capture) -> None:
    run(made, *(f"SELECT {number}, '{'x' * 300_000}'" for number in range(20)))
    assert sum(map(len, made._statements)) <= capture._MAX_STATEMENT_CHARACTERS


def test_names_of_tables_are_told_up_to_a_number(made: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_MAX_COLLECTIONS", 3)
    told = [made.operation(f"SELECT * FROM t{number}").get("db.collection.name") for number in (1, 2, 3, 4, 1)]
    assert told == ["t1", "t2", "t3", None, "t1"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM {}",
        "SELECT a FROM t{}",
        "SELECT {} FROM t",
        "SELECT a FROM t WHERE a = {}",
        "SELECT a FROM t{0} WHERE a = {0}",
        'SELECT a FROM "t{}" WHERE a = 1',
        "INSERT INTO t VALUES ({})",
        "UPDATE OR IGNORE t SET a = {}",
        "DELETE FROM main.t WHERE a = {}",
        "PRAGMA cache_size = {}",
        "VACUUM {}",
        "/* from films {} */ DELETE FROM b",
        "-- update cart {}\nINSERT INTO a VALUES (1)",
        "UPDATE main . {}",
    ],
)
@pytest.mark.parametrize(
    "literals",
    [("1", "2"), ("'x'", "'y' FROM u"), ("1", "t"), ("7 FROM u", "8"), ("5 */ SELECT 1 FROM a", "6"), ("'", "[b 1]")],
)
def test_attributes_of_a_statement_do_not_depend_on_what_came_before(
    made: Capture, sql: str, literals: tuple[str, str]
) -> None:
    first, second = map(sql.format, literals)
    made.operation(first)
    seen_after_first = made.operation(second)
    made._leads.clear()
    assert seen_after_first == made.operation(second)


def test_beginnings_of_statements_are_remembered_up_to_a_number(made: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_MAX_STATEMENTS", 10)
    run(made, *(f"SELECT a FROM t WHERE {'b' * number} = {number}" for number in range(1, 26)))
    assert 0 < len(made._leads) <= 10


def test_beyond_so_many_series_requests_share_those_of_their_route_and_enter_its_window(
    metrics: PerformanceMetrics, instrumented: Instrumented, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_MAX_SERIES", 2)
    reader = InMemoryMetricReader()
    app = Flask("many")
    for name in "abcd":
        app.add_url_rule(f"/{name}", name, lambda: "x")
    app.add_url_rule("/fails", "fails", lambda: ("no", int(request.args["status"])))
    client = instrumented(app, meter_provider=MeterProvider([reader], shutdown_on_exit=False)).test_client()
    failing = [f"fails?status={status}" for status in (500, 503, 404)]
    for path in ("a", "b", "c", "d", "d", *failing, "no", "nor"):
        client.get(f"/{path}")
    windows = {each["route"]: (each["request_count"], each["error_count"]) for each in metrics.route_stats()}
    assert windows == {"GET /a": (1, 0), "GET /b": (1, 0), "GET /c": (1, 0), "GET /d": (2, 0), "GET /fails": (3, 2)}
    assert len([kept for kept in metrics.recent.all() if kept.error_type is not None]) == 2
    data = reader.get_metrics_data()
    assert data is not None
    points = [
        (dict(point.attributes), point.count)
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.data.data_points
    ]
    assert ({"otel.metric.overflow": True}, 2) in points
    assert ({"http.request.method": "GET", "http.route": "/d"}, 2) in points
    assert ({"http.request.method": "GET", "http.route": "/fails", "error.type": "_OTHER"}, 2) in points
    assert len(points) == 7


def test_a_rule_for_any_method_counts_unknown_ones_together(
    metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = Flask("any")
    app.url_map.add(Rule("/any", endpoint="any"))
    app.view_functions["any"] = lambda: "x"
    app.add_url_rule("/named", "named", lambda: "x", methods=["PURGE"])
    client = instrumented(app).test_client()
    for method in ("GET", "MADE-UP", "ANOTHER"):
        client.open("/any", method=method)
    client.open("/named", method="PURGE")
    counts = {row["route"]: row["request_count"] for row in metrics.route_stats()}
    assert counts == {"GET /any": 1, "_OTHER /any": 2, "PURGE /named": 1}


@pytest.mark.parametrize("first", ["/ping", "/status"])
def test_a_view_of_two_rules_is_left_out_under_the_one_that_is_to_be(
    first: str, metrics: PerformanceMetrics, instrumented: Instrumented
) -> None:
    app = Flask("two")

    @app.get("/ping")
    @app.get("/status")
    def alive() -> str:
        return "x"

    client = instrumented(app).test_client()
    for path in (first, "/ping", "/status"):
        client.get(path)
    assert list(metrics.endpoint_latencies) == ["GET /status"]
