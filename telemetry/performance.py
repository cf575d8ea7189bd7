"""`PerformanceMetrics`: the figures of the admin dashboard, read from the windows of the metrics pipeline (spec, section 3)."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final, overload

from opentelemetry.sdk.metrics import MeterProvider

from telemetry import forked, instruments, system
from telemetry.binding import BoundCounter, keep_views_away
from telemetry.document import (
    RATINGS_POST_ROUTE,
    Process,
    RouteStats,
    RouteWindow,
    document,
    mean,
    rounded,
    stats_of,
)
from telemetry.instruments import Instruments
from telemetry.percentiles import percentile
from telemetry.readers.performance import PerformanceMetricReader
from telemetry.readers.window import WindowStore, numbers_of, route_name, times_of, values
from telemetry.recent import RecentRequests
from telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider as APIMeterProvider
    from werkzeug.routing import Map

    from telemetry.readers.slices import Slice

_log = logging.getLogger(__name__)
_SETTLED: Final = ("window", "max_routes", "recent_requests", "worst_requests", "recent_bytes", "monitor")
_HIT, _MISS = "hit", "miss"


class SampleList(Sequence[float]):
    """A window that reads as a list, oldest first, and can be appended to as the spec's section 3.2 writes it."""

    def __init__(self, read: Callable[[], Sequence[float]], write: Callable[[float], None]) -> None:
        self._read = read
        self._write = write

    def append(self, value: float) -> None:
        """Record `value`; the oldest sample leaves a full window."""
        self._write(value)

    def extend(self, new: Iterable[float]) -> None:
        """Record each value of `new`."""
        for value in new:
            self._write(value)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[float]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (list, SampleList)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes, as a list does

    def __repr__(self) -> str:
        return repr(list(self))


class _EndpointLatencies(Mapping[str, SampleList]):
    """`endpoint_latencies`: like the spec's `defaultdict(list)`, a route that has no sample yet reads as an empty list."""

    def __init__(self, metrics: PerformanceMetrics) -> None:
        self._metrics = metrics

    def __getitem__(self, route: str) -> SampleList:
        store = self._metrics.store
        return SampleList(
            lambda: values(store.samples(route)), lambda value: self._metrics.record_endpoint_latency(route, value)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._metrics.store.routes()))

    def __len__(self) -> int:
        return len(self._metrics.store.routes())


