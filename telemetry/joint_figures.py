"""The figures of all workers of a server as one: exact, because each tells its raw samples with their times.

So are those of workers that have ended, which have handed over what they would have told.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from telemetry.document import ENDED_PID, RATINGS_POST_ROUTE, Process, RouteStats, RouteWindow, document, stats_of
from telemetry.readers.slices import MOST_SLICES, Slice
from telemetry.readers.window import (
    Count,
    Durations,
    counts_of,
    newest_counts,
    newest_durations,
    newest_packed,
    newest_samples,
    packed_counts,
    times_of,
)

if TYPE_CHECKING:
    from telemetry.handover import Handover
    from telemetry.performance import PerformanceMetrics


_MOST_NAMES: Final = 100


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has measured, as it tells the others."""

    pid: int
    """`ENDED_PID` for what workers that have ended have measured."""
    uptime_s: float
    durations: dict[str, bytes]
    """The packed window of each route."""
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
    hits, misses = metrics.cache_lookups()
    return Told(
        pid=os.getpid(),
        uptime_s=metrics.get_uptime_seconds(),
        durations=metrics.store.packed(),
        newest_queries=metrics.store.queries(),
        hits=hits,
        misses=misses,
        lock_waits_s=metrics.lock_waits(),
        percentages=metrics.process_percentages(),
        memory_bytes=metrics.memory_bytes(),
        slices=metrics.slices(),
        failures=metrics.failures,
        full_at=metrics.full_at,
    )


Queries = dict[str, bytes]
"""How many queries the requests in the window of each route have made, packed."""


def queries_of(metrics: PerformanceMetrics) -> Queries:
    """Return the numbers of queries that `metrics` has to tell; the admin JSON needs none of them."""
    store = metrics.store
    return {route: store.packed_queries(route) for route in store.routes()}


class HandedOver(msgspec.Struct, frozen=True):
    """What workers that have ended have measured."""

    names: list[str]
    """Those of the workers that ended last: one may answer yet that has handed over its figures already."""
    unix_s: float
    """When the last of them ended."""
    told: Told
    queries: Queries

    def told_now(self) -> Told:
        """Return it as a worker would that has served since the first of them was started."""
        return msgspec.structs.replace(self.told, uptime_s=self.told.uptime_s + max(0.0, time.time() - self.unix_s))


def hand_over(metrics: PerformanceMetrics, handover: Handover, name: str) -> None:
    """Leave to the others what the worker `name` has measured with `metrics`. Raises `OSError` if that can't be written."""
    handover.add(name, left(metrics, name))
    with suppress(Exception):  # then there are more files, until the next one ends
        handover.merge(functools.partial(merge, metrics))


def left(metrics: PerformanceMetrics, name: str) -> bytes:
    """Return what `hand_over` leaves."""
    told = tell(metrics)
    slices = [each._replace(worker=told.pid) for each in told.slices]
    told = msgspec.structs.replace(told, pid=ENDED_PID, percentages={}, memory_bytes=None, slices=slices)
    return msgspec.msgpack.encode(HandedOver([name], time.time(), told, queries_of(metrics)))


def merge(metrics: PerformanceMetrics, read: Sequence[bytes]) -> bytes:
    """Return as one what several workers have left, with windows as large as those of `metrics`."""
    found = handed_over(read)
    # Those that were merged before, which are the older ones, come last.
    names = [name for each in reversed(found) for name in each.names]
    figures = JointFigures(metrics, [each.told_now() for each in found], lambda: [each.queries for each in found])
    return msgspec.msgpack.encode(HandedOver(names[-_MOST_NAMES:], time.time(), figures.told(), figures.queries()))


def handed_over(read: Sequence[bytes]) -> list[HandedOver]:
    """Return what workers have left, each once; what another version of this package has left is passed over."""
    found: list[HandedOver] = []
    known: set[str] = set()
    for content in reversed(read):  # what was merged first
        with suppress(msgspec.MsgspecError):
            each = msgspec.msgpack.decode(content, type=HandedOver)
            if known.isdisjoint(each.names):
                found.append(each)
                known.update(each.names)
    return found[::-1]


