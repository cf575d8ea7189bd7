"""The window of a route's durations against a plain deque."""

from __future__ import annotations

import itertools
import threading
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from telemetry.readers.slices import SliceStore
from telemetry.readers.window import ERROR, GOOD, DurationWindow, Sample, WindowStore

samples = st.lists(
    st.tuples(
        st.integers(1, 2**62),
        st.floats(0, 1e6, allow_nan=False),
        st.none() | st.integers(1, 2**128 - 1),
        st.booleans(),
    ),
    max_size=40,
)


@given(size=st.integers(1, 12), first=samples, second=samples)
def test_it_holds_what_a_deque_of_its_size_would(
    size: int,
    first: list[tuple[int, float, int | None, bool]],
    second: list[tuple[int, float, int | None, bool]],
) -> None:
    window, expected = DurationWindow(size, WindowStore().next_sequence, SliceStore()), deque[Sample](maxlen=size)
    sequence = 0
    for batch in (first, second):
        for time_unix_nano, value, trace_id, is_error in batch:
            sequence += 1
            window.add(ERROR if is_error else GOOD, value, time_unix_nano, trace_id)
            expected.append(Sample(sequence, time_unix_nano, value, trace_id, is_error))
            assert window.latest == sequence
        assert window.samples() == tuple(expected)
        durations = window.durations()
        assert sorted(durations.values_s) == sorted(sample.value for sample in expected)
        assert durations.error_count == sum(sample.is_error for sample in expected)
        assert durations.newest_unix_nano == (expected[-1].time_unix_nano if expected else 0)
        window.clear()
        expected.clear()
        assert (window.samples(), window.latest) == ((), 0)
        assert window.durations() == ([], 0, 0)


def test_readers_see_whole_samples_while_threads_write() -> None:
    window, number = DurationWindow(10, WindowStore().next_sequence, SliceStore()), itertools.count(1)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            at = next(number)
            window.add(ERROR if at % 2 == 0 else GOOD, float(at), at, at << 64 | at)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            for sample in window.samples():
                at = sample.time_unix_nano
                assert sample == Sample(sample.sequence, at, float(at), at << 64 | at, at % 2 == 0)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(window.samples()) == 10
