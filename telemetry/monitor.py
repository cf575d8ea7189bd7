"""The diagnostic layer (spec, section 4): times functions and routes by hand, on the same figures as the admin pages.

    from telemetry.monitor import monitor, performance_monitor

    @performance_monitor()
    def rebuild(): ...

    monitor.get_route_stats()  # what GET /admin/performance/json has under "endpoints"

There is no second set of figures: what is recorded here goes into the instruments of `PerformanceMetrics`, and what is read
comes out of its windows. Nothing here raises into the app. With the setting `monitor` off nothing is recorded.
"""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from flask import Flask, current_app, got_request_exception, has_request_context, request
from werkzeug.exceptions import HTTPException

from telemetry import forked, instruments
from telemetry.document import RouteStats
from telemetry.errors import InstrumentationError, SettingsError
from telemetry.instrumentation.capture import EXTENSION, excludes
from telemetry.performance import PerformanceMetrics, SampleList, get_metrics
from telemetry.settings import TelemetrySettings
from telemetry.system import BYTES_PER_MB, SystemStats
from telemetry.timing import PerformanceMetric as PerformanceMetric
from telemetry.timing import timed

if TYPE_CHECKING:
    from telemetry.loadtest import LoadResult

_log = logging.getLogger(__name__)

MOST_METRICS: Final = 1000
"""How many of the newest calls `PerformanceMonitor.metrics` holds."""

_MOST_NAMES = 1000
_ROUTE_LIKE = re.compile(r"(?:CONNECT|DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT|TRACE) \S")
_EXTENSION = "telemetry.monitor"
_STARTED: Final = "telemetry.monitor.started."

_Function = TypeVar("_Function", bound=Callable[..., Any])
_App = TypeVar("_App", bound=Flask)


