"""SVG that the server draws: sparklines, and the latency chart for browsers without the chart library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from telemetry.admin.timeline import Timeline
    from telemetry.readers.slices import Slice

SPARK_WIDTH: Final = 100
SPARK_HEIGHT: Final = 20
CHART_WIDTH: Final = 800
CHART_HEIGHT: Final = 240
LEAST_MS: Final = 0.1
"""What took less is drawn as if it took this long: the scale is logarithmic."""
GAP_S: Final = 60
"""Lines end where nothing was asked for so long."""
_DAY_NS: Final = 86400 * 10**9


@dataclass(frozen=True, slots=True)
class Sparkline:
    """Bars for `values`, the newest at the right, as the path data of one stroke for all and one for those marked."""

    bars: str
    marked: str


def sparkline(values: Sequence[float], marked: Sequence[bool] = (), slots: int = SPARK_WIDTH) -> Sparkline:
    """Return a sparkline of the last `slots` values, scaled to the largest of them; no bar is lower than one unit."""
    shown = list(values)[-slots:]
    flags = list(marked)[-slots:] or [False] * len(shown)
    largest = max(shown, default=0.0) or 1.0
    paths: dict[bool, list[str]] = {False: [], True: []}
    step = SPARK_WIDTH / slots
    for at, (value, flag) in enumerate(zip(shown, flags, strict=True)):
        x = (slots - len(shown) + at + 0.5) * step
        height = max(1, round(value / largest * (SPARK_HEIGHT - 1)))
        paths[flag].append(f"M{x:g} {SPARK_HEIGHT}v-{height}")
    return Sparkline("".join(paths[False]), "".join(paths[True]))


@dataclass(frozen=True, slots=True)
class Gridline:
    """A horizontal line of the chart at `y` and what it stands for; `kind` is `tick`, `good` or `poor`."""

    y: float
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot with a logarithmic scale: path data of percentiles, by name, and of the dots, its horizontal lines, from when to
    when it reaches, in UTC, and what a browser needs to draw it alike."""

    percentiles: Mapping[str, str]
    dots: str
    errors: str
    lines: tuple[Gridline, ...]
    start: str
    end: str
    least_ms: float = LEAST_MS
    gap_s: int = GAP_S


def chart(timeline: Timeline, good_below_ms: float, poor_above_ms: float) -> Chart:
    """Return percentiles over time, and requests as dots, failed ones as crosses, with the thresholds as lines."""
    durations = [max(point.sample.value * 1000, LEAST_MS) for point in timeline.points]
    least = [*durations, *(max(each.p50_s * 1000, LEAST_MS) for each in timeline.slices)]
    most = [*durations, *(each.p99_s * 1000 for each in timeline.slices)]
    low = 10 ** math.floor(math.log10(min(least, default=1.0)))
    high = 10 ** math.ceil(math.log10(max([*most, poor_above_ms, low * 10])))
    decades = round(math.log10(high / low))
    span = max(timeline.end_unix_nano - timeline.start_unix_nano, 1)

    def x(time_unix_nano: int) -> float:
        return round((time_unix_nano - timeline.start_unix_nano) / span * CHART_WIDTH, 1)

    def y(value_ms: float) -> float:
        return round(CHART_HEIGHT * (1 - math.log10(value_ms / low) / decades), 1)

    def line(of: Callable[[Slice], float]) -> str:
        path, before = list[str](), None
        for each in timeline.slices:
            start, height = x(max(each.start_unix_nano, timeline.start_unix_nano)), y(max(of(each) * 1000, LEAST_MS))
            command = "L" if before is not None and _goes_on(before, each) else "M"
            path.append(f"{command}{start:g} {height:g}H{x(each.end_unix_nano):g}")
            before = each
        return "".join(path)

    paths: dict[bool, list[str]] = {False: [], True: []}
    for point, duration_ms in zip(timeline.points, durations, strict=True):
        mark = "m-3-3l6 6m0-6l-6 6" if point.sample.is_error else "h0"
        paths[point.sample.is_error].append(f"M{x(point.sample.time_unix_nano):g} {y(duration_ms):g}{mark}")
    ticks = [Gridline(y(low * 10**power), _label(low * 10**power), "tick") for power in range(decades + 1)]
    limits = [Gridline(y(good_below_ms), "", "good"), Gridline(y(poor_above_ms), "", "poor")]
    inside = [limit for limit in limits if 0 <= limit.y <= CHART_HEIGHT]
    percentiles = {
        "p50": line(lambda each: each.p50_s),
        "p95": line(lambda each: each.p95_s),
        "p99": line(lambda each: each.p99_s),
    }
    style = "%H:%M:%S" if span < _DAY_NS else "%Y-%m-%d %H:%M"
    start, end = (
        datetime.fromtimestamp(at / 1e9, UTC).strftime(style)
        for at in (timeline.start_unix_nano, timeline.end_unix_nano)
    )
    return Chart(percentiles, "".join(paths[False]), "".join(paths[True]), tuple(ticks + inside), start, end)


def _goes_on(before: Slice, each: Slice) -> bool:
    """Tell whether a line goes on from one slice to the next: of one worker, without a long pause."""
    return before.worker == each.worker and each.start_unix_nano - before.end_unix_nano < GAP_S * 10**9


def _label(value_ms: float) -> str:
    return f"{value_ms:g} ms" if value_ms < 1000 else f"{value_ms / 1000:g} s"
