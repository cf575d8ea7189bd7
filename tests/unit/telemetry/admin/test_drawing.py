"""SVG that the server draws."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.admin import drawing
from telemetry.admin.timeline import Point, Timeline
from telemetry.readers.slices import Slice
from telemetry.readers.window import Sample

SECOND = 1_000_000_000


def bars(path: str) -> list[tuple[float, int]]:
    return [(float(x), int(height)) for x, height in re.findall(r"M([\d.]+) 20v-(\d+)", path)]


def marks(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"M([\d.e+-]+) ([\d.e+-]+)(?:h0|m-3-3)", path)]


def timeline(*requests: tuple[float, float, bool], length_s: int = 100, slices: tuple[Slice, ...] = ()) -> Timeline:
    """A timeline from second 0, of requests as (second, milliseconds, failed)."""
    points = (
        Point(Sample(number, int(second * SECOND), ms / 1000, None, failed), "GET /", False)
        for number, (second, ms, failed) in enumerate(requests)
    )
    return Timeline(tuple(points), slices, 0, length_s * SECOND, None)


def test_bars_stand_at_the_right_and_are_scaled_to_the_largest() -> None:
    line = drawing.sparkline([1, 2, 4], slots=4)
    assert bars(line.bars) == [(37.5, 5), (62.5, 10), (87.5, 19)]
    assert line.marked == ""


def test_marked_bars_are_a_path_of_their_own() -> None:
    line = drawing.sparkline([1, 2, 1], [False, True, False], slots=3)
    assert len(bars(line.bars)) == 2
    assert bars(line.marked) == [(50, 19)]


def test_the_newest_values_stay_where_there_are_more_than_slots() -> None:
    line = drawing.sparkline([9, 1, 2], [True, False, True], slots=2)
    assert bars(line.bars) == [(25, 10)]
    assert bars(line.marked) == [(75, 19)]


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0]])
def test_no_value_and_no_height_are_drawn_without_dividing_by_zero(values: list[float]) -> None:
    assert [height for _, height in bars(drawing.sparkline(values).bars)] == [1] * len(values)


def test_dots_stand_at_their_time_on_a_logarithmic_scale() -> None:
    chart = drawing.chart(timeline((0, 1, False), (50, 10, False), (100, 1000, False)), 50, 200)
    assert marks(chart.dots) == [(0, 240), (400, 160), (800, 0)]
    assert chart.errors == ""


def test_failed_requests_are_crosses() -> None:
    chart = drawing.chart(timeline((10, 20, True), (20, 30, False)), 50, 200)
    assert len(marks(chart.errors)) == len(marks(chart.dots)) == 1
    assert "l6 6" in chart.errors
    assert "l6 6" not in chart.dots


def test_the_scale_goes_by_decades_and_has_both_thresholds() -> None:
    chart = drawing.chart(timeline((0, 20, False), (1, 3000, False)), 50, 200)
    assert [(line.label, line.kind) for line in chart.lines] == [
        ("10 ms", "tick"),
        ("100 ms", "tick"),
        ("1 s", "tick"),
        ("10 s", "tick"),
        ("", "good"),
        ("", "poor"),
    ]


def test_a_threshold_outside_the_scale_is_left_out() -> None:
    chart = drawing.chart(timeline((0, 300, False)), 50, 200)
    assert [line.kind for line in chart.lines if line.kind != "tick"] == ["poor"]


def test_an_empty_chart_has_its_scale_and_nothing_else() -> None:
    chart = drawing.chart(timeline(), 50, 200)
    assert (chart.dots, chart.errors) == ("", "")
    assert [line.label for line in chart.lines if line.label] == ["1 ms", "10 ms", "100 ms", "1 s"]


@pytest.mark.parametrize(
    ("hours", "times"), [(2, ("22:13:20", "00:13:20")), (48, ("2023-11-14 22:13", "2023-11-16 22:13"))]
)
def test_a_chart_says_from_when_to_when_it_reaches(hours: int, times: tuple[str, str]) -> None:
    start = 1_700_000_000 * SECOND
    chart = drawing.chart(Timeline((), (), start, start + hours * 3600 * SECOND, None), 50, 200)
    assert (chart.start, chart.end) == times


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e8), st.booleans()), max_size=30),
    st.floats(0.001, 1e6),
    st.floats(1, 1000),
)
def test_everything_drawn_is_inside_the_chart(
    requests: list[tuple[float, float, bool]], good_below_ms: float, factor: float
) -> None:
    chart = drawing.chart(timeline(*requests), good_below_ms, good_below_ms * factor)
    drawn = marks(chart.dots) + marks(chart.errors)
    assert len(drawn) == len(requests)
    assert all(0 <= x <= drawing.CHART_WIDTH and 0 <= y <= drawing.CHART_HEIGHT for x, y in drawn)
    assert all(0 <= line.y <= drawing.CHART_HEIGHT for line in chart.lines)


def test_percentiles_are_lines_that_end_where_nothing_was_asked_for_a_minute() -> None:
    slices = (
        Slice(0, 10 * SECOND, 9, 0.001, 0.01, 0.1),
        Slice(20 * SECOND, 30 * SECOND, 9, 0.01, 0.1, 1.0),
        Slice(90 * SECOND, 95 * SECOND, 9, 0.001, 0.001, 0.001),
    )
    chart = drawing.chart(timeline(slices=slices), 50, 200)
    assert chart.percentiles == {
        "p50": "M0 240H80L160 160H240M720 240H760",
        "p95": "M0 160H80L160 80H240M720 240H760",
        "p99": "M0 80H80L160 0H240M720 240H760",
    }


def test_each_worker_has_lines_of_its_own() -> None:
    slices = (
        Slice(0, 10 * SECOND, 9, 0.001, 0.01, 0.1, worker=1),
        Slice(5 * SECOND, 20 * SECOND, 9, 0.01, 0.1, 1.0, worker=2),
    )
    assert drawing.chart(timeline(slices=slices), 50, 200).percentiles["p50"] == "M0 240H80M40 160H160"


def test_a_slice_that_began_before_the_range_is_drawn_from_its_start() -> None:
    began_before = Slice(-30 * SECOND, 50 * SECOND, 9, 0.001, 0.001, 0.001)
    assert drawing.chart(timeline(slices=(began_before,)), 50, 200).percentiles["p50"].startswith("M0 ")
