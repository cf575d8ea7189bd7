"""The queue between the requests and an exporter."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from telemetry.exporters.ended import EndedRequest
from telemetry.requests import serving

_log = logging.getLogger(__name__)

Item = EndedRequest | ReadableSpan
Send = Callable[[Sequence[Item]], bool]
"""Sends a batch, and tells whether that has worked."""

MAX_QUEUE_SPANS = 65_536
MAX_BATCH_SPANS = 4096
SCHEDULE_DELAY_MS = 5000
SHUTDOWN_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class ExportStatus:
    """How exporting goes: numbers of spans since the start, and when and how it last went well or wrong."""

    queued: int = 0
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    last_success_unix_ns: int | None = None
    last_error: str | None = None


class DeferredSpanProcessor(SpanProcessor):
    """Batches ended requests, and the spans that the SDK has made beside them, for one exporter.

    Spans are made of requests in a thread of its own, which starts with the first of them. The queue is bounded in spans: what
    does not fit in is dropped and counted, a request as a whole. The standard variables `OTEL_BSP_SCHEDULE_DELAY`,
    `OTEL_BSP_MAX_QUEUE_SIZE` and `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` apply. Thread-safe; after `shutdown` everything is dropped.
    """

    def __init__(self, exporter: SpanExporter, send: Send | None = None) -> None:
        """Send through `send`, which does what `exporter` would do in its own way, or by `exporter.export`."""
        self._exporter = exporter
        self._send = send or self._export_spans
        self._max_queue_spans = _environment_number(OTEL_BSP_MAX_QUEUE_SIZE, MAX_QUEUE_SPANS)
        self._max_batch_spans = _environment_number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, MAX_BATCH_SPANS)
        self._delay_s = _environment_number(OTEL_BSP_SCHEDULE_DELAY, SCHEDULE_DELAY_MS) / 1000
        self._closed = False
        self._status = ExportStatus()
        self._start_anew()
        if hasattr(os, "register_at_fork"):
            anew = weakref.WeakMethod(self._start_anew)
            os.register_at_fork(after_in_child=lambda: (method := anew()) and method())

    def _start_anew(self) -> None:
        """Begin with an empty queue and no thread: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._exporting = threading.Lock()
        self._wake = threading.Event()
        self._queue: deque[tuple[Item, int]] = deque()
        self._queued_spans = 0
        self._dropped_spans = 0
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> ExportStatus:
        """How exporting goes, now."""
        with self._lock:
            return replace(self._status, queued=self._queued_spans, dropped=self._dropped_spans)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: nothing of a span is needed before it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span of the SDK; inside a request that may turn out not to be kept, leave it to the request."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        record = serving.get()
        held = None if record is None else record.held
        if held is not None:
            held.append((self, span))
        elif record is None or not record.is_rejected:
            self.emit(span)

    def emit(self, item: Item) -> None:
        """Queue a span or a request, which must be sampled."""
        self._put(item, item.span_count if isinstance(item, EndedRequest) else 1)

    def _put(self, item: Item, spans: int) -> None:
        with self._lock:
            queued = self._queued_spans + spans
            if self._closed or (queued > self._max_queue_spans and self._queue):
                self._dropped_spans += spans
                return
            self._queue.append((item, spans))
            self._queued_spans = queued
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="telemetry-export", daemon=True)
                self._thread.start()
        if queued >= self._max_batch_spans and not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            self._drain()

    def _drain(self, until: float = float("inf")) -> bool:
        """Send what is queued, and return whether that was done `until` that time by the monotonic clock."""
        with self._exporting:
            while batch := self._take():
                if time.monotonic() >= until:
                    self._count_failed(sum(spans for _, spans in batch), "there was no time left")
                    return False
                self._send_batch(batch)
        return True

    def _take(self) -> list[tuple[Item, int]]:
        taken: list[tuple[Item, int]] = []
        spans = 0
        with self._lock:
            while self._queue and (not taken or spans + self._queue[0][1] <= self._max_batch_spans):
                entry = self._queue.popleft()
                taken.append(entry)
                spans += entry[1]
            self._queued_spans -= spans
        return taken

    def _send_batch(self, batch: list[tuple[Item, int]]) -> None:
        spans = sum(number for _, number in batch)
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            succeeded = self._send([item for item, _ in batch])
        except Exception as error:
            _log.exception("spans could not be exported")
            self._count_failed(spans, f"{type(error).__name__}: {error}")
            return
        finally:
            detach(token)
        if not succeeded:
            self._count_failed(spans, "the exporter could not deliver them")
            return
        with self._lock:
            sent = self._status.sent + spans
            self._status = replace(self._status, sent=sent, last_success_unix_ns=time.time_ns())

    def _count_failed(self, spans: int, why: str) -> None:
        with self._lock:
            self._status = replace(self._status, failed=self._status.failed + spans, last_error=why)

    def _export_spans(self, items: Sequence[Item]) -> bool:
        return self._exporter.export(as_spans(items)) is SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued now; false if that takes longer."""
        return self._drain(time.monotonic() + timeout_millis / 1000) and self._exporter.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Send what is queued within three seconds, drop the rest, and shut the exporter down."""
        if self._closed:
            return
        until = time.monotonic() + SHUTDOWN_TIMEOUT_S
        with self._lock:
            self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(max(0.0, until - time.monotonic()))
        self._exporter.shutdown()
        with self._lock:
            self._dropped_spans += self._queued_spans
            self._queue.clear()
            self._queued_spans = 0


def as_spans(items: Sequence[Item]) -> list[ReadableSpan]:
    """Return the spans of all items."""
    spans: list[ReadableSpan] = []
    for item in items:
        spans += item.spans() if isinstance(item, EndedRequest) else [item]
    return spans


def _environment_number(variable: str, default: int) -> int:
    """Return the positive number of a standard variable; a wrong one is told and ignored, as the specification asks."""
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    _log.warning("%s must be a whole number over 0, got %r: %d applies", variable, text, default)
    return default
