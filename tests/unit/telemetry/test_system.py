"""What the process uses; a figure that can't be read is left out."""

from __future__ import annotations

import os

import psutil
import pytest

from telemetry import PerformanceMetrics, system
from telemetry.system import ProcessUsage


def test_figures_are_shares_bytes_and_counts() -> None:
    usage = ProcessUsage()
    cpu, memory, memory_bytes = usage.cpu_utilization(), usage.memory_utilization(), usage.memory_bytes()
    assert cpu is not None
    assert 0 <= cpu <= 1
    assert memory is not None
    assert 0 < memory < 1
    assert memory_bytes is not None
    assert memory_bytes == pytest.approx(memory * psutil.virtual_memory().total, rel=0.2)
    assert (usage.threads() or 0) >= 1
    assert (usage.uptime_s() or -1) >= 0


def test_cpu_is_measured_over_at_least_half_a_second() -> None:
    now = [100.0]
    usage = ProcessUsage(monotonic=lambda: now[0])
    first = usage.cpu_utilization()
    sum(number * number for number in range(200_000))
    now[0] += 0.4
    assert usage.cpu_utilization() == first
    now[0] += 0.2
    second = usage.cpu_utilization()
    assert second is not None
    assert 0 <= second <= 1


def test_stats_leave_out_what_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    full = ProcessUsage().stats()
    assert {"cpu_percent", "memory_mb", "memory_percent", "open_files", "threads"} <= set(full)
    for name, broken in (
        ("io_counters", AttributeError("no such thing here")),
        ("open_files", psutil.AccessDenied(1)),
        ("num_threads", NotImplementedError()),
    ):

        def refuse(_: psutil.Process, broken: Exception = broken) -> None:
            raise broken

        monkeypatch.setattr(psutil.Process, name, refuse, raising=False)
    assert set(ProcessUsage().stats()) == {"cpu_percent", "memory_mb", "memory_percent"}


def test_a_fork_starts_anew() -> None:
    usage = ProcessUsage()
    usage.cpu_utilization()
    before = usage._process
    usage._pid = os.getpid() + 1  # what a child process finds
    usage.memory_bytes()
    assert usage._process is not before


@pytest.mark.parametrize("broken", [psutil.AccessDenied(1), psutil.NoSuchProcess(1), PermissionError("no /proc")])
def test_what_the_system_refuses_is_left_out(broken: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise broken

    monkeypatch.setattr(psutil, "Process", refuse)
    assert ProcessUsage().memory_bytes() is None
    resources = PerformanceMetrics().snapshot()["resources"]
    assert set(resources) == {"uptime_seconds"}


def test_without_psutil_everything_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "psutil", None)
    metrics = PerformanceMetrics()
    metrics.record_cache_hit()
    assert set(metrics.snapshot()["resources"]) == {"uptime_seconds"}
    assert metrics.cache_hits == 1


def test_resources_are_percentages() -> None:
    metrics = PerformanceMetrics()
    metrics.record_cache_hit()
    resources = metrics.snapshot()["resources"]
    assert 0 <= resources["cpu_percent"] <= 100
    assert 0 < resources["memory_percent"] <= 100
