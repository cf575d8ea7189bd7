"""Rolling windows of raw samples, kept by an aggregation that only our own reader uses.

The one piece of the SDK used here that is not public is `_create_aggregation` with the aggregation it returns; a test names
the SDK versions that this was checked with.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from opentelemetry import trace
from opentelemetry.sdk.metrics._internal.aggregation import _Aggregation
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation

from telemetry import instruments
from telemetry.readers.slices import SliceStore

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


@functools.lru_cache(maxsize=4096)
def route_name(method: str, rule: str) -> str:
    """Return `METHOD rule` with the converters of the rule left out, as the spec's section 5.1 writes a route."""
    name = _CONVERTER.sub(r"<\1>", rule)
    return f"{method} {name}" if method else name


_ROW: Final = struct.Struct("=dqqQQb7x")
"""A sample in a window: its value, sequence number, time, both halves of its trace id, and what the place holds."""
_ROW_BYTES: Final = _ROW.size
_pack_into: Final = _ROW.pack_into
_WORDS: Final = _ROW_BYTES // 8
_KIND_AT: Final = 5 * 8
_SEQUENCE, _TIME = 1, 2
_FREE, GOOD, ERROR = range(3)
_HALF: Final = 2**64 - 1
_COUNT: Final = struct.Struct("=qq")
"""The number of queries of a request in a window: when that was complete, 0 where the place is free, and the number."""
_COUNT_BYTES: Final = _COUNT.size
_pack_count_into: Final = _COUNT.pack_into
_MOST_NUMBER: Final = 2**63 - 1


class DurationWindow:
    """The last `size` samples of a route's durations, in 48 bytes each: a fifth of what tuples would take.

    One call writes a whole sample into its place, and one call copies them all, so that under the interpreter's lock neither
    writers nor readers wait for each other.
    """

    __slots__ = ("_add_to_slice", "_next_row", "_next_sequence", "_rows", "_size", "latest", "latest_unix_nano")

    def __init__(self, size: int, next_sequence: Callable[[], int], slices: SliceStore) -> None:
        """Hold `size` samples, numbered by `next_sequence`, which returns positive numbers, each once; `slices` get them too."""
        self._add_to_slice = slices.add
        self._size = size
        self._rows = bytearray(_ROW.size * size)
        self._next_row = itertools.count().__next__
        self._next_sequence = next_sequence
        self.latest = 0
        """The sequence number that was written last, 0 while there is none: as long as it is the same, so is the window."""
        self.latest_unix_nano = 0

    def add(self, kind: int, value: float, time_unix_nano: int, trace_id: int | None) -> None:
        """Put a sample, `GOOD` or `ERROR`, in the place of the oldest."""
        sequence = self._next_sequence()
        at, trace_id = self._next_row() % self._size * _ROW_BYTES, trace_id or 0
        _pack_into(self._rows, at, value, sequence, time_unix_nano, trace_id >> 64, trace_id & _HALF, kind)
        self.latest_unix_nano = time_unix_nano
        self.latest = sequence
        self._add_to_slice(value, time_unix_nano)

    def clear(self) -> None:
        """Forget every sample."""
        self._rows[:] = bytes(len(self._rows))
        self.latest = self.latest_unix_nano = 0

    def packed(self) -> bytes:
        """Return a copy of the samples, for the functions below."""
        return bytes(self._rows)

    def samples(self) -> tuple[Sample, ...]:
        """Return the samples, oldest first."""
        samples = [
            Sample(sequence, time_unix_nano, value, (upper << 64 | lower) or None, kind == ERROR)
            for value, sequence, time_unix_nano, upper, lower, kind in _ROW.iter_unpack(self.packed())
            if kind
        ]
        return tuple(sorted(samples))

    def durations(self) -> Durations:
        """Return what figures are made of."""
        newest_unix_nano, copy = self.latest_unix_nano, bytes(self._rows)
        kinds = copy[_KIND_AT::_ROW_BYTES]
        values_s = memoryview(copy).cast("d")[::_WORDS].tolist()
        if _FREE in kinds:
            values_s = list(itertools.compress(values_s, kinds))
        return Durations(values_s, newest_unix_nano, kinds.count(ERROR))


def steadied(times: list[int]) -> list[int]:
    """Return the times of samples of one process, in their order, as they compare with those of another.

    Where the clock was set back, what came before that is no later than what came after.
    """
    in_order = sorted(times)
    return in_order if in_order == times else list(itertools.accumulate(reversed(times), min))[::-1]


