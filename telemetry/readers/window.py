"""Rolling windows of raw samples, kept by an aggregation that only our own reader uses.

The one piece of the SDK used here that is not public is `_create_aggregation` with the aggregation it returns; a test names
the SDK versions that this was checked with.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from opentelemetry import trace
from opentelemetry.sdk.metrics._internal.aggregation import _Aggregation
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation

from telemetry import instruments

if TYPE_CHECKING:
    from opentelemetry.context import Context

_log = logging.getLogger(__name__)

_CONVERTER = re.compile(r"<(?:[A-Za-z_]\w*(?:\(.*?\))?:)?([A-Za-z_]\w*)>")


class Sample(NamedTuple):
    """One measurement of a window."""

    sequence: int  # order of completion within the process
    time_unix_nano: int
    value: float  # seconds, or a count
    trace_id: int | None
    is_error: bool


class WindowKey(NamedTuple):
    """What a window is kept for: an instrument and a route; `""` is what was recorded for no route."""

    instrument: str
    route: str


@functools.lru_cache(maxsize=4096)
def route_name(method: str, rule: str) -> str:
    """Return `METHOD rule` with the converters of the rule left out, as the spec's section 5.1 writes a route."""
    name = _CONVERTER.sub(r"<\1>", rule)
    return f"{method} {name}" if method else name


Row = tuple[int, int, float, int | None, bool]
"""A sample as windows hold it: a plain tuple is made in a fifth of the time, and the garbage collector lets go of it."""


class WindowStore:
    """The last `size` samples of each series, shared by all readers of one `PerformanceMetrics`.

    Status codes and error types of one route share one window, so that it holds exactly the last samples by time of
    completion. Appending is one atomic `deque.append`; reading copies.
    """

    def __init__(self, size: int = 100, max_routes: int = 1000) -> None:
        self.size = size
        self.max_routes = max_routes
        self._windows: dict[WindowKey, deque[Row]] = {}
        self._newest: dict[str, deque[Row]] = {}
        self._sequence = itertools.count()
        self._full_logged = False

    def window(self, key: WindowKey) -> deque[Row] | None:
        """Return the window to append to, or `None` when `max_routes` windows of that instrument exist already."""
        window = self._windows.get(key)
        if window is not None:
            return window
        if sum(known.instrument == key.instrument for known in self._windows) >= self.max_routes:
            if not self._full_logged:
                self._full_logged = True
                _log.warning("more than %d routes: %s and later ones get no window", self.max_routes, key.route)
            return None
        return self._windows.setdefault(key, deque(maxlen=self.size))

    def newest(self, instrument: str) -> deque[Row]:
        """Return the window over all routes of `instrument` to append to."""
        return self._newest.setdefault(instrument, deque(maxlen=self.size))

    def next_sequence(self) -> int:
        """Return the next number in the order of completion."""
        return next(self._sequence)

    def rows(self, key: WindowKey) -> tuple[Row, ...]:
        """Return the samples of one window as they are held, oldest first; none if there is no such window."""
        return _copied(self._windows.get(key))

    def samples(self, key: WindowKey) -> tuple[Sample, ...]:
        """Return the samples of one window, oldest first; none if there is no such window."""
        return tuple(map(Sample._make, self.rows(key)))

    def merged(self, instrument: str) -> tuple[Sample, ...]:
        """Return the last `size` samples of `instrument` over all routes, in the order of completion."""
        return tuple(map(Sample._make, _copied(self._newest.get(instrument))))

    def keys(self, instrument: str) -> list[WindowKey]:
        """Return the windows that `instrument` has."""
        return [key for key in list(self._windows) if key.instrument == instrument]


def _copied(window: deque[Row] | None) -> tuple[Row, ...]:
    while window is not None:
        try:
            return tuple(window)
        except RuntimeError:  # appended to meanwhile
            continue
    return ()


class Measured(Protocol):
    """What an aggregation reads of a measurement: the SDK's `Measurement`, or a lighter stand-in."""

    @property
    def value(self) -> float: ...
    @property
    def time_unix_nano(self) -> int: ...
    @property
    def context(self) -> Context: ...


class WindowAggregation(ExplicitBucketHistogramAggregation):
    """Aggregation that keeps raw samples; instruments without a window are dropped."""

    def __init__(self, store: WindowStore) -> None:
        super().__init__(boundaries=())
        self._store = store

    def _create_aggregation(
        self,
        instrument: Any,
        attributes: Mapping[str, Any] | None,
        reservoir_factory: Any,
        start_time_unix_nano: int,
    ) -> _Aggregation[Any]:
        if instrument.name not in WINDOWED:
            return DropAggregation()._create_aggregation(
                instrument, attributes, reservoir_factory, start_time_unix_nano
            )
        key = None if attributes is None else window_key(instrument.name, attributes)
        return RouteAggregation(attributes, self._store, key)


WINDOWED = frozenset({instruments.REQUEST_DURATION, instruments.REQUEST_OPERATIONS})


def window_key(instrument: str, attributes: Mapping[str, Any]) -> WindowKey | None:
    """Return the window that a series belongs to; `None` for requests that matched no route."""
    route = attributes.get(instruments.HTTP_ROUTE)
    if route is not None:
        return WindowKey(instrument, route_name(str(attributes.get(instruments.HTTP_REQUEST_METHOD, "")), str(route)))
    return None if attributes else WindowKey(instrument, "")


def _no_reservoir(*_: Any, **__: Any) -> Any:
    """Samples are exemplars themselves."""


class RouteAggregation(_Aggregation[Any]):
    """Puts what is measured into a window; there is nothing to collect beside it.

    A series without a window, such as requests that no rule has matched, is left to the other readers.
    """

    def __init__(self, attributes: Mapping[str, Any] | None, store: WindowStore, key: WindowKey | None) -> None:
        super().__init__(attributes, _no_reservoir)
        self._next_sequence = store.next_sequence
        self._is_error = instruments.ERROR_TYPE in (attributes or {})
        self._window = None if key is None else store.window(key)
        self._newest = None if key is None else store.newest(key.instrument)

    def aggregate(self, measurement: Measured, should_sample_exemplar: bool = True) -> None:  # noqa: ARG002
        self.add(measurement.value, measurement.time_unix_nano, _trace_id(measurement.context))

    def add(self, value: float, time_unix_nano: int, trace_id: int | None) -> None:
        """Add one sample; the window's order is the order of these calls."""
        if self._window is not None and self._newest is not None:
            row = (self._next_sequence(), time_unix_nano, value, trace_id, self._is_error)
            self._window.append(row)
            self._newest.append(row)

    def collect(self, *_: Any, **__: Any) -> None:
        """Return nothing: windows are read from the store, and points of other aggregations by other readers."""


def _trace_id(context: Context) -> int | None:
    span_context = trace.get_current_span(context).get_span_context()
    return span_context.trace_id if span_context.is_valid else None


def values(samples: Iterable[Sample]) -> list[float]:
    """Return the values of `samples`, in their order."""
    return [sample.value for sample in samples]
