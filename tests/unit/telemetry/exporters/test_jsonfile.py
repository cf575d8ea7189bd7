"""OTLP JSON in files: as the specification writes it, rotated, bounded, and whole."""

from __future__ import annotations

import errno
import json
import multiprocessing
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
from telemetry.exporters.ended import EndedRequest, Source
from telemetry.exporters.jsonfile import RotatedFile
from telemetry.exporters.registry import Options
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


def write(folder: Path, mark: str) -> None:
    file = RotatedFile(folder, "traces", 1_000_000)
    for _ in range(200):
        file.append(mark * 50)


def test_several_processes_write_whole_lines(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write, args=(tmp_path, mark)) for mark in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    written = (tmp_path / "traces.jsonl").read_text().splitlines()
    assert sorted(written) == ["a" * 50] * 200 + ["b" * 50] * 200


def test_what_can_not_be_written_is_kept_and_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = jsonfile.processor(Options(jsonfile_folder=tmp_path))
    queue.emit(ended())
    with monkeypatch.context() as patch:
        patch.setattr(RotatedFile, "append", _disk_full)
        assert not queue.force_flush()
        assert (queue.status.queued, queue.status.sent) == (1, 0)
        assert "No space left on device; kept, to be tried again" in str(queue.status.last_error)
    assert queue.force_flush()
    queue.shutdown()
    assert len(lines(tmp_path / "traces.jsonl")) == 1


def _disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
