"""The window of a route's durations against a plain deque."""

from __future__ import annotations

import threading
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from telemetry.readers.window import DurationWindow, Sample, WindowStore

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
    window, expected = DurationWindow(size), deque[Sample](maxlen=size)
    sequence = 0
    for batch in (first, second):
        for time_unix_nano, value, trace_id, is_error in batch:
            sequence += 1
            window.add(sequence, time_unix_nano, value, trace_id, is_error)
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
    window, number = DurationWindow(10), WindowStore().next_sequence
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            sequence = number()
            window.add(sequence, sequence, float(sequence), sequence << 64 | sequence, sequence % 2 == 0)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            for sample in window.samples():
                assert sample == Sample(
                    sample.sequence,
                    sample.sequence,
                    float(sample.sequence),
                    sample.sequence << 64 | sample.sequence,
                    sample.sequence % 2 == 0,
                )
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(window.samples()) == 10
