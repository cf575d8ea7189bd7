"""What the overview shows, gathered from one reading of the metrics: all that the templates print, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from telemetry import figures
from telemetry.admin.drawing import Sparkline, sparkline
from telemetry.document import ENDED_PID, RATINGS_POST_ROUTE, RouteStats
from telemetry.figures import NONE, Status
from telemetry.percentiles import percentile
from telemetry.recent import NO_REQUESTS, Traces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telemetry.document import Figures, Process, RouteWindow
    from telemetry.readers.slices import Slice
    from telemetry.readers.window import Sample
    from telemetry.recent import KeptRequest
    from telemetry.settings import TelemetrySettings

RATE_HORIZON_S: Final = 60.0
_RATE_BARS = 20


@dataclass(frozen=True, slots=True)
class Card:
    """One figure at the top of the page; `title` says on hover what it is made of, or why there is none."""

    key: str
    label: str
    value: str
    detail: str
    title: str
    status: Status | None = None
    spark: Sparkline | None = None
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One route of the table."""

    stats: RouteStats
    queries_avg: float | None
    queries_max: int | None
    latency: Status
    """By its p95 alone; what needs a look says more."""
    spark: Sparkline
    newest_unix_nano: int
    examples: Mapping[str, str] = field(default_factory=dict)
    """Column -> id of the kept request that comes nearest to its figure; of errors the newest."""

    @property
    def route(self) -> str:
        """The route's name, which identifies the row."""
        return self.stats["route"]

    @property
    def anchor(self) -> str:
        """An id for the row that stays the same over refreshes and sorting."""
        return "r-" + hashlib.sha256(self.route.encode()).hexdigest()[:12]

    def value(self, column: str) -> Any:
        """Return what the row sorts by in `column`; -1 where there is no figure."""
        if column == "queries_avg":
            return -1 if self.queries_avg is None else self.queries_avg
        if column == "queries_max":
            return -1 if self.queries_max is None else self.queries_max
        return self.newest_unix_nano if column == "last_updated" else self.stats[column]  # type: ignore[literal-required]


@dataclass(frozen=True, slots=True)
class Overview:
    """The page's figures at `now_unix_nano`; `windows` are those that have a sample, `slices` those of all requests."""

    windows: tuple[RouteWindow, ...]
    rows: tuple[Row, ...]
    cards: tuple[Card, ...]
    snapshot: dict[str, Any]
    now_unix_nano: int
    slices: tuple[Slice, ...] = ()
    failures: int = 0
    """How often measuring itself went wrong."""
    full_at: int = 0
    """How many routes have a window, if there are more than may have one; else 0."""


def build(metrics: Figures, settings: TelemetrySettings, now_unix_nano: int, kept: Traces = NO_REQUESTS) -> Overview:
    """Return the overview of `metrics` as it is at `now_unix_nano`, judged by the thresholds of `settings`.

    Figures lead to example requests among those `kept`.
    """
    windows = tuple(window for window in metrics.route_windows() if window.samples)
    snapshot, processes = metrics.snapshot(), metrics.processes()
    newest = sorted(sample for window in windows for sample in window.samples)[-settings.window :]
    cards = [
        _rate(processes, settings.window, now_unix_nano),
        _latency(newest, settings),
        _errors(newest),
        _queries(snapshot["database"], settings),
        _cache(snapshot["cache"], settings),
        _resources(snapshot["resources"], metrics.memory_bytes(), sum(each.pid != ENDED_PID for each in processes)),
    ]
    if snapshot["ratings_post"]["request_count"] or metrics.has_route(RATINGS_POST_ROUTE):
        cards.append(_ratings(snapshot["ratings_post"], settings))
    rows = tuple(row(window, settings, kept) for window in windows)
    slices = tuple(metrics.slices())
    return Overview(windows, rows, tuple(cards), snapshot, now_unix_nano, slices, metrics.failures, metrics.full_at)


def row(window: RouteWindow, settings: TelemetrySettings, kept: Traces = NO_REQUESTS) -> Row:
    """Return the table's row for `window`, which must have a sample."""
    stats = window.stats()
    durations = [sample.value for sample in window.samples]
    most = max(window.queries, default=None)
    return Row(
        stats=stats,
        queries_avg=sum(window.queries) / len(window.queries) if window.queries else None,
        queries_max=most,
        latency=figures.latency_status(stats["p95_ms"], settings),
        spark=sparkline(durations, [sample.is_error for sample in window.samples]),
        newest_unix_nano=max(sample.time_unix_nano for sample in window.samples),
        examples=_examples(stats, most, window.samples, kept),
    )