class JointFigures:
    """What `PerformanceMetrics` says of one process, of several: windows hold the last samples of all, sums are of all.

    Of the last 100 samples of all workers each is among the last 100 of its own, so that what they tell is enough.
    """

    def __init__(
        self, own: PerformanceMetrics, workers: Sequence[Told], queries: Callable[[], Iterable[Queries]] = tuple
    ) -> None:
        """Be the figures of `workers`, of which that of `own` is one; `queries` asks them for theirs.

        One of them may stand for all that have ended.
        """
        self._own = own
        self._workers = workers
        self._ask_queries = queries

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
        return document(
            self._lookups(),
            self._uptime_s(),
            self._numbers(worker.newest_queries for worker in self._workers),
            self._durations(RATINGS_POST_ROUTE).values_s,
            self.route_stats(),
            percentages,
        )

    def route_windows(self) -> list[RouteWindow]:
        """Return the windows of all routes, sorted by name; samples are numbered by their times."""
        return list(self._windows)

    @functools.cached_property
    def _windows(self) -> list[RouteWindow]:
        endpoints, queries = self._own.endpoints(), list(self._ask_queries())
        return [
            RouteWindow(
                route,
                endpoints.get(route, ""),
                newest_samples(self._packed(route), self._own.store.size),
                tuple(self._numbers(counts_of(of_worker.get(route, b"")) for of_worker in queries)),
            )
            for route in self._routes()
        ]

    def route_stats(self) -> list[RouteStats]:
        """Return what `RouteWindow.stats` says of each route that has a sample, sorted by name."""
        endpoints = self._own.endpoints()
        every = ((route, self._durations(route)) for route in self._routes())
        return [
            stats_of(route, endpoints.get(route, ""), durations) for route, durations in every if durations.values_s
        ]

    def slices(self) -> list[Slice]:
        """Return the percentiles over time of each worker, one worker after another: those of all can't be told from these."""
        every = (
            each if each.worker else each._replace(worker=worker.pid)
            for worker in self._workers
            for each in worker.slices
        )
        return sorted(every, key=lambda each: each.worker or ENDED_PID)

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
        return list(self._processes)

    @functools.cached_property
    def _processes(self) -> list[Process]:
        return [
            Process(
                worker.pid, worker.uptime_s, [times_of(packed) for packed in worker.durations.values()], worker.slices
            )
            for worker in self._workers
        ]

    def told(self) -> Told:
        """Return all of this as what one worker has measured that has ended."""
        hits, misses = self._lookups()
        size = self._own.store.size
        return Told(
            pid=ENDED_PID,
            uptime_s=self._uptime_s(),
            durations={route: newest_packed(self._packed(route), size) for route in self._routes()},
            newest_queries=newest_counts((worker.newest_queries for worker in self._workers), size),
            hits=hits,
            misses=misses,
            lock_waits_s=self.lock_waits(),
            percentages={},
            memory_bytes=None,
            slices=sorted(self.slices(), key=lambda each: each.start_unix_nano)[-MOST_SLICES:],
            failures=self.failures,
            full_at=self.full_at,
        )

    def queries(self) -> Queries:
        """Return the numbers of queries of all, as one worker tells its own."""
        of_workers, size = list(self._ask_queries()), self._own.store.size
        routes = sorted({route for of_worker in of_workers for route in of_worker})
        return {
            route: packed_counts(
                newest_counts((counts_of(of_worker.get(route, b"")) for of_worker in of_workers), size)
            )
            for route in routes
        }

    def _lookups(self) -> tuple[int, int]:
        return sum(worker.hits for worker in self._workers), sum(worker.misses for worker in self._workers)

    def _uptime_s(self) -> float:
        return max(worker.uptime_s for worker in self._workers)

    def _routes(self) -> list[str]:
        return sorted({route for worker in self._workers for route in worker.durations})

    def _packed(self, route: str) -> list[bytes]:
        return [worker.durations.get(route, b"") for worker in self._workers]

    def _durations(self, route: str) -> Durations:
        return newest_durations(self._packed(route), self._own.store.size)

    def _numbers(self, counts: Iterable[Sequence[Count]]) -> list[int]:
        """Return the newest of all `counts`, each oldest first, without their times."""
        return [count.number for count in newest_counts(counts, self._own.store.size)]