class PerformanceMonitor:
    """Records functions, routes and cache lookups into the instruments of a `PerformanceMetrics`, and reads its windows.

    Thread-safe. Bounded: the newest `MOST_METRICS` calls, and what the windows hold. No `record_*` method raises for what it is
    given: what can't be recorded is dropped, and the first such thing logged.
    """

    def __init__(self, source: PerformanceMetrics | None = None) -> None:
        """Use `source`, or whatever `get_metrics()` returns at the time."""
        self._source = source
        self._recent: deque[PerformanceMetric] = deque(maxlen=MOST_METRICS)
        self._names: set[str] = set()
        self._routes: set[str] = set()
        self._lock = forked.lock()
        self._enabled: bool | None = None
        self._failed = False

    @property
    def source(self) -> PerformanceMetrics:
        """The figures that this monitor records into and reads from."""
        if self._source is not None:
            return self._source
        try:
            return get_metrics()
        except SettingsError:  # `instrument` refuses them aloud; here they must not stop a function
            self._fail("the settings are wrong, so the diagnostic layer goes by the defaults")
            self._source = PerformanceMetrics(TelemetrySettings())
            return self._source

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded: the setting `monitor` (`LVS_TELEMETRY_MONITOR`) unless it is assigned."""
        return self.source.settings.monitor if self._enabled is None else self._enabled

    @enabled.setter
    def enabled(self, value: bool | None) -> None:
        self._enabled = value

    # -- what it holds -----------------------------------------------------------------------------------------------

    @property
    def metrics(self) -> list[PerformanceMetric]:
        """The newest calls, oldest first."""
        return list(self._recent.copy())

    @property
    def route_stats(self) -> Mapping[str, SampleList]:
        """The window of each route in seconds, oldest first."""
        return self.source.endpoint_latencies

    @property
    def cache_stats(self) -> dict[str, int]:
        """Cache lookups: `hits`, `misses`, and `total_requests`, their sum."""
        hits, misses = self.source.cache_hits, self.source.cache_misses
        return {"hits": hits, "misses": misses, "total_requests": hits + misses}

    # -- writing -----------------------------------------------------------------------------------------------------

    def record_metric(self, metric: PerformanceMetric) -> None:
        """Keep `metric` among the newest calls, and record its duration as `telemetry.function.duration`."""
        if not self.enabled:
            return
        try:
            duration_s = _seconds(metric.duration)
            attributes = {
                instruments.CODE_FUNCTION_NAME: self._bounded(self._names, metric.name, _MOST_NAMES)
                or instruments.OTHER
            }
            if metric.error is not None:
                attributes[instruments.ERROR_TYPE] = metric.error
            self._recent.append(metric)
            source = self.source
            source.attach(source.meter_provider).function_duration.record(duration_s, attributes)
        except Exception:
            self._fail("a call could not be recorded")

    def record_route_time(self, route: str, duration: float, is_error: bool = False) -> None:
        """Record a request of `route` (`METHOD endpoint`, or `METHOD rule`) that took `duration` seconds.

        It enters the window that the admin pages show under that name.
        """
        if not self.enabled:
            return
        try:
            source = self.source
            if self._bounded(self._routes, route, source.settings.max_routes) is None:
                raise ValueError(f"there are {source.settings.max_routes} routes already")
            source.record_endpoint_latency(route, _seconds(duration), is_error)
        except Exception:
            self._fail("the time of a route could not be recorded")

    def record_cache_hit(self) -> None:
        """Count a lookup that a cache answered."""
        self._count_lookup("record_cache_hit")

    def record_cache_miss(self) -> None:
        """Count a lookup that no cache answered."""
        self._count_lookup("record_cache_miss")

    def reset_stats(self) -> None:
        """Start anew: forget the newest calls, empty the windows of all routes and of the query counts, and let the cache
        figures count from here; the log says so.

        The admin JSON and pages follow at once, because they read the same windows. Uptime, CPU and memory go on, and so do the
        counters and histograms that exporters and other readers have, which never go back.
        """
        try:
            self._recent.clear()
            source = self.source
            routes = len(source.endpoint_latencies)
            source.reset()
            _log.info("reset: the windows of %d routes, the query counts, the cache lookups, the newest calls", routes)
        except Exception:
            self._fail("the figures could not be reset")

    # -- reading -----------------------------------------------------------------------------------------------------

    def get_cache_hit_rate(self) -> float:
        """Return hits over lookups in percent, 0 to 100; 0.0 before the first lookup."""
        return self.source.get_cache_hit_rate()

    def get_route_stats(self) -> dict[str, RouteStats]:
        """Return what the admin JSON has under `endpoints`: percentiles and counts of each route's window, in milliseconds."""
        return {stats["route"]: stats for stats in self.source.route_stats()}

    def get_recent_metrics(self, n: int = 10) -> list[PerformanceMetric]:
        """Return the newest `n` calls, oldest first."""
        return self.metrics[-n:] if n > 0 else []

    # -- for `timed` -------------------------------------------------------------------------------------------------

    def memory_mb(self) -> float | None:
        """Return the resident memory of the process in MiB; `None` where it can't be read."""
        found = self.source.usage.memory_bytes()
        return None if found is None else found / BYTES_PER_MB

    def record_call(
        self, name: str, duration: float, memory_before: float | None, timestamp: float, error: BaseException | None
    ) -> None:
        """Record a call that a decorator has timed; as a route too if it is named like one and nothing else measures it."""
        error_type = None if error is None else type(error).__qualname__
        self.record_metric(PerformanceMetric(name, duration, memory_before, self.memory_mb(), timestamp, error_type))
        if _ROUTE_LIKE.match(name) and not _is_measured():
            self.record_route_time(name, duration, error is not None)

    def _count_lookup(self, method: str) -> None:
        if not self.enabled:
            return
        try:
            getattr(self.source, method)()
        except Exception:
            self._fail("a cache lookup could not be recorded")

    def _bounded(self, known: set[str], name: object, most: int) -> str | None:
        """Return `name` if it is among the first `most` names, else `None`."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"a name must be a text, got {name!r}")
        if name in known:
            return name
        with self._lock:
            if len(known) >= most:
                return None
            known.add(name)
        return name

    def _fail(self, what: str) -> None:
        if not self._failed:
            self._failed = True
            _log.warning("%s; later failures are not logged", what, exc_info=True)


def _seconds(duration: float) -> float:
    if not math.isfinite(duration) or duration < 0:
        raise ValueError(f"a duration must be seconds from 0, got {duration!r}")
    return float(duration)


def _is_measured() -> bool:
    """Tell whether the request that is being served here is measured as a whole already."""
    if not has_request_context():
        return False
    return _EXTENSION in current_app.extensions or _is_instrumented(current_app)


def _is_instrumented(app: Flask) -> bool:
    return bool(getattr(app.extensions.get(EXTENSION), "active", False))


monitor: PerformanceMonitor = PerformanceMonitor()
"""The monitor of the process, on the figures of `get_metrics()`."""


def set_monitor(replacement: PerformanceMonitor) -> PerformanceMonitor:
    """Replace `telemetry.monitor.monitor`, which the decorators use, and return the one before; for tests.

    A module that has imported the name keeps the one it got.
    """
    global monitor
    before, monitor = monitor, replacement
    return before


def _current() -> PerformanceMonitor:
    return monitor


@overload
def performance_monitor(func_name: _Function, /) -> _Function: ...
@overload
def performance_monitor(func_name: str | None = None) -> Callable[[_Function], _Function]: ...
def performance_monitor(func_name: Any = None) -> Any:
    """Time every call of a function: `@performance_monitor`, `@performance_monitor()` or `@performance_monitor("name")`.

    Made for functions, coroutine functions, generators and async generators, methods, static and class methods; signature,
    result and exceptions stay as they are. An exception counts as an error of the call and goes on. Of a generator, the time
    spent in it counts, not that of its consumer.

    A call is recorded as a `PerformanceMetric` under `func_name` (`module.qualified_name` if left out). One that is named like a
    route, `GET /report`, is a request of that route as well, unless the request it is made in is measured already.

    Raises:
        TypeError: it stands on something that is no function, such as a class.
    """
    if func_name is None or isinstance(func_name, str):
        return lambda function: timed(function, func_name, _current)
    return timed(func_name, None, _current)


def flask_route_monitor(app: _App) -> _App:
    """Time the requests of `app` with `before_request` and `after_request`, keyed `METHOD endpoint`, and return `app`.

    For an app that is not instrumented. On one that is, now or later, nothing is recorded here: `instrument(app)` has every
    request already, keyed `METHOD rule`. Static files, requests that match no route, and what the setting
    `excluded_routes` names are left out. May be called twice, and after the first request.

    Raises:
        InstrumentationError: `app` is not a Flask app.
    """
    if not isinstance(app, Flask):
        raise InstrumentationError(f"app must be a Flask app, got {type(app).__name__}")
    if _EXTENSION not in app.extensions:
        app.extensions[_EXTENSION] = True
        # First to begin and last to end; and no function of the app that answers early keeps ours from running.
        app.before_request_funcs.setdefault(None, []).insert(0, _begin_request)
        app.after_request_funcs.setdefault(None, []).insert(0, _end_request)
        app.teardown_request_funcs.setdefault(None, []).insert(0, _end_failed_request)
        got_request_exception.connect(_mark_exception, app)
    return app


@dataclass(slots=True)
class _Request:
    route: str
    started: float
    is_error: bool = False


def _begin_request() -> None:
    rule = request.url_rule
    if rule is None or not monitor.enabled or _is_instrumented(current_app):
        return
    if excludes(rule, monitor.source.settings.excluded_routes):
        return
    request.environ[_key(current_app)] = _Request(f"{request.method} {rule.endpoint}", perf_counter())


def _mark_exception(sender: Flask, exception: BaseException, **_: Any) -> None:
    state = request.environ.get(_key(sender))
    if state is not None:
        state.is_error = not isinstance(exception, HTTPException)  # the status tells of these


def _end_request(response: Any) -> Any:
    _record_request(getattr(response, "status_code", 200) >= 500)
    return response


def _end_failed_request(_: BaseException | None = None) -> None:
    _record_request(True)  # nothing is left to record where an answer was made


def _record_request(is_error: bool) -> None:
    state = request.environ.pop(_key(current_app), None)
    if state is not None:
        monitor.record_route_time(state.route, perf_counter() - state.started, state.is_error or is_error)


def _key(app: Flask) -> str:
    """Return the name of the app's own state: an app may hand its environment on to another one."""
    return _STARTED + str(id(app.extensions))  # of the app itself, whatever proxy it comes as


def get_system_stats() -> SystemStats:
    """Return CPU, memory, disk, open files and threads of this process; what psutil can't tell is left out."""
    return monitor.source.usage.stats()


def performance_report() -> str:
    """Return what the figures of this process say, as a page of text: what is slow, fails, fans out, and the caches."""
    from telemetry import report

    return report.of_process(monitor.source, monitor.metrics)


def load_test_simulation(
    base_url: str = "http://127.0.0.1:5000",
    num_requests: int = 100,
    concurrency: int = 4,
    *,
    allow_remote: bool = False,
) -> LoadResult:
    """Send `num_requests` GET requests to `base_url`, `concurrency` at a time, and return how they went.

    Raises:
        LoadTestError: a parameter is wrong, the host is another machine (without `allow_remote`), or nothing answers there.
    """
    from telemetry import loadtest

    return loadtest.run(loadtest.Plan(base_url, num_requests, concurrency, allow_remote=allow_remote))
