"""What the process uses, read through psutil."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, cast

from opentelemetry.metrics import CallbackOptions, Observation

from telemetry import forked, instruments

try:
    import psutil
except ImportError:  # pragma: no cover - psutil is a dependency; a broken build of it must not stop an app
    psutil = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

_Figure = TypeVar("_Figure")

_log = logging.getLogger(__name__)
_MIN_CPU_INTERVAL_S = 0.5
BYTES_PER_MB: Final = 1024 * 1024
"""The spec's `memory_mb` counts as operating systems show it."""


class SystemStats(TypedDict, total=False):
    """What this process uses at present; a figure that the system does not tell is left out."""

    cpu_percent: float
    memory_mb: float
    memory_percent: float
    disk_io_read_mb: float
    disk_io_write_mb: float
    open_files: int
    threads: int


class ProcessUsage:
    """CPU, memory, disk and threads of this process. Thread-safe; a figure that can't be read is `None`.

    CPU utilisation is measured between two reads that are at least half a second apart, so that several readers don't
    shorten each other's interval to noise; the first one covers the life of the process.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = forked.lock()
        self._pid: int | None = None
        self._process: psutil.Process | None = None
        self._cpu_at: tuple[float, float] | None = None
        self._cpu_utilization: float | None = None

    def cpu_utilization(self) -> float | None:
        """Return the share of all logical CPUs that the process used, 0 to 1."""
        with self._lock:
            return self._read(self._measure_cpu)

    def memory_bytes(self) -> int | None:
        """Return the resident memory in bytes."""
        with self._lock:
            return self._read(lambda process: int(process.memory_info().rss))

    def memory_utilization(self) -> float | None:
        """Return resident memory over the machine's memory, 0 to 1."""
        with self._lock:
            return self._read(lambda process: process.memory_percent() / 100)

    def threads(self) -> int | None:
        """Return the number of threads."""
        with self._lock:
            return self._read(lambda process: process.num_threads())

    def open_files(self) -> int | None:
        """Return how many regular files the process has open."""
        with self._lock:
            return self._read(lambda process: len(process.open_files()))

    def disk_read_bytes(self) -> int | None:
        """Return the bytes that the process has read from disks since it started; not every system tells."""
        with self._lock:
            return self._read(lambda process: int(process.io_counters().read_bytes))

    def disk_written_bytes(self) -> int | None:
        """Return the bytes that the process has written to disks since it started; not every system tells."""
        with self._lock:
            return self._read(lambda process: int(process.io_counters().write_bytes))

    def stats(self) -> SystemStats:
        """Return all of it as the spec's section 4 names it: percent, and megabytes of 1024 × 1024 bytes."""
        found = {
            "cpu_percent": _scaled(self.cpu_utilization(), 100),
            "memory_mb": _scaled(self.memory_bytes(), 1 / BYTES_PER_MB),
            "memory_percent": _scaled(self.memory_utilization(), 100),
            "disk_io_read_mb": _scaled(self.disk_read_bytes(), 1 / BYTES_PER_MB),
            "disk_io_write_mb": _scaled(self.disk_written_bytes(), 1 / BYTES_PER_MB),
            "open_files": self.open_files(),
            "threads": self.threads(),
        }
        return cast(SystemStats, {name: value for name, value in found.items() if value is not None})

    def uptime_s(self) -> float | None:
        """Return seconds since the process was created."""
        with self._lock:
            return self._read(lambda process: max(0.0, time.time() - process.create_time()))

    def _read(self, read: Callable[[psutil.Process], _Figure]) -> _Figure | None:
        if psutil is None:
            return None
        try:
            if self._pid != os.getpid():  # a fork: what was measured belongs to the parent
                self._pid, self._process = os.getpid(), psutil.Process()
                self._cpu_at = self._cpu_utilization = None
            assert self._process is not None
            return read(self._process)
        except Exception as error:  # what a system lacks or denies comes as AttributeError, OSError and more
            _log.debug("process figures can't be read: %s", error)
            return None

    def _measure_cpu(self, process: psutil.Process) -> float | None:
        now = self._monotonic()
        if self._cpu_at is not None and now - self._cpu_at[0] < _MIN_CPU_INTERVAL_S:
            return self._cpu_utilization
        times = process.cpu_times()
        used_s = times.user + times.system
        if self._cpu_at is None:
            elapsed_s, used_since_s = max(time.time() - process.create_time(), 0.001), used_s
        else:
            elapsed_s, used_since_s = now - self._cpu_at[0], used_s - self._cpu_at[1]
        self._cpu_at = (now, used_s)
        self._cpu_utilization = min(1.0, max(0.0, used_since_s / elapsed_s / (psutil.cpu_count() or 1)))
        return self._cpu_utilization


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def register(meter: Meter, usage: ProcessUsage) -> None:
    """Create the `process.*` instruments on `meter`; a figure that can't be read gives no observation."""

    def observe(read: Callable[[], float | None]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            value = read()
            return () if value is None else (Observation(value),)

        return callback

    reads: dict[str, Callable[[], float | None]] = {
        instruments.PROCESS_UPTIME: usage.uptime_s,
        instruments.PROCESS_CPU_UTILIZATION: usage.cpu_utilization,
        instruments.PROCESS_MEMORY_USAGE: usage.memory_bytes,
        instruments.PROCESS_MEMORY_UTILIZATION: usage.memory_utilization,
        instruments.PROCESS_THREADS: usage.threads,
    }
    for name, read in reads.items():
        spec = instruments.describe(name)
        create = meter.create_observable_gauge if spec.kind == "gauge" else meter.create_observable_up_down_counter
        create(name, [observe(read)], spec.unit, spec.description)
