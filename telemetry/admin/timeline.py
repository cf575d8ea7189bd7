"""Latency over time, as the chart shows it: the newest requests one by one, and percentiles of all there were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from telemetry.document import rounded
from telemetry.readers.slices import Slice, cut
from telemetry.recent import NO_REQUESTS, Traces

if TYPE_CHECKING:
    from telemetry.document import Figures, RouteWindow
    from telemetry.readers.window import Sample
    from telemetry.recent import KeptRequest

RANGES_S: Final[dict[str, float]] = {"5m": 300, "15m": 900, "1h": 3600, "all": float("inf")}
RANGE_WORDS: Final = {"5m": "5 min", "15m": "15 min", "1h": "1 h", "all": "all"}
DEFAULT_RANGE: Final = "15m"
LEAST_SPAN_S: Final = 60.0
"""What is shown when there are no older requests: a range mostly empty says nothing more."""
MAX_POINTS: Final = 2000
"""More dots than this say nothing more to the eye, and cost the browser; the newest are kept."""


class Point(NamedTuple):
    """One request: the sample, the route it belongs to, and what is kept of it, if more is."""

    sample: Sample
    route: str
    kept: KeptRequest | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """Requests and slices between `start_unix_nano` and `end_unix_nano`, oldest first; `newest_unix_nano` is of any time."""

    points: tuple[Point, ...]
    slices: tuple[Slice, ...]
    start_unix_nano: int
    end_unix_nano: int
    newest_unix_nano: int | None

    def body(self) -> dict[str, Any]:
        """Return the points column by column, as charts take them: times in seconds, durations in milliseconds."""
        routes = sorted({point.route for point in self.points})
        index = {route: at for at, route in enumerate(routes)}
        samples = [point.sample for point in self.points]
        return {
            "start": rounded(self.start_unix_nano / 1e9),
            "end": rounded(self.end_unix_nano / 1e9),
            "routes": routes,
            "time": [rounded(sample.time_unix_nano / 1e9) for sample in samples],
            "duration_ms": [rounded(sample.value * 1000) for sample in samples],
            "is_error": [sample.is_error for sample in samples],
            "route": [index[point.route] for point in self.points],
            "is_kept": [point.kept is not None for point in self.points],
            "trace_id": [None if sample.trace_id is None else f"{sample.trace_id:032x}" for sample in samples],
            "span_id": [None if point.kept is None else f"{point.kept.span_id:016x}" for point in self.points],
            "slices": {
                "start": [rounded(each.start_unix_nano / 1e9) for each in self.slices],
                "end": [rounded(each.end_unix_nano / 1e9) for each in self.slices],
                "count": [each.request_count for each in self.slices],
                "p50_ms": [rounded(each.p50_s * 1000) for each in self.slices],
                "p95_ms": [rounded(each.p95_s * 1000) for each in self.slices],
                "p99_ms": [rounded(each.p99_s * 1000) for each in self.slices],
                "worker": [each.worker for each in self.slices],
            },
        }


def read(
    metrics: Figures, requests: Iterable[KeptRequest], span: str, route: str | None, now_unix_nano: int
) -> Timeline:
    """Return the requests of the last `span` (a key of `RANGES_S`) up to now, of one route if `route` names it.

    It starts with the first request kept where that is later, though never less than a minute before now. The slices are of
    all requests, of each worker where there are several; of one route they are of the samples in its window.
    """
    return select(metrics.route_windows(), metrics.slices(), span, route, now_unix_nano, Traces(requests))


def select(
    windows: Sequence[RouteWindow],
    slices_of_all: Sequence[Slice],
    span: str,
    route: str | None,
    now_unix_nano: int,
    kept: Traces = NO_REQUESTS,
) -> Timeline:
    """Return what `read` does, out of windows, slices and kept requests that were read already."""
    every = sorted(
        (
            Point(sample, window.route, kept.of(sample, window.route))
            for window in windows
            if route in (None, window.route)
            for sample in window.samples
        ),
        key=lambda point: (point.sample.time_unix_nano, point.sample.sequence),
    )
    slices = slices_of_all
    if route is not None:
        slices = cut((point.sample.value, point.sample.time_unix_nano) for point in every)
    newest = every[-1].sample.time_unix_nano if every else None
    first = min(
        every[0].sample.time_unix_nano if every else now_unix_nano,
        min((each.start_unix_nano for each in slices), default=now_unix_nano),
    )
    length_s = RANGES_S[span]
    earliest, shown = first, every
    if length_s != float("inf"):
        earliest, ahead = now_unix_nano - int(length_s * 1e9), now_unix_nano + int(LEAST_SPAN_S * 1e9)
        # What a clock that has run ahead has timed is shown under "all" alone.
        shown = [point for point in every if earliest <= point.sample.time_unix_nano <= ahead]
    latest = max(now_unix_nano, shown[-1].sample.time_unix_nano if shown else 0)
    start = min(max(earliest, first), now_unix_nano - int(LEAST_SPAN_S * 1e9))
    return Timeline(
        tuple(shown[-MAX_POINTS:]),
        tuple(each for each in slices if each.end_unix_nano >= earliest and each.start_unix_nano <= latest),
        start,
        latest,
        newest,
    )