def newest_samples(packed: Sequence[bytes], size: int) -> tuple[Sample, ...]:
    """Return the newest `size` samples of the windows of a route in several processes, numbered by their times."""
    rows = b"".join(packed)
    found = []
    for steady_unix_nano, at in _newest(packed, size):
        value, _, time_unix_nano, upper, lower, kind = _ROW.unpack_from(rows, at * _ROW_BYTES)
        trace_id = (upper << 64 | lower) or None
        found.append(Sample(steady_unix_nano, time_unix_nano, value, trace_id, kind == ERROR))
    return tuple(found)


def newest_durations(packed: Sequence[bytes], size: int) -> Durations:
    """Return what figures are made of, of the newest `size` samples of the windows of a route in several processes."""
    rows = b"".join(packed)
    chosen, kinds = [at for _, at in _newest(packed, size)], rows[_KIND_AT::_ROW_BYTES]
    values_s, errors = memoryview(rows).cast("d")[::_WORDS].tolist(), sum(kinds[at] == ERROR for at in chosen)
    return Durations([values_s[at] for at in chosen], _column(rows, _TIME)[chosen[-1]] if chosen else 0, errors)


def newest_packed(packed: Sequence[bytes], size: int) -> bytes:
    """Return the newest `size` samples of the windows of a route in several processes as the window of one process."""
    rows, found = b"".join(packed), bytearray()
    for sequence, (_, at) in enumerate(_newest(packed, size), start=1):
        value, _, *others = _ROW.unpack_from(rows, at * _ROW_BYTES)
        found += _ROW.pack(value, sequence, *others)
    return bytes(found)


def times_of(packed: bytes) -> list[int]:
    """Return the times of the samples of a window, oldest sample first."""
    times = _column(packed, _TIME)
    return [times[at] for at in _in_order(packed)]


def _newest(packed: Sequence[bytes], size: int) -> list[tuple[int, int]]:
    """Return the steadied times of the newest `size` samples, in rising order, and where each is in the joined windows."""
    steady, places = list[int](), list[int]()
    before = 0
    for rows in packed:
        order, times = _in_order(rows), _column(rows, _TIME)
        steady += steadied([times[at] for at in order])
        places += [before + at for at in order]
        before += len(times)
    newest = sorted(range(len(steady)), key=steady.__getitem__)[-size:]
    return [(steady[at], places[at]) for at in newest]


def _in_order(rows: bytes) -> list[int]:
    """Return where the samples are, oldest first."""
    kinds = rows[_KIND_AT::_ROW_BYTES]
    positions = [at for at, kind in enumerate(kinds) if kind] if _FREE in kinds else range(len(kinds))
    return sorted(positions, key=_column(rows, _SEQUENCE).__getitem__)


def _column(rows: bytes, word: int) -> list[int]:
    return memoryview(rows).cast("q")[word::_WORDS].tolist()


class Count(NamedTuple):
    """How many queries a request has made, and when it was complete."""

    time_unix_nano: int
    number: int


