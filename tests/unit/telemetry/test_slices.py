"""Percentiles of one slice of time after another."""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import sys
import threading
from collections.abc import Callable
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.readers import slices
from telemetry.readers.slices import Slice, SliceStore, cut

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

requests = st.lists(st.tuples(st.floats(0, 70), st.floats(0, 100)), max_size=300)
"""Seconds since the request before, and durations."""


def store_of(*seconds: float, duration_s: float = 0.02) -> SliceStore:
    store = SliceStore()
    for second in seconds:
        store.add(duration_s, START + int(second * SECOND))
    return store


def stretches(store: SliceStore) -> list[tuple[float, float, int]]:
    """Start, end and number of requests of each slice."""
    return [
        ((each.start_unix_nano - START) / SECOND, (each.end_unix_nano - START) / SECOND, each.request_count)
        for each in store.slices()
    ]


def test_without_a_request_there_is_no_slice() -> None:
    assert SliceStore().slices() == []


def test_the_slice_that_goes_on_is_shown_as_it_is() -> None:
    assert stretches(store_of(0, 1, 2)) == [(0, 2, 3)]


def test_a_slice_ends_after_ten_seconds_where_it_has_enough_requests() -> None:
    every_half_second = [each / 2 for each in range(60)]
    assert stretches(store_of(*every_half_second)) == [(0, 9.5, 20), (10, 19.5, 20), (20, 29.5, 20)]


def test_a_slice_waits_for_enough_requests_but_not_longer_than_a_minute() -> None:
    assert stretches(store_of(*range(30))) == [(0, 19, 20), (20, 29, 10)]
    assert stretches(store_of(0, 30, 59, 61, 200)) == [(0, 59, 3), (61, 61, 1), (200, 200, 1)]


def test_a_slice_of_many_requests_ends_at_once() -> None:
    store = store_of(*[0] * (slices.MOST_REQUESTS + 5))
    assert [each.request_count for each in store.slices()] == [slices.MOST_REQUESTS, 5]


def test_the_newest_slices_are_kept() -> None:
    store = store_of(*range(0, 100 * (slices.MOST_SLICES + 10), 100))
    found = stretches(store)
    assert len(found) == slices.MOST_SLICES + 1
    assert found[-1][0] == 100 * (slices.MOST_SLICES + 9)


def test_a_clock_that_is_set_back_begins_a_slice() -> None:
    assert stretches(store_of(0, 1, -3600, -3599)) == [(0, 1, 2), (-3600, -3599, 2)]


def test_requests_that_arrive_a_little_out_of_order_share_a_slice() -> None:
    assert stretches(store_of(0, -0.001, 1)) == [(0, 1, 3)]


@given(requests)
def test_every_request_is_in_one_slice_and_the_figures_are_those_of_its_durations(
    gaps: list[tuple[float, float]],
) -> None:
    now = START
    completed = []
    for gap_s, duration_s in gaps:
        now += int(gap_s * SECOND)
        completed.append((duration_s, now))
    found = cut(completed)
    assert sum(each.request_count for each in found) == len(completed)
    remaining = iter(completed)
    for each in found:
        members = [next(remaining) for _ in range(each.request_count)]
        assert (each.start_unix_nano, each.end_unix_nano) == (members[0][1], members[-1][1])
        values = [duration_s for duration_s, _ in members]
        hundredths = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
        assert (each.p50_s, each.p95_s, each.p99_s) == pytest.approx(
            (hundredths[49], hundredths[94], hundredths[98]), rel=1e-12
        )


class WouldWaitError(Exception):
    """Another thread holds the lock."""


class Lock:
    def __init__(self) -> None:
        self._is_held = False

    def __enter__(self) -> None:
        if self._is_held:
            raise WouldWaitError
        self._is_held = True

    def __exit__(self, *_: object) -> None:
        self._is_held = False


def test_no_request_is_lost_or_counted_twice_wherever_another_thread_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEAST_REQUESTS": 3, "MOST_REQUESTS": 6, "MOST_SLICES": None}.items():
        monkeypatch.setattr(slices, name, value)
    store, added, now, chance = SliceStore(), itertools.count(), itertools.count(START, 2 * SECOND), random.Random(1)
    monkeypatch.setattr(store, "_lock", Lock())

    def add(time_unix_nano: int) -> None:
        with contextlib.suppress(WouldWaitError):
            store.add(0.001, time_unix_nano)
            next(added)

    def come_in(frame: FrameType, *_: object) -> Callable[..., object] | None:
        if frame.f_code.co_filename != slices.__file__:
            return None
        frame.f_trace_opcodes = True  # between any two instructions, as threads do
        if chance.random() < 0.02:
            for _ in range(chance.randrange(8)):
                add(store._last_unix_nano + chance.choice([0, 20 * SECOND]))
        return come_in

    def work() -> None:
        sys.settrace(come_in)
        for _ in range(2000):
            add(next(now))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sum(each.request_count for each in store.slices()) == next(added) > 3000


def test_what_is_recorded_of_all_routes_is_in_the_slices_until_it_is_reset() -> None:
    metrics = PerformanceMetrics()
    metrics.record_endpoint_latency("GET /a", 0.1)
    metrics.record_endpoint_latency("GET /b", 0.3, is_error=True)
    (found,) = metrics.store.slices.slices()
    assert isinstance(found, Slice)
    assert (found.request_count, found.p50_s) == (2, 0.2)
    metrics.reset()
    assert metrics.store.slices.slices() == []


def test_routes_that_there_is_no_window_for_are_in_the_slices_all_the_same() -> None:
    metrics = PerformanceMetrics(TelemetrySettings(max_routes=1))
    for name in "abc":
        metrics.record_endpoint_latency(f"GET /{name}", 0.1)
    (found,) = metrics.store.slices.slices()
    assert (found.request_count, metrics.store.routes()) == (3, ["GET /a"])
