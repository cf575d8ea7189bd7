"""Percentiles of one slice of time after another."""

from __future__ import annotations

import statistics
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.readers import slices
from telemetry.readers.slices import Slice, SliceStore, cut
from telemetry.readers.window import Sample

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
    samples = []
    for number, (gap_s, duration_s) in enumerate(gaps):
        now += int(gap_s * SECOND)
        samples.append(Sample(number, now, duration_s, None, False))
    found = cut(samples)
    assert sum(each.request_count for each in found) == len(samples)
    remaining = iter(samples)
    for each in found:
        members = [next(remaining) for _ in range(each.request_count)]
        assert (each.start_unix_nano, each.end_unix_nano) == (members[0].time_unix_nano, members[-1].time_unix_nano)
        values = [sample.value for sample in members]
        hundredths = statistics.quantiles(values, n=100, method="inclusive") if len(values) > 1 else values * 99
        assert each[3:] == pytest.approx((hundredths[49], hundredths[94], hundredths[98]), rel=1e-12)


def test_no_request_is_lost_where_threads_complete_them_at_once() -> None:
    store, per_thread = SliceStore(), 5000

    def work(thread: int) -> None:
        for number in range(per_thread):
            store.add(0.001, START + number * SECOND // 20 + thread)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.request_count for each in store.slices()) == 4 * per_thread


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