class CountWindow:
    """The last `size` numbers of queries of a route's requests, in 16 bytes each; written and copied as `DurationWindow` is."""

    __slots__ = ("_next_at", "_next_row", "_rows", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows = bytearray(_COUNT_BYTES * size)
        self._next_at = 0  # where the oldest is
        self._next_row = itertools.count().__next__

    def add(self, number: float, time_unix_nano: int) -> None:
        """Put the number of queries of a request in the place of the oldest."""
        number = int(number) if number < _MOST_NUMBER else _MOST_NUMBER
        at = self._next_row() % self._size * _COUNT_BYTES
        _pack_count_into(self._rows, at, time_unix_nano, number)
        self._next_at = at + _COUNT_BYTES

    def clear(self) -> None:
        """Forget every request."""
        self._rows[:] = bytes(len(self._rows))

    def packed(self) -> bytes:
        """Return a copy of the numbers, oldest first, for `counts_of` and `numbers_of`."""
        at, rows = self._next_at, bytes(self._rows)
        return rows[at:] + rows[:at]


def numbers_of(packed: bytes) -> tuple[int, ...]:
    """Return the numbers of what `CountWindow.packed` returned, oldest first."""
    words = memoryview(packed).cast("q")
    times, numbers = words[::2].tolist(), words[1::2].tolist()
    return tuple(itertools.compress(numbers, times))


def counts_of(packed: bytes) -> list[Count]:
    """Return what `CountWindow.packed` returned, oldest first."""
    return [Count(time_unix_nano, number) for time_unix_nano, number in _COUNT.iter_unpack(packed) if time_unix_nano]


def newest_counts(of_processes: Iterable[Sequence[Count]], size: int) -> list[Count]:
    """Return the newest `size` of the numbers of queries of several processes, in each of which the oldest is the first."""
    every: list[tuple[int, int, Count]] = []
    for counts in of_processes:
        times = steadied([count.time_unix_nano for count in counts])
        every += ((time, count.number, count) for time, count in zip(times, counts, strict=True))
    return [count for *_, count in sorted(every)[-size:]]


def packed_counts(counts: Iterable[Count]) -> bytes:
    """Return numbers of queries as `CountWindow.packed` does."""
    return b"".join(_COUNT.pack(*count) for count in counts)


class Durations(NamedTuple):
    """The durations of a window in seconds, in no order, the time of the newest, and how many are of errors."""

    values_s: Sequence[float]
    newest_unix_nano: int
    error_count: int


_Kept = TypeVar("_Kept")
_Window = TypeVar("_Window", DurationWindow, CountWindow)


class WindowStore:
    """The last `size` samples of each route, shared by all readers of one `PerformanceMetrics`.

    Status codes and error types of one route share one window, so that it holds exactly the last samples by time of
    completion. Of the number of queries that and the time is kept. Appending is one atomic call; reading copies.
    """

    def __init__(self, size: int = 100, max_routes: int = 1000) -> None:
        self.size = size
        self.max_routes = max_routes
        self.newest_queries: deque[tuple[int, float]] = deque(maxlen=size)
        """When the newest requests over all routes were complete, and how many queries each has made, to append to."""
        self.slices = SliceStore()
        """Percentiles of the requests of all routes over time."""
        self.lock_waits_s: dict[str, float] = {}
        """Time that the requests of each route have lost to locks of the database."""
        self._durations: dict[str, DurationWindow] = {}
        self._queries: dict[str, CountWindow] = {}
        self.next_sequence: Callable[[], int] = itertools.count(1).__next__
        """Returns the next number in the order of completion."""
        self.leaves_out_routes = False
        """Whether there have been more routes than may have a window."""
        self.scopes = {instruments.SCOPE}
        """Names of the instrumentation scopes whose measurements are taken: others measure requests under the same name, those of
        another framework, or these once more."""

    def durations_of(self, route: str) -> DurationWindow | None:
        """Return the window of durations to append to, or `None` when `max_routes` routes have one already."""
        return self._window(self._durations, route, lambda: DurationWindow(self.size, self.next_sequence, self.slices))

    def queries_of(self, route: str) -> CountWindow | None:
        """Return the window of numbers of queries to append to, or `None` when `max_routes` routes have one already."""
        return self._window(self._queries, route, lambda: CountWindow(self.size))

    def _window(self, windows: dict[str, _Window], route: str, make: Callable[[], _Window]) -> _Window | None:
        window = windows.get(route)
        if window is None and len(windows) >= self.max_routes:
            if not self.leaves_out_routes:
                self.leaves_out_routes = True
                _log.warning("more than %d routes: %s and later ones get no window", self.max_routes, route)
            return None
        return windows.setdefault(route, make()) if window is None else window

    def routes(self) -> list[str]:
        """Return the routes that have a sample of a duration."""
        return [route for route, window in self._durations.copy().items() if window.latest]

    def clear(self) -> None:
        """Empty every window; it stays the one that its series append to."""
        for durations in self._durations.copy().values():
            durations.clear()
        for queries in self._queries.copy().values():
            queries.clear()
        self.newest_queries.clear()
        self.slices.clear()
        self.lock_waits_s.clear()

    def window_of(self, route: str) -> DurationWindow | None:
        """Return the window of a route's durations, if there is one."""
        return self._durations.get(route)

    def samples(self, route: str) -> tuple[Sample, ...]:
        """Return the durations of a route, oldest first; none if there is no such window."""
        window = self._durations.get(route)
        return () if window is None else window.samples()

    def queries(self) -> list[Count]:
        """Return the numbers of queries of the newest requests over all routes, oldest first."""
        return [
            Count(time_unix_nano, min(int(number), _MOST_NUMBER))
            for time_unix_nano, number in copied(self.newest_queries)
        ]

    def packed(self) -> dict[str, bytes]:
        """Return the packed window of durations of each route that has a sample."""
        return {route: window.packed() for route, window in self._durations.copy().items() if window.latest}

    def packed_queries(self, route: str) -> bytes:
        """Return the numbers of queries of a route's requests, packed; none if there is no such window."""
        window = self._queries.get(route)
        return b"" if window is None else window.packed()


def copied(window: Iterable[_Kept]) -> tuple[_Kept, ...]:
    """Return what is in a window now, however often it is being appended to."""
    while True:
        try:
            return tuple(window)
        except RuntimeError:  # appended to meanwhile
            continue


class Measured(Protocol):
    """What an aggregation reads of a measurement: the SDK's `Measurement`, or a lighter stand-in."""

    @property
    def value(self) -> float: ...
    @property
    def time_unix_nano(self) -> int: ...
    @property
    def context(self) -> Context: ...


class WindowAggregation(ExplicitBucketHistogramAggregation):
    """Aggregation that keeps raw samples; instruments without a window are dropped, and so are those of other scopes."""

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
        route = None if attributes is None else route_of(attributes)
        scope, add = instrument.instrumentation_scope.name, _adders.get(instrument.name)
        if add is None or scope not in self._store.scopes:
            return DropAggregation()._create_aggregation(
                instrument, attributes, reservoir_factory, start_time_unix_nano
            )
        return RouteAggregation(attributes, _ignore if route is None else add(self._store, route, attributes or {}))


Add = Callable[[float, int, int | None], object]
"""Adds one sample to a window: its value, its time in Unix nanoseconds, and the id of its trace."""


def _ignore(value: float, time_unix_nano: int, trace_id: int | None) -> None:
    """A series without a window, such as requests that no rule has matched, is left to the other readers."""


def _add_duration(store: WindowStore, route: str, attributes: Mapping[str, Any]) -> Add:
    window = store.durations_of(route)
    kind = ERROR if instruments.ERROR_TYPE in attributes else GOOD
    if window is None:
        add_to_slice = store.slices.add
        return lambda duration_s, time_unix_nano, _: add_to_slice(duration_s, time_unix_nano)
    return functools.partial(window.add, kind)


def _add_queries(store: WindowStore, route: str, _: Mapping[str, Any]) -> Add:
    window, newest = store.queries_of(route), store.newest_queries
    if window is None:
        return lambda number, time_unix_nano, _: newest.append((time_unix_nano, number))
    add_to_window = window.add

    def add(number: float, time_unix_nano: int, _: int | None) -> None:
        add_to_window(number, time_unix_nano)
        newest.append((time_unix_nano, number))

    return add


def _add_wait(store: WindowStore, route: str, _: Mapping[str, Any]) -> Add:
    waits_s = store.lock_waits_s

    def add(waited_s: float, _: int, __: int | None) -> None:
        if route:
            waits_s[route] = waits_s.get(route, 0.0) + waited_s

    return add


_adders: Final[Mapping[str, Callable[[WindowStore, str, Mapping[str, Any]], Add]]] = {
    instruments.REQUEST_DURATION: _add_duration,
    instruments.REQUEST_OPERATIONS: _add_queries,
    instruments.LOCK_WAIT: _add_wait,
}


def route_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the route of a series, `""` for what was recorded for none, and `None` for requests that no rule has matched."""
    rule = attributes.get(instruments.HTTP_ROUTE)
    if rule is not None:
        return route_name(str(attributes.get(instruments.HTTP_REQUEST_METHOD, "")), str(rule))
    return None if attributes else ""


def _no_reservoir(*_: Any, **__: Any) -> Any:
    """Samples are exemplars themselves."""


class RouteAggregation(_Aggregation[Any]):
    """Puts what is measured into a window; there is nothing to collect beside it."""

    def __init__(self, attributes: Mapping[str, Any] | None, add: Add) -> None:
        super().__init__(attributes, _no_reservoir)
        self.add = add
        """Adds one sample; the window's order is the order of these calls."""

    def aggregate(self, measurement: Measured, should_sample_exemplar: bool = True) -> None:  # noqa: ARG002
        self.add(float(measurement.value), measurement.time_unix_nano, _trace_id(measurement.context))

    def collect(self, *_: Any, **__: Any) -> None:
        """Return nothing: windows are read from the store, and points of other aggregations by other readers."""


def _trace_id(context: Context) -> int | None:
    span_context = trace.get_current_span(context).get_span_context()
    return span_context.trace_id if span_context.is_valid else None


def values(samples: Iterable[Sample]) -> list[float]:
    """Return the values of `samples`, in their order."""
    return [sample.value for sample in samples]
