"""The admin JSON (spec, sections 5 and 6.1), and what its figures are made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypedDict

from telemetry.percentiles import of_ordered, percentile
from telemetry.readers.window import Durations, Sample, values

if TYPE_CHECKING:
    from telemetry.readers.slices import Slice

RATINGS_POST_ROUTE: Final = "POST /api/ratings/<media_hash>"
"""The route whose window the spec calls ratings POST (section 5.2)."""

_DIGITS = 3


class RouteStats(TypedDict):
    """One route as the spec's section 5.1.3 shows it; durations in milliseconds."""

    route: str
    endpoint: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    avg_ms: float
    min_ms: float
    max_ms: float
    request_count: int
    error_count: int
    last_updated: str


def rounded(value: float) -> float:
    """Return `value` as JSON shows every float: with three decimals, so milliseconds to the microsecond."""
    return round(value, _DIGITS)


def rounded_ms(seconds: float) -> float:
    """Return a duration in milliseconds, as JSON shows it."""
    return round(seconds * 1e6) / 1e3  # three decimals: rounding to a whole number takes half the time


@dataclass(frozen=True, slots=True)
class RouteWindow:
    """The rolling window of one route: its samples in seconds, oldest first, and the query counts of its newest requests."""

    route: str
    endpoint: str
    samples: tuple[Sample, ...]
    queries: tuple[int, ...]

    def stats(self) -> RouteStats:
        """Return the route's row of the admin JSON."""
        newest_unix_nano = max((sample.time_unix_nano for sample in self.samples), default=0)
        errors = sum(sample.is_error for sample in self.samples)
        return stats_of(self.route, self.endpoint, Durations(values(self.samples), newest_unix_nano, errors))


def stats_of(route: str, endpoint: str, durations: Durations) -> RouteStats:
    """Return a route's row of the admin JSON."""
    ordered_s = sorted(durations.values_s)
    return {
        "route": route,
        "endpoint": endpoint,
        "p50_ms": rounded_ms(of_ordered(ordered_s, 50)),
        "p95_ms": rounded_ms(of_ordered(ordered_s, 95)),
        "p99_ms": rounded_ms(of_ordered(ordered_s, 99)),
        "avg_ms": rounded_ms(mean(ordered_s)),
        "min_ms": rounded_ms(ordered_s[0] if ordered_s else 0.0),
        "max_ms": rounded_ms(ordered_s[-1] if ordered_s else 0.0),
        "request_count": len(ordered_s),
        "error_count": durations.error_count,
        "last_updated": rfc3339(durations.newest_unix_nano // 1_000_000_000),
    }


@functools.lru_cache(maxsize=256)
def rfc3339(unix_s: int) -> str:
    """Return a time in UTC as JSON shows it, to the second."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


ENDED_PID: Final = 0
"""Stands for the process of workers that have ended."""


class Process(NamedTuple):
    """The requests of one process: when those in each of its windows were complete, in rising order, and its slices."""

    pid: int
    uptime_s: float
    times_unix_nano: Sequence[Sequence[int]]
    slices: Sequence[Slice]


class Figures(Protocol):
    """What the admin pages show: of one process, or of all workers of a server."""

    @property
    def failures(self) -> int: ...
    @property
    def full_at(self) -> int: ...
    def snapshot(self) -> dict[str, Any]: ...
    def route_windows(self) -> list[RouteWindow]: ...
    def route_stats(self) -> list[RouteStats]: ...
    def slices(self) -> list[Slice]: ...
    def lock_waits(self) -> dict[str, float]: ...
    def memory_bytes(self) -> int | None: ...
    def has_route(self, route: str) -> bool: ...
    def processes(self) -> Sequence[Process]: ...


def document(
    lookups: tuple[int, int],
    uptime_s: float,
    queries: Sequence[int],
    ratings_s: Sequence[float],
    stats: Iterable[RouteStats],
    percentages: Mapping[str, float],
) -> dict[str, Any]:
    """Return the body of `GET /admin/performance/json` (spec, sections 5 and 6.1).

    Args:
        lookups: hits and misses of caches.
        uptime_s: seconds.
        queries: of each of the newest requests over all routes.
        ratings_s: durations of the newest requests of `RATINGS_POST_ROUTE`, in seconds.
        stats: a row for each route.
        percentages: `cpu_percent` and `memory_percent`, where these can be read.
    """
    hits, misses = lookups
    hit_rate = rounded(100 * hits / (hits + misses) if hits + misses else 0.0)
    uptime_s = rounded(uptime_s)
    return {
        "cache_hit_rate": hit_rate,
        "uptime_seconds": uptime_s,
        "database": {
            "total_queries": sum(queries),
            "avg_per_request": rounded(mean(queries)),
            "max_per_request": max(queries, default=0),
            "count": len(queries),
        },
        "ratings_post": {
            "p95_latency_ms": rounded_ms(percentile(ratings_s, 95)),
            "avg_latency_ms": rounded_ms(mean(ratings_s)),
            "request_count": len(ratings_s),
        },
        "endpoints": {each["route"]: each for each in stats},
        "cache": {"hits": hits, "misses": misses, "hit_rate_percent": hit_rate},
        "resources": {"uptime_seconds": uptime_s, **percentages},
    }


def mean(numbers: Sequence[float]) -> float:
    """Return the mean of `numbers`, 0.0 without any."""
    return math.fsum(numbers) / len(numbers) if numbers else 0.0
