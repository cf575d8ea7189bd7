"""OTLP as JSON lines in files, as a Collector's `otlpjsonfile` receiver reads them.

One line is one export: `traces.jsonl` has `{"resourceSpans": …}`, `metrics.jsonl` has `{"resourceMetrics": …}`. A file that
gets too long becomes `traces.1.jsonl`, that one `traces.2.jsonl`, and the oldest goes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from telemetry.exporters.otlp import RecordSender
from telemetry.exporters.processor import DeferredSpanProcessor, Item, exact_count
from telemetry.exporters.reader import PushReader
from telemetry.exporters.status import Delivery
from telemetry.failure import clean

try:
    import fcntl
except ImportError:  # Windows; there, one process writes a folder
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from telemetry.exporters.options import Options

FILES: Final = 4
"""So many files of each signal are kept, the one that is written included."""
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})


class RotatedFile:
    """Lines in a file, and in the few older ones beside it. Several processes may write the same folder."""

    def __init__(self, folder: Path, stem: str, most_bytes: int) -> None:
        self.path = folder / f"{stem}.jsonl"
        self._file_bytes = max(1, most_bytes // FILES)

    def holds(self, line: str) -> bool:
        """Tell whether a line is within the size of a file."""
        return len(line.encode()) < self._file_bytes

    def append(self, line: str) -> None:
        """Write one line, and flush it. Raises `OSError`."""
        data = line.encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            size = self.path.stat().st_size if self.path.exists() else 0
            if size and size + len(data) > self._file_bytes:
                self._rotate()
                size = 0
            try:
                with self.path.open("ab") as file:
                    file.write(data)
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)  # half a line on a full disk would spoil the next one
                raise

    def _rotate(self) -> None:
        for number in range(FILES - 1, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.{number}.jsonl") if number else self.path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self.path.with_suffix(".lock").open("w") as lock:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class SpanFileExporter(SpanExporter):
    """Writes spans. What can't be written is kept in the queue and tried again."""

    def __init__(self, file: RotatedFile) -> None:
        self._file = file

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if _write(self._file, _line_of(spans)) else SpanExportResult.FAILURE

    def write(self, items: Sequence[Item]) -> Delivery:
        """Write spans and requests as one line, unless several make one that is larger than a file."""
        line = _line_of(items)
        if not self._file.holds(line):
            if exact_count(items) > 1:
                return Delivery(False, too_large=True)
            return Delivery(
                False, why=f"a span of {len(line) / 2**20:.1f} MiB is larger than a file may be: see jsonfile_max_mb"
            )
        return _write(self._file, line)


class MetricFileExporter(MetricExporter):
    """Writes metrics."""

    def __init__(self, file: RotatedFile) -> None:
        super().__init__()
        self._file = file
        self._last = Delivery(True)

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        self._last = _write(self._file, as_json(encode_metrics(metrics_data)))
        return MetricExportResult.SUCCESS if self._last else MetricExportResult.FAILURE

    def judge(self, _: bool) -> Delivery:
        """Return what became of the last export."""
        return self._last

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002  # nothing is kept back
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do nothing: no file is open between exports."""


def processor(options: Options) -> DeferredSpanProcessor:
    """Return a processor that writes spans into the folder of the options."""
    file = RotatedFile(options.jsonfile_folder, "traces", options.jsonfile_bytes)
    exporter = SpanFileExporter(file)
    return DeferredSpanProcessor(
        exporter,
        exporter.write,
        name="jsonfile",
        target=clean(str(file.path)),
        shutdown_timeout_s=options.shutdown_timeout_s,
    )


def reader(options: Options) -> PushReader:
    """Return a reader that writes metrics into the folder of the options."""
    file = RotatedFile(options.jsonfile_folder, "metrics", options.jsonfile_bytes)
    exporter = MetricFileExporter(file)
    return PushReader(
        exporter,
        exporter.judge,
        name="jsonfile",
        target=clean(str(file.path)),
        shutdown_timeout_s=options.shutdown_timeout_s,
    )


def as_json(message: Message) -> str:
    """Return an OTLP message as a line of OTLP's JSON."""
    return json.dumps(as_body(message), separators=(",", ":"), ensure_ascii=False)


def as_body(message: Message) -> dict[str, Any]:
    """Return an OTLP message as OTLP's JSON has it: as protobuf's own, but ids in hex and enums as numbers."""
    body: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    _with_hex_ids(body)
    return body


def _with_hex_ids(value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _with_hex_ids(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in _IDS and isinstance(each, str):
                value[key] = base64.b64decode(each).hex()
            else:
                _with_hex_ids(each)


def _line_of(items: Sequence[Item]) -> str:
    return as_json(ExportTraceServiceRequest.FromString(RecordSender.encode(items)))


def _write(file: RotatedFile, line: str) -> Delivery:
    try:
        file.append(line)
    except OSError as error:
        return Delivery(False, retry=True, why=f"{file.path}: {error.strerror or error}")
    return Delivery(True)
