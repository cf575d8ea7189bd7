"""How numbers are written, and which status they have."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telemetry import TelemetrySettings, figures
from telemetry.figures import GOOD, POOR, WARNING

SETTINGS = TelemetrySettings(good_below_ms=50, poor_above_ms=200, fan_out_warning=20, cache_good_percent=90)
SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0.00"),
        (0.0004, "<0.001"),
        (0.006, "0.006"),
        (0.0996, "0.10"),
        (0.42, "0.42"),
        (8.314, "8.31"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (20.06, "20.1"),
        (99.96, "100"),
        (1240.4, "1,240"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, written: str) -> None:
    assert figures.digits(value) == written


@given(st.floats(0, 999))
@example(9.995)
@example(99.95)
def test_no_number_below_a_thousand_takes_more_than_six_characters(value: float) -> None:
    written = figures.digits(value)
    assert re.fullmatch(r"<0\.001|0\.0\d\d|\d\.\d\d|\d\d\.\d|\d{3}", written)
    assert float(written.lstrip("<")) == pytest.approx(value, abs=0.51 if value > 99 else 0.051 if value > 9 else 0.011)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.42, "0.42 ms"), (124, "124 ms"), (999.4, "999 ms"), (999.5, "1.00 s"), (61_300, "61.3 s")],
)
def test_durations_from_a_second_on_are_written_in_seconds(value: float, written: str) -> None:
    assert figures.milliseconds(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0 %"), (0.01, "0.1 %"), (93.04, "93.0 %"), (99.99, "99.9 %"), (100, "100 %")],
)
def test_only_all_reads_a_hundred_percent_and_only_none_reads_zero(value: float, written: str) -> None:
    assert figures.percent(value) == written
    assert figures.share(value) == written


def test_what_went_on_at_once_may_be_more_than_all() -> None:
    assert figures.share(285.257) == "285 %, several at once"


@pytest.mark.parametrize("status", [figures.GOOD, figures.WARNING, figures.POOR])
def test_a_status_is_found_by_its_word(status: figures.Status) -> None:
    assert figures.status_called(status.word) is status


@pytest.mark.parametrize(
    ("value", "noun", "written"),
    [
        (0, "error", "0 errors"),
        (1, "query", "1 query"),
        (2, "query", "2 queries"),
        (1234, "request", "1,234 requests"),
    ],
)
def test_nouns_follow_their_number(value: int, noun: str, written: str) -> None:
    assert figures.plural(value, noun) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (-1, "0 s"),
        (12.9, "12 s"),
        (60, "1 min 0 s"),
        (249, "4 min 9 s"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_long_durations_show_their_two_largest_units(seconds: float, written: str) -> None:
    assert figures.duration(seconds) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(-5, "now"), (0.9, "now"), (12, "12 s"), (240, "4 min"), (7300, "2 h"), (300_000, "3 d")],
)
def test_ago_shows_the_largest_unit_and_never_the_future(seconds: float, written: str) -> None:
    now = 1_700_000_000 * SECOND
    assert figures.ago(now - int(seconds * SECOND), now) == written


def test_the_clock_is_utc() -> None:
    assert figures.clock(1_700_000_000 * SECOND) == "22:13:20"


@pytest.mark.parametrize(
    ("p95_ms", "status"), [(49.99, GOOD), (50, WARNING), (200, WARNING), (200.01, POOR), (0, GOOD)]
)
def test_a_p95_on_a_threshold_is_a_warning(p95_ms: float, status: figures.Status) -> None:
    assert figures.latency_status(p95_ms, SETTINGS) is status


@pytest.mark.parametrize(("share", "status"), [(0, GOOD), (0.99, GOOD), (1, WARNING), (4.99, WARNING), (5, POOR)])
def test_errors_are_poor_from_five_percent_on(share: float, status: figures.Status) -> None:
    assert figures.error_status(share) is status


def test_fan_out_and_cache_are_worth_a_look_from_their_thresholds_on() -> None:
    assert figures.fan_out_status(19, SETTINGS) is GOOD
    assert figures.fan_out_status(20, SETTINGS) is WARNING
    assert figures.cache_status(90, 100, SETTINGS) is GOOD
    assert figures.cache_status(89.999, 100, SETTINGS) is WARNING
    assert figures.cache_status(0, 99, SETTINGS) is None


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (345_002, "345 kB"),
        (999_600, "1.00 MB"),
        (1_500_000_000, "1.50 GB"),
        (20_000_000_000_000, "20.0 TB"),
    ],
)
def test_sizes_have_three_digits(number: int, shown: str) -> None:
    assert figures.bytes(number) == shown


def test_the_rules_in_words_name_the_thresholds_in_force() -> None:
    assert figures.latency_rule(SETTINGS) == "p95 under 50.0 ms is good, over 200 ms poor, between them a warning"
    assert figures.cache_rule(SETTINGS) == "from 90 % on it is good, judged from 100 lookups on"
    assert figures.error_rule() == "under 1 % is good, from 5 % poor"
    assert figures.failing_rule() == "a route with one is a warning, and poor from 5 % of its requests on"
