"""The report reads like a page that a colleague wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.report import MOST_LINES, Report, Section, facts_of, write
from tests.conftest import Instrument

NOW = 1_790_000_000.0


@pytest.fixture
def busy() -> PerformanceMetrics:
    """Figures with something to say about each thing."""
    metrics = PerformanceMetrics()
    for _ in range(30):
        metrics.record_endpoint_latency("GET /list", 0.310)
        metrics.record_endpoint_latency("GET /watch/<filename>", 0.120)
        metrics.record_endpoint_latency("GET /", 0.008)
    metrics.record_endpoint_latency("GET /", 0.008, is_error=True)
    instruments = metrics.attach(metrics.meter_provider)
    for queries in (51, 3):
        instruments.request_operations.record(queries, {"http.request.method": "GET", "http.route": "/list"})
    for _ in range(9):
        metrics.record_cache_hit()
    metrics.record_cache_miss()
    return metrics


def report_of(metrics: PerformanceMetrics, **options: Any) -> Report:
    return write(facts_of(metrics, metrics.settings), now=NOW, **options)


def section(report: Report, key: str) -> Section:
    return next(section for section in report.sections if section.key == key)


def said(report: Report, key: str) -> list[str]:
    return [f"{finding.subject}: {finding.text}" for finding in section(report, key).findings]


def test_it_says_what_is_slow_fails_and_fans_out_with_the_thresholds_in_words(busy: PerformanceMetrics) -> None:
    report = report_of(busy, caches={"tags": {"entries": 41, "max_entries": 4096}})
    assert said(report, "slow") == [
        "GET /list: poor. Its p95 is 310 ms, its p50 310 ms, the slowest took 310 ms (30 requests).",
        "GET /watch/<filename>: warning. Its p95 is 120 ms, its p50 120 ms, the slowest took 120 ms (30 requests).",
    ]
    assert section(report, "slow").rule == (
        "By the thresholds in force, a p95 under 50.0 ms is good, over 200 ms poor, between them a warning."
    )
    assert said(report, "failing") == ["GET /: warning. 1 error in 31 requests (3.2 %)."]
    assert said(report, "fan_out") == ["GET /list: warning. Up to 51 queries in one request, 27.0 on average."]
    assert said(report, "caches") == [
        "hits: They answered 90.0 % of 10 lookups, too few to judge.",
        "tags: 41 of 4,096 entries (1.0 % full).",
    ]
    assert report.headline == (
        "Performance of this process, 2026-09-21 14:13:20 UTC. 4 things need a look. "
        "It looks at 91 requests of 3 routes: the last 100 of each."
    )


def test_where_all_is_well_it_says_so_with_the_worst_figure() -> None:
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /", 0.008)
    metrics.db_queries_per_request.append(3)
    report = report_of(metrics)
    assert "Nothing needs a look." in report.headline
    assert section(report, "slow").otherwise == "Nothing. The slowest is GET / with a p95 of 8.00 ms."
    assert section(report, "failing").otherwise == "Nothing: no request ended in an error."
    assert section(report, "fan_out").otherwise == (
        "Nothing: at most 3 queries in one request, 3.00 on average over the last request."
    )


def test_before_the_first_request_it_asks_for_some() -> None:
    report = report_of(PerformanceMetrics())
    assert "No request yet: use the app for a while and ask again." in report.headline
    assert report.text().count("No request yet.") == 3


def test_workers_that_did_not_answer_are_named_at_the_top(busy: PerformanceMetrics) -> None:
    known = facts_of(busy, busy.settings)
    assert "did not answer" not in write(known).headline
    assert write(known | {"silent_workers": [7]}).headline.endswith(
        " Not in it: what 1 worker measured, which did not answer (7)."
    )
    assert write(known | {"silent_workers": [7, 12]}).headline.endswith(
        " Not in it: what 2 workers measured, which did not answer (7, 12)."
    )


def test_a_few_requests_are_called_few() -> None:
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /", 0.5)
    assert said(report_of(metrics), "slow")[0].endswith("the slowest took 500 ms (1 request, too few to say much).")


def test_many_routes_are_cut_with_a_word_about_the_rest() -> None:
    metrics = PerformanceMetrics()
    for number in range(MOST_LINES + 4):
        metrics.record_endpoint_latency(f"GET /{number}", 0.5)
    found = section(report_of(metrics), "slow").findings
    assert len(found) == MOST_LINES + 1
    assert found[-1].text == "4 more like these."
    assert found[-1].status.word == "poor"


def test_thresholds_are_those_of_the_settings() -> None:
    settings = TelemetrySettings(good_below_ms=400, poor_above_ms=800, fan_out_warning=2, cache_good_percent=10)
    metrics = PerformanceMetrics(settings)
    metrics.record_endpoint_latency("GET /", 0.310)
    metrics.db_queries_per_request.append(2)
    report = report_of(metrics)
    assert said(report, "slow") == []
    assert said(report, "fan_out") == [
        "all routes: warning. Up to 2 queries in one request; the server does not say of which route."
    ]
    assert section(report, "caches").rule == ("Of a hit rate, from 10 % on it is good, judged from 100 lookups on.")


def test_caches_are_judged_once_they_were_asked_often_enough() -> None:
    metrics = PerformanceMetrics()
    metrics.record_cache_miss(99)
    assert said(report_of(metrics), "caches") == ["hits: They answered 0 % of 99 lookups, too few to judge."]
    metrics.record_cache_miss()
    assert said(report_of(metrics), "caches") == ["hits: warning. They answered 0 % of 100 lookups."]


def test_figures_that_are_not_known_are_not_made_up(busy: PerformanceMetrics) -> None:
    known = facts_of(busy, busy.settings)
    del known["snapshot"]["resources"]["cpu_percent"]
    assert "The system does not tell CPU." in write(known).text()


def test_the_admin_json_alone_is_enough(busy: PerformanceMetrics) -> None:
    report = write({"snapshot": busy.snapshot()}, now=NOW)
    assert len(said(report, "slow")) == 2
    assert said(report, "fan_out") == [
        "all routes: warning. Up to 51 queries in one request; the server does not say of which route."
    ]


@given(st.integers(24, 200))
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /a", 0.5, is_error=True)
    assert all(len(line) <= width for line in report_of(metrics).text(width).splitlines())


def test_names_can_not_move_the_cursor() -> None:
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /\x1b[2J\n\u202e", 0.5)
    assert "GET /�[2J��: poor." in report_of(metrics).text()


def test_as_json_it_has_the_findings_and_what_they_were_made_from(busy: PerformanceMetrics) -> None:
    body = json.loads(json.dumps(report_of(busy).body(), allow_nan=False))
    assert set(body) == {"headline", "findings", "facts"}
    assert list(body["findings"]) == ["slow", "failing", "fan_out", "caches", "process"]
    assert body["findings"]["failing"] == [
        {"subject": "GET /", "status": "warning", "text": "warning. 1 error in 31 requests (3.2 %)."}
    ]
    assert body["facts"]["queries"] == {"GET /list": {"avg": 27.0, "max": 51, "finding": None}}
    assert body["facts"]["thresholds"]["poor_above_ms"] == 200


def test_an_endpoint_of_the_admin_json_has_what_a_report_is_written_from(
    instrumented: Instrument, metrics: PerformanceMetrics
) -> None:
    client = instrumented(Flask("app")).test_client()
    metrics.record_endpoint_latency("GET /", 0.5)
    answer = client.get("/api/admin/performance/report")
    assert set(answer.json) == {"app", "snapshot", "queries", "silent_workers", "thresholds"}
    assert answer.json["app"] == "app"
    assert answer.json["snapshot"]["endpoints"] == client.get("/admin/performance/json").json["endpoints"]
    assert write(answer.json).sections[0].findings[0].subject == "GET /"