class PerformanceMetrics:
    """Figures of the process (spec, section 3). Thread-safe.

    Everything recorded here goes into OpenTelemetry instruments, and everything read comes out of a
    `PerformanceMetricReader`: of the provider given here, of those that `attach` adds, or else of one of its own.
    `get_metrics()` is the process's instance; others live beside it without sharing a figure, unless they share a provider.
    """

    def __init__(
        self, settings: TelemetrySettings | None = None, *, meter_provider: APIMeterProvider | None = None
    ) -> None:
        self.settings = settings or TelemetrySettings.load()
        self.lock = forked.reentrant_lock()
        self.start_time = time.time()
        self._started = time.monotonic()
        self.store = WindowStore(self.settings.window, self.settings.max_routes)
        self.usage = system.ProcessUsage()
        self.recent = RecentRequests(
            self.settings.recent_requests, self.settings.worst_requests, self.settings.recent_bytes
        )
        self.failures = 0
        """How often something went wrong in measuring itself; the app is not told, the dashboard is."""
        self._pid = os.getpid()
        self._attached: list[_Attached] = []
        self._lookups: dict[str, BoundCounter] = {}  # of the first attached provider, by outcome
        self._detached_lookups: dict[Any, int] = {}
        self._lookups_at_reset = (0, 0)
        self._stats: dict[str, tuple[tuple[str, int], RouteStats]] = {}
        self._url_maps: weakref.WeakKeyDictionary[Map, tuple[int, Mapping[str, str]]] = weakref.WeakKeyDictionary()
        self.endpoint_latencies: Mapping[str, SampleList] = _EndpointLatencies(self)
        if meter_provider is not None:
            self.attach(meter_provider)

    # -- providers ---------------------------------------------------------------------------------------------------

    def attach(self, meter_provider: APIMeterProvider) -> Instruments:
        """Read what is recorded through `meter_provider` as well, and return the instruments to record with.

        Attaching twice does nothing. A provider that takes no reader (the API's no-op) leaves the figures empty.
        """
        with self.lock:
            for attached in self._attached:
                if attached.provider is meter_provider:
                    return attached.instruments
            reader = PerformanceMetricReader(self.store)
            if isinstance(meter_provider, MeterProvider):
                meter_provider.add_metric_reader(reader)
                keep_views_away(meter_provider, reader)
            made = Instruments(meter_provider)
            if meter_provider not in _observed_providers:
                _observed_providers.add(meter_provider)
                system.register(made.meter, self.usage)
            self._attached.append(_Attached(meter_provider, reader, made))
            return made

    def is_attached(self, meter_provider: APIMeterProvider) -> bool:
        """Tell whether what is recorded through `meter_provider` is read here."""
        with self.lock:
            return any(attached.provider is meter_provider for attached in self._attached)

    def detach(self, meter_provider: APIMeterProvider) -> None:
        """Stop reading `meter_provider`; what was read stays. A provider that isn't attached is ignored."""
        with self.lock:
            for attached in self._attached:
                if attached.provider is not meter_provider:
                    continue
                attached.reader.shutdown()
                for outcome, lookups in attached.reader.point_values(*_LOOKUPS).items():
                    self._detached_lookups[outcome] = self._detached_lookups.get(outcome, 0) + int(lookups)
                if isinstance(meter_provider, MeterProvider):
                    meter_provider.remove_metric_reader(attached.reader)
                self._attached.remove(attached)
                self._lookups = {}
                return

    @property
    def attached_provider(self) -> APIMeterProvider | None:
        """The first provider that is read, if there is one."""
        with self.lock:
            return self._attached[0].provider if self._attached else None

    @property
    def meter_provider(self) -> APIMeterProvider:
        """The provider that `record_*` goes to: the first attached one, else a private one made now."""
        with self.lock:
            if not self._attached:
                self.attach(MeterProvider(shutdown_on_exit=False))
            return self._attached[0].provider

    def settled_otherwise(self, settings: TelemetrySettings) -> list[str]:
        """Return the names of `settings` that come too late here: what is kept, and how much of it, was settled by others."""
        return [name for name in _SETTLED if getattr(self.settings, name) != getattr(settings, name)]

    def add_routes(self, url_map: Map) -> None:
        """Look up endpoint names in `url_map` from now on; it is not kept alive."""
        self._url_maps.setdefault(url_map, (0, {}))

    def has_route(self, route: str) -> bool:
        """Return whether an app that is measured has a rule of that name, asked for or not."""
        return route in self.endpoints()

    # -- writing -----------------------------------------------------------------------------------------------------

    def record_cache_hit(self, lookups: int = 1) -> None:
        """Count lookups that the cache answered. What is no whole number of them is dropped with a warning."""
        if _is("lookups", lookups, Integral):
            (self._lookups.get(_HIT) or self._bind_lookups(_HIT)).add(lookups)

    def record_cache_miss(self, lookups: int = 1) -> None:
        """Count lookups that the cache could not answer. What is no whole number of them is dropped with a warning."""
        if _is("lookups", lookups, Integral):
            (self._lookups.get(_MISS) or self._bind_lookups(_MISS)).add(lookups)

    def record_endpoint_latency(self, route: str, duration: float, is_error: bool = False) -> None:
        """Record a request that the instrumentation does not see.

        Args:
            route: `METHOD rule`, such as `GET /watch/<filename>`.
            duration: seconds; one that is negative, not finite or no number is dropped with a warning.
            is_error: whether it counts as an error of the route.
        """
        if not (_is("route", route, str) and _is("duration", duration, Real)):
            return
        method, _, rule = route.rpartition(" ")
        attributes: dict[str, str] = {instruments.HTTP_ROUTE: rule}
        if method:
            attributes[instruments.HTTP_REQUEST_METHOD] = method
        if is_error:
            attributes[instruments.ERROR_TYPE] = instruments.OTHER
        self._instruments.request_duration.record(duration, attributes)

    def count_failure(self) -> None:
        """Count something that went wrong in measuring itself."""
        with self.lock:
            self.failures += 1

    def _bind_lookups(self, outcome: str) -> BoundCounter:
        with self.lock:
            made = BoundCounter(self._instruments.cache_lookups, {instruments.CACHE_OUTCOME: outcome})
            return self._lookups.setdefault(outcome, made)

    @property
    def _instruments(self) -> Instruments:
        return self.attach(self.meter_provider)

    def reset(self) -> None:
        """Empty the windows of all routes and of the query counts, and let the cache figures count from here.

        The uptime and the process's figures go on, and so does what other readers have seen: an OpenTelemetry counter
        never goes back. Later samples fill the windows as before.
        """
        with self.lock:
            self.store.clear()
            self.recent.clear()
            self._lookups_at_reset = self._all_lookups()
            self.failures = 0

    def begin_anew_in_child(self) -> None:
        """In a forked process, `reset` once, uptime included: what its parent has measured is its parent's."""
        with self.lock:
            is_forked, self._pid = self._pid != os.getpid(), os.getpid()
            if is_forked:
                age_s = self.usage.uptime_s() or 0.0
                self.start_time, self._started = time.time() - age_s, time.monotonic() - age_s
                self.reset()

    # -- the spec's fields -------------------------------------------------------------------------------------------

    @property
    def cache_hits(self) -> int:
        """Lookups answered by a cache since the start, or since `reset`; setting it higher records the difference."""
        return self.cache_lookups()[0]

    @cache_hits.setter
    def cache_hits(self, total: int) -> None:
        self.record_cache_hit(total - self.cache_hits)

    @property
    def cache_misses(self) -> int:
        """Lookups that no cache answered since the start, or since `reset`; setting it higher records the difference."""
        return self.cache_lookups()[1]

    @cache_misses.setter
    def cache_misses(self, total: int) -> None:
        self.record_cache_miss(total - self.cache_misses)

    @property
    def ratings_post_latencies(self) -> SampleList:
        """The window of `RATINGS_POST_ROUTE`, in seconds."""
        return self.endpoint_latencies[RATINGS_POST_ROUTE]

    @property
    def db_queries_per_request(self) -> SampleList:
        """Queries of each of the newest requests over all routes."""
        return SampleList(self._query_counts, self._record_query_count)

    @property
    def total_db_queries(self) -> int:
        """Sum of `db_queries_per_request`. Setting it does nothing, so that the spec's `+=` beside an append is harmless."""
        return sum(self._query_counts())

    @total_db_queries.setter
    def total_db_queries(self, total: int) -> None:
        pass

    # -- reading -----------------------------------------------------------------------------------------------------

    def get_cache_hit_rate(self) -> float:
        """Return hits over lookups since the start, or since `reset`, 0 to 100; 0.0 before the first lookup."""
        hits, misses = self.cache_lookups()
        return 100 * hits / (hits + misses) if hits + misses else 0.0

    def get_uptime_seconds(self) -> float:
        """Return the seconds since `start_time`, by the monotonic clock."""
        return time.monotonic() - self._started

    def get_ratings_post_p95_latency(self) -> float:
        """Return the p95 of the ratings POST window in milliseconds; 0.0 without a sample."""
        return percentile(self.ratings_post_latencies[:], 95) * 1000

    def get_ratings_post_avg_latency(self) -> float:
        """Return the mean of the ratings POST window in milliseconds; 0.0 without a sample."""
        return mean(self.ratings_post_latencies[:]) * 1000

    def get_ratings_post_count(self) -> int:
        """Return the number of samples in the ratings POST window."""
        return len(self.ratings_post_latencies)

    def route_windows(self) -> list[RouteWindow]:
        """Return the windows of all routes, sorted by name."""
        endpoints = self.endpoints()
        return [
            RouteWindow(
                route,
                endpoints.get(route, ""),
                self.store.samples(route),
                numbers_of(self.store.packed_queries(route)),
            )
            for route in self.endpoint_latencies
        ]

    def lock_waits(self) -> dict[str, float]:
        """Return the seconds that the requests of each route have lost to locks of the database, where they lost any."""
        return self.store.lock_waits_s.copy()

    def route_stats(self) -> list[RouteStats]:
        """Return what `RouteWindow.stats` says of each route that has a sample, sorted by name.

        What has not changed since the last call is not computed again.
        """
        endpoints = self.endpoints()
        known, fresh = self._stats, {}
        for route in self.endpoint_latencies:
            window = self.store.window_of(route)
            if window is None:
                continue
            state = (endpoints.get(route, ""), window.latest)
            before = known.get(route)
            if before is None or before[0] != state:
                before = state, stats_of(route, state[0], window.durations())
            if before[1]["request_count"]:  # the windows may be cleared meanwhile
                fresh[route] = before
        self._stats = fresh
        return [stats.copy() for _, stats in fresh.values()]

    def snapshot(self) -> dict[str, Any]:
        """Return the body of `GET /admin/performance/json` (spec, sections 5 and 6.1), of this process alone."""
        lookups = self.cache_lookups()
        uptime_s = self.get_uptime_seconds()
        queries, ratings_s = self._query_counts(), self.ratings_post_latencies[:]
        return document(lookups, uptime_s, queries, ratings_s, self.route_stats(), self.process_percentages())

    def slices(self) -> list[Slice]:
        """Return percentiles over time of the requests of all routes, oldest first."""
        return self.store.slices.slices()

    def memory_bytes(self) -> int | None:
        """Return the memory that the process holds; `None` where it can't be read."""
        return self.usage.memory_bytes()

    @property
    def full_at(self) -> int:
        """How many routes have a window, if there are more than may have one; else 0."""
        return self.store.max_routes if self.store.leaves_out_routes else 0

    def processes(self) -> list[Process]:
        """Return what the rate of requests is read from."""
        times = [times_of(packed) for packed in self.store.packed().values()]
        return [Process(os.getpid(), self.get_uptime_seconds(), times, self.slices())]

    def _record_query_count(self, count: float) -> None:
        if _is("the number of queries", count, Real):
            self._instruments.request_operations.record(count, {})

    def _query_counts(self) -> list[int]:
        return [count.number for count in self.store.queries()]

    def cache_lookups(self) -> tuple[int, int]:
        """Return hits and misses since the start, or since `reset`, out of one collection of each reader."""
        hits, misses = self._all_lookups()
        hits_before, misses_before = self._lookups_at_reset
        return max(0, hits - hits_before), max(0, misses - misses_before)  # a reset may come in between

    def _all_lookups(self) -> tuple[int, int]:
        with self.lock:
            readers = [attached.reader for attached in self._attached]
            totals = dict(self._detached_lookups)
        for reader in readers:
            for outcome, lookups in reader.point_values(*_LOOKUPS).items():
                totals[outcome] = totals.get(outcome, 0) + int(lookups)
        return totals.get(_HIT, 0), totals.get(_MISS, 0)

    def process_percentages(self) -> dict[str, float]:
        """Return CPU and memory in percent, where they can be read, as of the newest collection (`cache_lookups` makes one)."""
        reader = self._attached[0].reader if self._attached else None
        found: dict[str, float] = {}
        for key, name in (
            ("cpu_percent", instruments.PROCESS_CPU_UTILIZATION),
            ("memory_percent", instruments.PROCESS_MEMORY_UTILIZATION),
        ):
            points = reader.point_values(name, collect=False) if reader else {}
            if points:
                found[key] = rounded(100 * max(points.values()))
        return found

    def endpoints(self) -> Mapping[str, str]:
        """Return Flask's name of the endpoint for each route of the apps that are measured."""
        found: dict[str, str] = {}
        for url_map, (count, endpoints) in list(self._url_maps.items()):
            rules = tuple(url_map.iter_rules())  # that come, but never go
            if len(rules) != count:
                endpoints = {
                    route_name(method, rule.rule): rule.endpoint for rule in rules for method in rule.methods or ()
                }
                self._url_maps[url_map] = len(rules), endpoints
            found |= endpoints
        return found