def _examples(stats: RouteStats, most_queries: int | None, samples: Sequence[Sample], kept: Traces) -> dict[str, str]:
    known = [(sample, found) for sample in samples if (found := kept.of(sample, stats["route"])) is not None]
    if not known:
        return {}
    examples: dict[str, KeptRequest | None] = {}
    for column in ("p50_ms", "p95_ms", "p99_ms", "min_ms", "max_ms"):
        wanted_s = stats[column] / 1000
        examples[column] = min(known, key=lambda pair: abs(pair[0].value - wanted_s))[1]
    known.reverse()
    examples["error_count"] = next((found for sample, found in known if sample.is_error), None)
    examples["queries_max"] = next((found for _, found in known if found.query_count == most_queries), None)
    return {column: found.request_id for column, found in examples.items() if found is not None}


class Rate(NamedTuple):
    """Requests of the newest `seconds`; `bars` are how many of each of its parts, a slice's spread evenly over its time."""

    request_count: int
    seconds: float
    per_second: float
    bars: list[float]


_Part = tuple[int, int, int]
"""Start, end and number of some requests."""


def request_rate(processes: Sequence[Process], size: int, now_unix_nano: int) -> Rate:
    """Return how many requests there were of late, of all `processes`.

    Exact: it looks back a minute, or less where no process has run so long. Where a full window does not reach so far, it
    counts the slices that begin within that time, if these reach further back; of workers that have ended, a part of one that
    began before.
    """
    # A process that has begun of late has served nothing before that: its requests are of all the time that is looked at.
    uptime_s = max((process.uptime_s for process in processes), default=0.0)
    found = [_parts(process, size, uptime_s, now_unix_nano) for process in processes]
    start = min((start for start, _ in found), default=now_unix_nano)
    parts = [part for _, parts in found for part in parts]
    seconds = (now_unix_nano - start) / 1e9
    bars = _bars(parts, start, max(seconds, 1e-9) * 1e9 / _RATE_BARS)
    per_second = sum(
        _number(parts) / ((now_unix_nano - start) / 1e9) for start, parts in found if start < now_unix_nano
    )
    return Rate(_number(parts), seconds, per_second, bars)


def _parts(process: Process, size: int, uptime_s: float, now_unix_nano: int) -> tuple[int, list[_Part]]:
    """Return the requests of a process of late, and since when that is; `uptime_s` bounds how far to look back."""
    horizon_s = min(RATE_HORIZON_S, max(uptime_s, 1.0))
    earliest = now_unix_nano - int(horizon_s * 1e9)
    full = [times[0] for times in process.times_unix_nano if len(times) >= size]
    start = max([earliest, *full])
    if process.pid == ENDED_PID and start > earliest:
        return earliest, _prorated(process.slices, earliest, now_unix_nano)
    within = [each for each in process.slices if earliest <= each.start_unix_nano <= now_unix_nano]
    if within and within[0].start_unix_nano < start:
        return within[0].start_unix_nano, [
            (each.start_unix_nano, each.end_unix_nano, each.request_count) for each in within
        ]
    return start, [(at, at, 1) for times in process.times_unix_nano for at in times if start < at <= now_unix_nano]


def _prorated(slices: Sequence[Slice], earliest: int, now_unix_nano: int) -> list[_Part]:
    """Return the requests of slices of several workers, which overlap: of one that began earlier, a part by its time."""
    parts = []
    for each in slices:
        start = max(earliest, each.start_unix_nano)
        length, within = each.end_unix_nano - each.start_unix_nano, each.end_unix_nano - start
        if within >= 0 and each.start_unix_nano <= now_unix_nano:
            count = round(each.request_count * within / length) if length else each.request_count
            parts.append((start, each.end_unix_nano, count))
    return parts


def _number(parts: Sequence[_Part]) -> int:
    return sum(count for *_, count in parts)


def _bars(parts: Sequence[_Part], start: int, width_ns: float) -> list[float]:
    bars = [0.0] * _RATE_BARS
    for begin, end, count in parts:
        first, last = (min(int((at - start) / width_ns), _RATE_BARS - 1) for at in (begin, max(begin, end)))
        for at in range(first, last + 1):
            bars[at] += count / (last + 1 - first)
    return bars


