"""OTLP JSON in files: as the specification writes it, rotated, bounded, and whole."""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.exporters import jsonfile
from telemetry.exporters.ended_request import EndedRequest, Source
from telemetry.exporters.jsonfile import RotatedFile, SpanFileExporter
from telemetry.exporters.options import Options
from tests.unit.telemetry.exporters.queries import query

SOURCE = Source(
    Resource({"service.name": "t"}),
    InstrumentationScope("t"),
    SpanLimits(),
    RandomIdGenerator(),
    lambda _: {"db.operation.name": "SELECT"},
)


def ended() -> EndedRequest:
    return EndedRequest(SOURCE, SpanContext(0xAB, 0xCD, False, TraceFlags(1)), 0, 5, None, [query("SELECT 1", 0, 7)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_spans_are_lines_of_otlp_json(tmp_path: Path) -> None:
    queue = jsonfile.processor(Options(jsonfile_folder=tmp_path / "new" / "folder"))
    queue.emit(ended())
    queue.shutdown()
    (line,) = lines(tmp_path / "new" / "folder" / "traces.jsonl")
    (span,) = line["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert span["traceId"] == "000000000000000000000000000000ab", "ids are hex, not base64"
    assert span["parentSpanId"] == "00000000000000cd"
    assert len(span["spanId"]) == 16
    assert span["kind"] == 3, "enums are numbers"
    assert (span["startTimeUnixNano"], span["endTimeUnixNano"]) == ("5", "12"), "64 bit numbers are text"
    assert (queue.status.sent, queue.target) == (1, str(tmp_path / "new" / "folder" / "traces.jsonl"))


def test_metrics_are_lines_of_otlp_json(tmp_path: Path) -> None:
    reader = jsonfile.reader(Options(jsonfile_folder=tmp_path))
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("t").create_counter("count").add(3)
    provider.shutdown()
    (line,) = lines(tmp_path / "metrics.jsonl")
    (metric,) = line["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert metric["name"] == "count"
    assert metric["sum"]["dataPoints"][0]["asInt"] == "3"
    assert reader.status.sent == 1


def test_files_are_rotated_and_bounded(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path, "traces", 4 * 100)
    for number in range(100):
        file.append(f"{number:029}")  # 30 bytes each
    files = sorted(tmp_path.glob("*.jsonl"))
    assert [path.name for path in files] == ["traces.1.jsonl", "traces.2.jsonl", "traces.3.jsonl", "traces.jsonl"]
    assert all(path.stat().st_size <= 100 for path in files)
    kept = [int(line) for path in (files[2], files[1], files[0], files[3]) for line in path.read_text().splitlines()]
    assert kept == list(range(100))[-len(kept) :], "the newest lines, in order, none missing"


def test_a_line_longer_than_a_file_is_a_file_of_its_own(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path, "traces", 40)
    file.append("x" * 1000)
    file.append("y" * 1000)
    assert (tmp_path / "traces.1.jsonl").read_text() == "x" * 1000 + "\n"
    assert file.path.read_text() == "y" * 1000 + "\n"


def test_batches_that_are_larger_than_a_file_are_several_lines(tmp_path: Path) -> None:
    queue = jsonfile.processor(Options(jsonfile_folder=tmp_path, jsonfile_bytes=4 * 20_000))
    for _ in range(200):
        queue.emit(ended())
    queue.shutdown()
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) == jsonfile.FILES
    assert all(path.stat().st_size <= 20_000 for path in files)
    assert (queue.status.sent, queue.status.dropped) == (200, 0)


def write(folder: Path, mark: str, both_are_there: Barrier) -> None:
    file = RotatedFile(folder, "traces", 4 * 1000)
    both_are_there.wait(60)
    for number in range(1000):
        file.append(f"{mark} {number:07}")  # 10 bytes each


def test_several_processes_rotate_files_in_turn(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    writers = [spawn.Process(target=write, args=(tmp_path, mark, barrier)) for mark in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    files = [tmp_path / name for name in ("traces.3.jsonl", "traces.2.jsonl", "traces.1.jsonl", "traces.jsonl")]
    kept = [path.read_text().splitlines() for path in files]
    assert [len(each) for each in kept] == [100] * 4, "2000 lines fill files of 100"
    for mark in "ab":
        numbers = [int(line[2:]) for each in kept for line in each if line.startswith(mark)]
        assert numbers == list(range(1000))[-len(numbers) :] or not numbers, "the newest lines, in order, none missing"


def test_a_span_that_is_larger_than_a_file_is_told_and_left_out(tmp_path: Path) -> None:
    exporter = SpanFileExporter(RotatedFile(tmp_path, "traces", 4 * 1000))
    delivery = exporter.write([one_query(f"SELECT '{'x' * 2000}'")])
    assert (bool(delivery), delivery.too_large, delivery.retry) == (False, False, False)
    assert "jsonfile_max_mb" in delivery.why
    assert exporter.write([one_query("SELECT 1")])
    assert len((tmp_path / "traces.jsonl").read_bytes()) < 1000


def one_query(sql: str) -> EndedRequest:
    return EndedRequest(SOURCE, SpanContext(1, 1, False, TraceFlags(1)), 0, 0, None, [query(sql)])


@pytest.mark.skipif(sys.platform == "win32", reason="there, one process writes a folder")
def test_a_line_waits_until_another_process_has_written_its_own(tmp_path: Path) -> None:
    import fcntl

    file = RotatedFile(tmp_path, "traces", 1000)
    thread = threading.Thread(target=file.append, args=("x",))
    with (tmp_path / "traces.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert not file.path.exists()
    thread.join()
    assert file.path.read_text() == "x\n"


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow further: what is beyond that of a write is cut off, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_of_a_line_that_does_not_fit_on_the_disk_nothing_is_left(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path, "traces", 4 * 1000)
    file.append("a" * 99)
    with files_of_at_most(150), pytest.raises(OSError, match="File too large"):
        file.append("b" * 99)
    assert file.path.read_text() == "a" * 99 + "\n"
    file.append("c" * 99)
    assert file.path.read_text().splitlines() == ["a" * 99, "c" * 99]


def test_what_can_not_be_written_is_kept_and_written_later(tmp_path: Path) -> None:
    queue = jsonfile.processor(Options(jsonfile_folder=tmp_path))
    queue.emit(ended())
    with files_of_at_most(10):
        assert not queue.force_flush(900)
    assert (queue.status.queued, queue.status.sent) == (1, 0)
    assert "File too large; kept, to be tried again" in str(queue.status.last_error)
    assert queue.force_flush()
    queue.shutdown()
    assert len(lines(tmp_path / "traces.jsonl")) == 1
