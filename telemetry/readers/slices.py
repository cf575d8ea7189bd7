"""Percentiles over time: of all requests of one stretch after another, out of their raw durations."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from telemetry import forked
from telemetry.percentiles import of_ordered

LEAST_S: Final = 10
"""A slice is at least this long, in seconds, unless it has `MOST_REQUESTS`."""
LEAST_REQUESTS: Final = 20
"""And goes on until it has as many requests, so that its percentiles say something, but no longer than `MOST_S`."""
MOST_S: Final = 60
MOST_REQUESTS: Final = 2000
"""A slice with as many requests ends at once: sorting them takes the request that ends it a third of a millisecond."""
MOST_SLICES: Final = 1000
"""The slices that are kept: at least some three hours, and less above two hundred requests a second. All workers that have
ended share as many.
"""

_NS: Final = 1_000_000_000


class Slice(NamedTuple):
    """The requests of a stretch of time, from the completion of the first to that of the last; durations in seconds."""

    start_unix_nano: int
    end_unix_nano: int
    request_count: int
    p50_s: float
    p95_s: float
    p99_s: float
    worker: int | None = None
    """The process whose requests they are, where there are several."""


class SliceStore:
    """Cuts the requests of a process into slices as they complete, and keeps the figures of the newest. Thread-safe."""

    __slots__ = (
        "_append",
        "_closed",
        "_durations_s",
        "_earliest",
        "_last_unix_nano",
        "_latest",
        "_lock",
        "_start_unix_nano",
    )

    def __init__(self) -> None:
        self._closed: deque[Slice] = deque(maxlen=MOST_SLICES)
        self._durations_s = array("d")  # of the slice that goes on
        self._append = self._durations_s.append
        self._start_unix_nano = self._last_unix_nano = 0
        self._earliest = self._latest = 0  # what completes outside of these may be of another slice
        self._lock = forked.lock()

    def add(self, duration_s: float, time_unix_nano: int) -> None:
        """Add a request, by time of completion."""
        if not self._earliest <= time_unix_nano < self._latest or len(self._durations_s) >= MOST_REQUESTS:
            self._close_if_due(time_unix_nano)
        self._last_unix_nano = time_unix_nano
        self._append(duration_s)

    def slices(self) -> list[Slice]:
        """Return the slices, oldest first; the last of them goes on."""
        with self._lock:
            closed, durations_s = list(self._closed), self._durations_s[:]
            start_unix_nano, end_unix_nano = self._start_unix_nano, self._last_unix_nano
        return [*closed, *_sliced(durations_s, start_unix_nano, end_unix_nano)]

    def clear(self) -> None:
        """Forget every request."""
        with self._lock:
            self._closed.clear()
            del self._durations_s[:]
            self._earliest = self._latest = 0

    def _close_if_due(self, time_unix_nano: int) -> None:
        with self._lock:
            count, age_s = len(self._durations_s), (time_unix_nano - self._start_unix_nano) / 1e9
            goes_on = -LEAST_S <= age_s < (LEAST_S if count >= LEAST_REQUESTS else MOST_S)
            if count and goes_on and count < MOST_REQUESTS:
                return
            start_unix_nano, end_unix_nano, taken = self._start_unix_nano, self._last_unix_nano, self._durations_s[:]
            del self._durations_s[: len(taken)]  # another thread may have appended meanwhile: that one is of the next
            self._start_unix_nano = time_unix_nano
            self._earliest = time_unix_nano - LEAST_S * _NS  # earlier by more, and the clock was set back
            self._latest = time_unix_nano + LEAST_S * _NS
        self._closed.extend(_sliced(taken, start_unix_nano, end_unix_nano))  # nobody waits while they are sorted


def _sliced(durations_s: array[float], start_unix_nano: int, end_unix_nano: int) -> Iterator[Slice]:
    """Yield the slice of these durations, if there are any."""
    if durations_s:
        ordered = sorted(durations_s)
        p50_s, p95_s, p99_s = (of_ordered(ordered, percent) for percent in (50, 95, 99))
        yield Slice(start_unix_nano, max(start_unix_nano, end_unix_nano), len(ordered), p50_s, p95_s, p99_s)


def cut(requests: Iterable[tuple[float, int]]) -> list[Slice]:
    """Return the slices of requests, oldest first: the duration of each in seconds, and when it was complete."""
    store = SliceStore()
    for duration_s, time_unix_nano in requests:
        store.add(duration_s, time_unix_nano)
    return store.slices()