def _rate(processes: Sequence[Process], size: int, now_unix_nano: int) -> Card:
    if not any(process.times_unix_nano for process in processes):
        return Card("rate", "requests/s", NONE, "", "No request yet.")
    rate = request_rate(processes, size, now_unix_nano)
    title = f"{figures.plural(rate.request_count, 'request')} in the last {figures.digits(rate.seconds)} s"
    over = f"over {rate.seconds:.0f} s" if rate.seconds >= 1 else "over the last instant"
    spark = sparkline(rate.bars, slots=_RATE_BARS)
    return Card("rate", "requests/s", figures.digits(rate.per_second), over, title, spark=spark)


def _latency(newest: Sequence[Sample], settings: TelemetrySettings) -> Card:
    if not newest:
        return Card("p95", "p95", NONE, "", "No request yet.")
    durations = [sample.value for sample in newest]
    p95_ms = percentile(durations, 95) * 1000
    n = figures.count(len(newest))
    title = f"95 of 100 were faster, of the last n = {n} over all routes; {figures.latency_rule(settings)}"
    spark = sparkline(durations, [sample.is_error for sample in newest], slots=max(len(durations), 20))
    value = figures.milliseconds(p95_ms)
    return Card("p95", "p95", value, f"n {n}", title, figures.latency_status(p95_ms, settings), spark)


def _errors(newest: Sequence[Sample]) -> Card:
    if not newest:
        return Card("errors", "errors", NONE, "", "No request yet.")
    failed = sum(sample.is_error for sample in newest)
    share = 100 * failed / len(newest)
    detail = f"{figures.count(failed)} of the last {figures.count(len(newest))}"
    title = f"{detail} requests over all routes answered 5xx or raised; {figures.error_rule()}"
    return Card("errors", "errors", figures.percent(share), detail, title, figures.error_status(share))


def _queries(database: dict[str, Any], settings: TelemetrySettings) -> Card:
    if not database["count"]:
        return Card("queries", "queries/request", NONE, "", "No request yet.")
    most = database["max_per_request"]
    title = (
        f"{figures.plural(database['total_queries'], 'query')} in the last "
        f"{figures.plural(database['count'], 'request')}; from {settings.fan_out_warning} in one on it is worth a look"
    )
    return Card(
        "queries",
        "queries/request",
        figures.digits(database["avg_per_request"]),
        f"max {figures.count(most)} · n {figures.count(database['count'])}",
        title,
        figures.fan_out_status(most, settings),
    )


def _cache(cache: dict[str, Any], settings: TelemetrySettings) -> Card:
    lookups = cache["hits"] + cache["misses"]
    if not lookups:
        return Card("cache", "cache hits", NONE, "", "No cache lookup yet: the app calls record_cache_hit and _miss.")
    rate = cache["hit_rate_percent"]
    title = f"Since the start; {figures.cache_rule(settings)}"
    detail = f"{figures.count(cache['hits'])} of {figures.count(lookups)}"
    status = figures.cache_status(rate, lookups, settings)
    return Card("cache", "cache hits", figures.percent(rate), detail, title, status)


def _resources(resources: dict[str, Any], memory_bytes: int | None, processes: int) -> Card:
    cpu, memory = (
        NONE if value is None else f"{figures.digits(value)} %"
        for value in (resources.get("cpu_percent"), resources.get("memory_percent"))
    )
    held = NONE if memory_bytes is None else figures.bytes(memory_bytes)
    whose = "This process's share of all processors, and the memory it holds"
    if processes > 1:
        whose = f"The share of {processes} workers of all processors, and the memory that they hold"
    title = f"{whose}: {memory} of the machine's"
    if NONE in (cpu, memory, held):
        title = "The system doesn't let the process read this."
    uptime = figures.duration(resources["uptime_seconds"])
    return Card("resources", "CPU", cpu, f"memory {held}", title, aside=f"up {uptime}")


def _ratings(ratings: dict[str, Any], settings: TelemetrySettings) -> Card:
    made = ratings["request_count"]
    if not made:
        return Card("ratings", "ratings p95", NONE, "", f"No {RATINGS_POST_ROUTE} yet.")
    p95_ms = ratings["p95_latency_ms"]
    detail = f"avg {figures.milliseconds(ratings['avg_latency_ms'])} · n {figures.count(made)}"
    title = f"{RATINGS_POST_ROUTE}, the last n = {figures.count(made)}; {figures.latency_rule(settings)}"
    status = figures.latency_status(p95_ms, settings)
    return Card("ratings", "ratings p95", figures.milliseconds(p95_ms), detail, title, status)
