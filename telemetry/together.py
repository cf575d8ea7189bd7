"""The figures of all workers of a server as one: exact, because each tells its raw samples with their times."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from telemetry.document import RATINGS_POST_ROUTE, Process, RouteStats, RouteWindow, document
from telemetry.readers.slices import Slice
from telemetry.readers.window import Count, Sample, unpacked, values

if TYPE_CHECKING:
    from telemetry.performance import PerformanceMetrics

_Kept = TypeVar("_Kept")


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has measured, as it tells the others."""

    pid: int
    uptime_s: float
    durations: dict[str, bytes]
    """The packed window of each route."""
    queries: dict[str, list[Count]]
    newest_queries: list[Count]
    hits: int
    misses: int
    lock_waits_s: dict[str, float]
    percentages: dict[str, float]
    memory_bytes: int | None
    slices: list[Slice]
    failures: int
    full_at: int


def tell(metrics: PerformanceMetrics) -> Told:
    """Return what `metrics` has to tell."""
    store = metrics.store
    windows = {route: window for route in store.routes() if (window := store.window_of(route)) is not None}
    hits, misses = metrics.cache_lookups()
    return Told(
        pid=os.getpid(),
        uptime_s=metrics.get_uptime_seconds(),
        durations={route: window.packed() for route, window in windows.items()},
        queries={route: store.queries(route) for route in windows},
        newest_queries=store.queries(),
        hits=hits,
        misses=misses,
        lock_waits_s=metrics.lock_waits(),
        percentages=metrics.process_percentages(),
        memory_bytes=metrics.memory_bytes(),
        slices=metrics.slices(),
        failures=metrics.failures,
        full_at=metrics.full_at,
    )


class Together:
    """What `PerformanceMetrics` says of one process, of several: windows hold the last samples of all, sums are of all.

    Of the last 100 samples of all workers each is among the last 100 of its own, so that what they tell is enough.
    """

    def __init__(self, own: PerformanceMetrics, workers: Sequence[Told]) -> None:
        """Be the figures of `workers`, of which that of `own` is one."""
        self._own = own
        self._workers = workers

    @property
    def failures(self) -> int:
        """How often something went wrong in measuring itself."""
        return sum(worker.failures for worker in self._workers)

    @property
    def full_at(self) -> int:
        """How many routes have a window, if there are more than may have one; else 0."""
        return max(worker.full_at for worker in self._workers)

    def snapshot(self) -> dict[str, Any]:
        """Return the body of `GET /admin/performance/json` (spec, sections 5 and 6.1)."""
        percentages: dict[str, float] = {}
        for worker in self._workers:
            for key, percent in worker.percentages.items():
                percentages[key] = round(percentages.get(key, 0.0) + percent, 3)
        ratings = next((window for window in self.route_windows() if window.route == RATINGS_POST_ROUTE), None)
        return document(
            (sum(worker.hits for worker in self._workers), sum(worker.misses for worker in self._workers)),
            max(worker.uptime_s for worker in self._workers),
            self._numbers(worker.newest_queries for worker in self._workers),
            values(ratings.samples) if ratings else (),
            self.route_stats(),
            percentages,
        )

    @functools.cached_property
    def _windows(self) -> list[RouteWindow]:
        endpoints = self._own.endpoints()
        routes = sorted({route for worker in self._workers for route in worker.durations})
        return [
            RouteWindow(
                route,
                endpoints.get(route, ""),
                self._samples(worker.durations.get(route, b"") for worker in self._workers),
                tuple(self._numbers(worker.queries.get(route, ()) for worker in self._workers)),
            )
            for route in routes
        ]

    def route_windows(self) -> list[RouteWindow]:
        """Return the window of every route, by route name; samples are numbered by their times."""
        return list(self._windows)

    def route_stats(self) -> list[RouteStats]:
        """Return what `RouteWindow.stats` says of every route that has a sample, by route name."""
        return [window.stats() for window in self._windows if window.samples]

    def slices(self) -> list[Slice]:
        """Return the percentiles over time of each worker, one worker after another: those of all can't be told from these."""
        return [each._replace(worker=worker.pid) for worker in self._workers for each in worker.slices]

    def lock_waits(self) -> dict[str, float]:
        """Return the seconds that the requests of each route have lost to locks of the database, where they lost any."""
        waits_s: dict[str, float] = {}
        for worker in self._workers:
            for route, waited_s in worker.lock_waits_s.items():
                waits_s[route] = waits_s.get(route, 0.0) + waited_s
        return waits_s

    def memory_bytes(self) -> int | None:
        """Return the memory that the processes hold; `None` where it can't be read."""
        known = [worker.memory_bytes for worker in self._workers if worker.memory_bytes is not None]
        return sum(known) if known else None

    def has_route(self, route: str) -> bool:
        """Return whether an app that is measured has a rule of that name, asked for or not."""
        return self._own.has_route(route)

    def processes(self) -> list[Process]:
        """Return what the rate of requests is read from."""
        return [process_of(worker) for worker in self._workers]

    def _samples(self, packed: Iterable[bytes]) -> tuple[Sample, ...]:
        """Return the newest of all samples, numbered by their times."""
        numbered = (
            sample._replace(sequence=sample.time_unix_nano) for of_worker in packed for sample in unpacked(of_worker)
        )
        return tuple(self._newest(numbered, lambda sample: sample.time_unix_nano))

    def _numbers(self, counts: Iterable[Iterable[Count]]) -> list[int]:
        every = (count for of_worker in counts for count in of_worker)
        return [count.number for count in self._newest(every, lambda count: count.time_unix_nano)]

    def _newest(self, every: Iterable[_Kept], time: Callable[[_Kept], int]) -> list[_Kept]:
        return sorted(every, key=time)[-self._own.store.size :]


def process_of(worker: Told) -> Process:
    """Return what the rate of a worker's requests is read from."""
    windows = tuple(
        RouteWindow(route, "", samples, ())
        for route, packed in worker.durations.items()
        if (samples := unpacked(packed))
    )
    return Process(worker.pid, worker.uptime_s, windows, tuple(worker.slices))