@dataclass(frozen=True, slots=True)
class _Attached:
    provider: APIMeterProvider
    reader: PerformanceMetricReader
    instruments: Instruments


def _is(name: str, value: object, kind: type) -> bool:
    """Tell whether what an app has handed over to be recorded is of a `kind`; its request does not fail for what isn't."""
    if isinstance(value, kind):
        return True
    _log.warning("%s must be %s, got %.100r: it is dropped", name, _KINDS[kind], value)
    return False


_KINDS: Final[Mapping[type, str]] = {Integral: "a whole number", Real: "a number", str: "a text"}


_LOOKUPS: Final = (instruments.CACHE_LOOKUPS, instruments.CACHE_OUTCOME)
_observed_providers: weakref.WeakSet[APIMeterProvider] = weakref.WeakSet()
_instance: PerformanceMetrics | None = None
_instance_lock = forked.lock()


def get_metrics(settings: TelemetrySettings | None = None) -> PerformanceMetrics:
    """Return the process's `PerformanceMetrics`, made at the first call, by `settings` or else those of the environment."""
    global _instance
    with _instance_lock:
        if _instance is None:
            _instance = PerformanceMetrics(settings)
        return _instance


def set_metrics(metrics: PerformanceMetrics | None) -> PerformanceMetrics | None:
    """Replace what `get_metrics` returns and return the one before; for tests."""
    global _instance
    with _instance_lock:
        _instance, before = metrics, _instance
        return before
