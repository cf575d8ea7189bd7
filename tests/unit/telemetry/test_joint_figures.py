"""What several workers have measured, as one: the same as if one had measured all of it."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import PerformanceMetrics, TelemetrySettings
from telemetry.document import ENDED_PID
from telemetry.joint_figures import JointFigures, Told, handed_over, left, merge, queries_of, tell
from telemetry.readers.window import ERROR, GOOD, Count, CountWindow, counts_of

NOW = 1_700_000_000_000_000_000
SETTINGS = TelemetrySettings(window=7)

requests = st.lists(
    st.tuples(
        st.sampled_from(["GET /a", "GET /b", "POST /api/ratings/<media_hash>"]),
        st.floats(0, 100),
        st.integers(0, 60),
        st.booleans(),
        st.integers(0, 2),
    ),
    max_size=60,
)


def record(metrics: PerformanceMetrics, at: int, route: str, duration_s: float, queries: int, failed: bool) -> None:
    store = metrics.store
    durations, counts = store.durations_of(route), store.queries_of(route)
    assert durations is not None
    assert counts is not None
    durations.add(ERROR if failed else GOOD, duration_s, NOW + at, abs(at) + 1)
    counts.add(queries, NOW + at)
    store.newest_queries.append((NOW + at, queries))
    metrics.record_cache_hit(queries)
    metrics.record_cache_miss()


def told(metrics: PerformanceMetrics) -> Told:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(tell(metrics)), type=Told)


def settled(snapshot: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in snapshot.items() if key not in ("uptime_seconds", "resources")}


@given(requests)
def test_the_figures_are_those_of_one_process_that_has_served_all(
    every: list[tuple[str, float, int, bool, int]],
) -> None:
    alone = PerformanceMetrics(SETTINGS)
    workers = [PerformanceMetrics(SETTINGS) for _ in range(3)]
    for at, (route, duration_s, queries, failed, worker) in enumerate(every):
        for metrics in (alone, workers[worker]):
            record(metrics, at, route, duration_s, queries, failed)
    together = JointFigures(workers[0], [told(worker) for worker in workers], lambda: map(queries_of, workers))
    assert settled(together.snapshot()) == settled(alone.snapshot())
    assert together.route_stats() == alone.route_stats()
    assert [(each.route, sorted(each.queries)) for each in together.route_windows()] == [
        (each.route, sorted(each.queries)) for each in alone.route_windows()
    ]
    assert [[sample[1:] for sample in each.samples] for each in together.route_windows()] == [
        [sample[1:] for sample in each.samples] for each in alone.route_windows()
    ]
    assert sum(each.request_count for each in together.slices()) == len(every)


@given(requests, st.booleans())
def test_workers_that_end_one_after_another_hand_over_what_they_would_have_told(
    every: list[tuple[str, float, int, bool, int]], is_merged: bool
) -> None:
    alone = PerformanceMetrics(SETTINGS)
    living, *ending = (PerformanceMetrics(SETTINGS) for _ in range(3))
    for at, (route, duration_s, queries, failed, worker) in enumerate(every):
        for metrics in (alone, [living, *ending][worker]):
            record(metrics, at, route, duration_s, queries, failed)
    files = [left(metrics, f"worker {number}") for number, metrics in enumerate(ending)]
    if is_merged:
        files = [*files[:1], merge(living, files)]  # as it is read while the file of one has yet to be removed
    found = handed_over(files)
    assert [sorted(each.names) for each in found] == (
        [["worker 0", "worker 1"]] if is_merged else [["worker 0"], ["worker 1"]]
    )
    together = JointFigures(
        living,
        [told(living), *(each.told_now() for each in found)],
        lambda: [queries_of(living), *(each.queries for each in found)],
    )
    assert settled(together.snapshot()) == settled(alone.snapshot())
    assert [(each.route, sorted(each.queries)) for each in together.route_windows()] == [
        (each.route, sorted(each.queries)) for each in alone.route_windows()
    ]
    assert [[sample[1:] for sample in each.samples] for each in together.route_windows()] == [
        [sample[1:] for sample in each.samples] for each in alone.route_windows()
    ]
    assert sum(each.request_count for each in together.slices()) == len(every)
    assert [process.pid for process in together.processes()] == [os.getpid(), *(ENDED_PID for _ in found)]


def test_the_time_that_a_server_is_up_goes_on_after_the_worker_that_began_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first = PerformanceMetrics(SETTINGS)
    monkeypatch.setattr(first, "get_uptime_seconds", lambda: 100.0)
    ended = left(first, "first")
    later_s = time.time() + 20
    monkeypatch.setattr(time, "time", lambda: later_s)
    second = PerformanceMetrics(SETTINGS)
    (found,) = handed_over([merge(second, [left(second, "second"), ended])])
    assert found.told_now().uptime_s == pytest.approx(120, abs=1)


def test_what_another_version_has_handed_over_is_nothing() -> None:
    assert handed_over([msgspec.msgpack.encode({"names": ["first"], "figures": []}), b""]) == []
    metrics = PerformanceMetrics(SETTINGS)
    (found,) = handed_over([merge(metrics, [left(metrics, "second"), b"of another version"])])
    assert found.names == ["second"]


def test_names_of_the_workers_that_ended_last_are_kept() -> None:
    metrics = PerformanceMetrics(SETTINGS)
    files = [left(metrics, "0")]
    for number in range(1, 130):
        files = [merge(metrics, [left(metrics, str(number)), *files])]
    (found,) = handed_over(files)
    assert found.names == [str(number) for number in range(30, 130)]


def test_where_the_clock_is_set_back_the_newest_are_still_the_newest() -> None:
    alone = PerformanceMetrics(SETTINGS)
    workers = [PerformanceMetrics(SETTINGS) for _ in range(2)]
    hour = 3600 * 10**9
    for number in range(20):
        at = number if number < 12 else number - hour
        for metrics in (alone, workers[number % 2]):
            record(metrics, at, "GET /", number / 10, number, False)
    together = JointFigures(workers[0], [told(worker) for worker in workers], lambda: map(queries_of, workers))
    assert settled(together.snapshot()) == settled(alone.snapshot())
    (window,) = together.route_windows()
    assert [sample.value for sample in window.samples] == [number / 10 for number in range(13, 20)]
    assert window.queries == tuple(range(13, 20))


def test_what_is_of_processes_adds_up_and_the_oldest_says_how_long_the_server_is_up() -> None:
    one, other = (
        Told(
            pid=pid,
            uptime_s=uptime_s,
            durations={},
            newest_queries=[],
            hits=0,
            misses=0,
            lock_waits_s={"GET /": 0.5, f"GET /{pid}": 1.0},
            percentages={"cpu_percent": 10.1, "memory_percent": 0.1},
            memory_bytes=memory_bytes,
            slices=[],
            failures=pid,
            full_at=full_at,
        )
        for pid, uptime_s, memory_bytes, full_at in ((1, 5.0, 100, 0), (2, 60.0, None, 1000))
    )
    together = JointFigures(PerformanceMetrics(SETTINGS), [one, other])
    assert together.snapshot()["resources"] == {"uptime_seconds": 60.0, "cpu_percent": 20.2, "memory_percent": 0.2}
    assert together.lock_waits() == {"GET /": 1.0, "GET /1": 1.0, "GET /2": 1.0}
    assert (together.failures, together.full_at, together.memory_bytes()) == (3, 1000, 100)
    assert JointFigures(PerformanceMetrics(SETTINGS), [other]).memory_bytes() is None
    assert [(process.pid, process.uptime_s) for process in together.processes()] == [(1, 5.0), (2, 60.0)]


@pytest.mark.parametrize(("number", "kept"), [(0, 0), (5.0, 5), (2**63, 2**63 - 1), (1e300, 2**63 - 1)])
def test_a_number_of_queries_is_kept_with_its_time(number: float, kept: int) -> None:
    window = CountWindow(3)
    window.add(number, NOW)
    assert counts_of(window.packed()) == [Count(NOW, kept)]
    window.clear()
    assert counts_of(window.packed()) == []
