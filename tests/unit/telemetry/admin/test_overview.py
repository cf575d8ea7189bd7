"""The figures of the page, each with the reason when there is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import psutil
import pytest
from flask import Flask

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.admin import overview
from telemetry.document import Process, RouteWindow
from telemetry.figures import GOOD, NONE, POOR, WARNING
from telemetry.readers.slices import Slice
from telemetry.readers.window import Sample
from tests.unit.telemetry.queries import ask

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
SETTINGS = TelemetrySettings()


def window(*ages_s: float, route: str = "GET /") -> RouteWindow:
    samples = (Sample(number, NOW - int(age * SECOND), 0.02, None, False) for number, age in enumerate(ages_s))
    return RouteWindow(route, "", tuple(samples), ())


def cards(metrics: PerformanceMetrics) -> dict[str, overview.Card]:
    newest = [sample.time_unix_nano for window in metrics.route_windows() for sample in window.samples]
    shown = overview.build(metrics, metrics.settings, max(newest, default=NOW))
    return {card.key: card for card in shown.cards}


def process(*windows: RouteWindow, uptime_s: float = 3600, slices: Sequence[Slice] = ()) -> Process:
    times = [sorted(sample.time_unix_nano for sample in each.samples) for each in windows]
    return Process(1, uptime_s, times, slices)


def rate(*windows: RouteWindow, size: int = 100, uptime_s: float = 3600) -> tuple[float, float, int]:
    found = overview.request_rate([process(*windows, uptime_s=uptime_s)], size, NOW)
    return found.per_second, found.seconds, found.request_count


def test_without_a_request_every_card_has_a_dash_and_says_why(metrics: PerformanceMetrics) -> None:
    found = cards(metrics)
    assert list(found) == ["rate", "p95", "errors", "queries", "cache", "resources"]
    for key, card in found.items():
        assert (card.status, card.spark) == (None, None)
        assert card.title
        assert key == "resources" or (card.value, card.detail) == (NONE, "")


def test_the_rate_counts_the_last_minute() -> None:
    assert rate(window(61, 60, 59, 1, 0)) == (3 / 60, 60, 3)


def test_the_rate_of_a_young_process_is_over_its_life() -> None:
    assert rate(window(4, 2), uptime_s=10) == (0.2, 10, 2)
    assert rate(window(0.2), uptime_s=0.3) == (1, 1, 1)


def test_the_rate_looks_no_further_back_than_a_full_window_reaches() -> None:
    assert rate(window(10, 5, 1), size=3) == (0.2, 10, 2)
    assert rate(window(10, 5, 1), window(40, 30, route="GET /b"), size=3) == (0.2, 10, 2)


def test_a_full_window_of_one_instant_has_no_rate_rather_than_an_endless_one() -> None:
    assert rate(window(0, 0, 0), size=3) == (0, 0, 0)


def test_of_a_busy_app_the_rate_is_that_of_the_slices() -> None:
    def cut(start: float, end: float, requests: int) -> Slice:
        return Slice(NOW - int(start * SECOND), NOW - int(end * SECOND), requests, 0.01, 0.02, 0.03)

    busy = (cut(90, 80, 1000), cut(50, 40, 2000), cut(40, 35, 500))
    found = overview.request_rate([process(window(35.2, 35.1, 35), slices=busy)], 3, NOW)
    assert (found.per_second, found.seconds, found.request_count) == (50, 50, 2500)
    assert sum(found.bars) == pytest.approx(2500)
    assert found.bars[-10:] == [0] * 10
    idle = overview.request_rate([process(window(3, 2, 1), slices=[cut(1, 0, 3)])], 9, NOW)
    assert (idle.per_second, idle.seconds) == (3 / 60, 60)


def test_the_rates_of_several_processes_add_up() -> None:
    one, young = process(window(10, 5, 1)), process(window(5, 4, 3, 2, 1), uptime_s=10)
    found = overview.request_rate([one, young], 100, NOW)
    assert (found.request_count, found.seconds) == (8, 60)
    assert found.per_second == pytest.approx(
        8 / 60
    )  # the young one has served nothing in the fifty seconds before it began
    assert sum(found.bars) == 8
    assert overview.request_rate([], 100, NOW).per_second == 0


def test_requests_of_a_clock_ahead_are_not_counted() -> None:
    assert rate(window(-5, 5)) == (1 / 60, 60, 1)


def test_the_rate_card_has_a_bar_for_each_part_of_its_time(metrics: PerformanceMetrics) -> None:
    for _ in range(5):
        metrics.record_endpoint_latency("GET /", 0.01)
    card = cards(metrics)["rate"]
    assert card.title.startswith("5 requests in the last")
    assert card.spark is not None
    assert card.spark.bars.count("M") == 20


def test_the_latency_card_is_over_all_routes_and_carries_its_n(metrics: PerformanceMetrics) -> None:
    for duration_s in (0.1, 0.2):
        metrics.record_endpoint_latency("GET /a", duration_s)
    metrics.record_endpoint_latency("GET /b", 0.3)
    card = cards(metrics)["p95"]
    assert (card.value, card.detail, card.status) == ("290 ms", "n 3", POOR)


def test_the_latency_card_is_of_the_newest_requests_alone() -> None:
    metrics = PerformanceMetrics(TelemetrySettings(window=10))
    for number in range(10):
        metrics.record_endpoint_latency("GET /old", 9)
        metrics.record_endpoint_latency(f"GET /{number % 2}", 9)
    for _ in range(10):
        metrics.record_endpoint_latency("GET /new", 0.01)
    assert (cards(metrics)["p95"].value, cards(metrics)["p95"].detail) == ("10.0 ms", "n 10")


def test_the_error_card_is_a_share_with_its_counts(metrics: PerformanceMetrics) -> None:
    metrics.record_endpoint_latency("GET /", 0.01)
    metrics.record_endpoint_latency("GET /", 0.01, is_error=True)
    card = cards(metrics)["errors"]
    assert (card.value, card.detail, card.status) == ("50.0 %", "1 of the last 2", POOR)


def test_the_query_card_has_mean_and_most(metrics: PerformanceMetrics) -> None:
    for made in (0, 25):
        metrics.db_queries_per_request.append(made)
    card = cards(metrics)["queries"]
    assert (card.value, card.detail, card.status) == ("12.5", "max 25 · n 2", WARNING)
    assert card.title.startswith("25 queries in the last 2 requests")


def test_the_cache_card_has_hits_of_lookups(metrics: PerformanceMetrics) -> None:
    metrics.record_cache_hit(90)
    metrics.record_cache_miss(9)
    assert cards(metrics)["cache"].status is None
    metrics.record_cache_miss()
    card = cards(metrics)["cache"]
    assert (card.value, card.detail, card.status) == ("90.0 %", "90 of 100", GOOD)
    assert card.title.endswith("from 90 % on it is good, judged from 100 lookups on")


def test_an_app_with_the_ratings_route_has_their_card_before_the_first_rating(
    metrics: PerformanceMetrics, shop: Flask, instrumented: Callable[..., Flask]
) -> None:
    instrumented(shop)
    assert "ratings" not in cards(metrics)
    shop.add_url_rule("/api/ratings/<media_hash>", "rate", lambda media_hash: media_hash, methods=["POST"])
    card = cards(metrics)["ratings"]
    assert (card.value, card.title) == (NONE, "No POST /api/ratings/<media_hash> yet.")


def test_the_ratings_card_is_of_its_route(metrics: PerformanceMetrics) -> None:
    metrics.ratings_post_latencies.extend([0.1, 0.2])
    card = cards(metrics)["ratings"]
    assert (card.value, card.detail, card.status) == ("195 ms", "avg 150 ms · n 2", WARNING)


def test_resources_that_the_system_hides_read_as_dashes(
    metrics: PerformanceMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil, "Process", refuse)
    card = cards(metrics)["resources"]
    assert f"{card.value} {card.detail}".count(NONE) == 2
    assert card.aside.startswith("up ")
    assert card.title == "The system doesn't let the process read this."


def test_resources_are_the_share_of_the_processors_and_the_memory(
    metrics: PerformanceMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics.record_cache_hit()
    monkeypatch.setattr(metrics.usage, "memory_bytes", lambda: 131_403_776)
    card = cards(metrics)["resources"]
    assert card.value.endswith(" %")
    assert card.detail == "memory 131 MB"
    assert re.fullmatch(r"This process's share of all processors, .* it holds: [\d.,]+ % of the machine's", card.title)


def test_a_row_keeps_its_anchor_and_no_two_share_one() -> None:
    rows = [overview.row(window(1, route=route), SETTINGS) for route in ("GET /a", "GET /b", "GET /a")]
    assert rows[0].anchor == rows[2].anchor != rows[1].anchor
    assert rows[0].anchor.startswith("r-")


def test_a_row_has_the_queries_of_its_own_requests(
    metrics: PerformanceMetrics, shop: Flask, instrumented: Callable[..., Flask]
) -> None:
    shop.add_url_rule("/queries/<int:number>", "queries", ask)
    client = instrumented(shop).test_client()
    for path in ("/", "/queries/2", "/queries/5"):
        client.get(path)
    rows = {row.route: row for row in overview.build(metrics, SETTINGS, NOW).rows}
    assert (rows["GET /"].queries_avg, rows["GET /"].queries_max) == (0, 0)
    assert (rows["GET /queries/<number>"].queries_avg, rows["GET /queries/<number>"].queries_max) == (3.5, 5)
    assert rows["GET /"].stats["endpoint"] == "index"


def test_a_row_without_query_counts_has_none(metrics: PerformanceMetrics) -> None:
    metrics.record_endpoint_latency("GET /", 0.3, is_error=True)
    (row,) = overview.build(metrics, SETTINGS, NOW).rows
    assert (row.queries_avg, row.queries_max, row.latency) == (None, None, POOR)
    assert row.spark.marked
    assert not row.spark.bars
