"""The queue between the requests and an exporter."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, detach, set_value
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from telemetry.exporters import status as counts
from telemetry.exporters.ended_request import EndedRequest, MadeServerSpan
from telemetry.exporters.status import Delivery, ExportStatus, Signal, Tally
from telemetry.figures import plural
from telemetry.forked import call_in_child
from telemetry.recent import SPAN_ID
from telemetry.requests import request_of_context

_log = logging.getLogger(__name__)

Item = EndedRequest | MadeServerSpan | ReadableSpan
Send = Callable[[Sequence[Item]], Delivery]
"""Sends a batch, and tells what became of it."""

MAX_QUEUE_SPANS = 65_536
MAX_QUEUE_CHARACTERS = 64_000_000
"""How much SQL, and what clients choose, such as paths, may wait: an app may well put large values into its statements."""
_MANY_CHARACTERS = MAX_QUEUE_CHARACTERS // 2  # so many are sent at once, so that there is room for more meanwhile
MAX_HELD_SPANS = 4096
"""Spans of an app that are kept back in one request until it is known whether it is exported."""
MAX_BATCH_SPANS = 4096
MAX_BODY_BYTES = 3 * 1024 * 1024
"""How much goes into one message to a backend, if it is more than one span: a gRPC server takes 4 MiB."""
SCHEDULE_DELAY_MS = 5000
SHUTDOWN_TIMEOUT_S = 3.0
FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_OF_NETWORK = frozenset({"ConnectionError", "ConnectTimeout", "Timeout", "TimeoutError", "gaierror"})
_SLOW_FAILURE_S = 0.5  # a backend that needs longer than the timeout for a batch never takes one that large
_SLOW_S = 2.5  # a batch that has taken so long is large enough
_FEW_SPANS = 64  # to which no timeout is too short
LONGEST_ASKED_S = 300.0  # a backend may ask for a longer pause than we would make, but not for an hour


class DeferredSpanProcessor(SpanProcessor):
    """Batches ended requests, and the spans that the SDK has made beside them, for one exporter.

    Spans are made of requests in a thread of its own, which starts with the first of them. The queue is bounded in spans and
    in characters of SQL and requests, those that are being sent included: what does not fit in is dropped and counted, a
    request as a whole. A batch that the backend can't take now stays at the head of the queue and is tried again, after a
    pause that doubles up to half a minute, or after the one that the backend asks for; one that is too large is sent in
    parts, and so is one that has failed after a while: it may have been too much for the timeout. The standard variables
    `OTEL_BSP_SCHEDULE_DELAY`, `OTEL_BSP_MAX_QUEUE_SIZE` and `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`
    apply. Thread-safe; after `shutdown` everything is dropped.
    """

    signal: Signal = "traces"

    def __init__(
        self,
        exporter: SpanExporter,
        send: Send | None = None,
        *,
        name: str = "",
        target: str = "",
        shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
    ) -> None:
        """Send through `send`, which does what `exporter` would do in its own way, or by `exporter.export`."""
        self.name = name or type(exporter).__name__
        self.target = target
        self._exporter = exporter
        self._send = send or self._export_spans
        self._shutdown_timeout_s = shutdown_timeout_s
        self._max_queue_spans = _environment_number(OTEL_BSP_MAX_QUEUE_SIZE, MAX_QUEUE_SPANS)
        self._max_batch_spans = min(
            _environment_number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, MAX_BATCH_SPANS), self._max_queue_spans
        )
        self._many_spans = min(self._max_batch_spans, max(self._max_queue_spans // 2, 1))
        self._delay_s = _environment_number(OTEL_BSP_SCHEDULE_DELAY, SCHEDULE_DELAY_MS) / 1000
        self._closed = self._is_shut_down = False
        self._tally = Tally(self._max_queue_spans)
        self._start_anew()
        call_in_child(self._start_anew)

    def _start_anew(self) -> None:
        """Begin with an empty queue and no thread: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._exporting = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._queue: deque[tuple[Item, int]] = deque()
        self._held_spans = self._held_characters = 0
        self._pause_s = self._asked_s = 0.0
        self._batch_spans = self._max_batch_spans
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> ExportStatus:
        """How exporting goes, now."""
        return self._tally.status(self._held_spans)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: nothing of a span is needed before it ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span of the SDK; inside a request that may turn out not to be kept, leave it to the request."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        record = request_of_context()
        item: Item = span
        kept = None if record is None else record.kept
        if record is not None and kept is not None and kept[SPAN_ID] == span.context.span_id:
            # It is the request's own, which ends now.
            item = MadeServerSpan(span, kept, record.capture.tracing.repeats)
        held = None if record is None else record.held
        if held is not None and len(held) < MAX_HELD_SPANS:
            held.append((self, item))
        elif held is not None:
            self._drop(1)
        elif record is None or not record.is_rejected:
            self.emit(item)

    def emit(self, item: Item) -> None:
        """Queue a span or a request, which must be sampled."""
        self._put(item, item.span_count if isinstance(item, EndedRequest) else 1)

    def _put(self, item: Item, spans: int) -> None:
        characters, why = _characters(item), ""
        with self._lock:
            held, held_characters = self._held_spans + spans, self._held_characters + characters
            fits = held <= self._max_queue_spans and held_characters <= MAX_QUEUE_CHARACTERS
            fits = not self._closed and (fits or not self._held_spans)
            if fits:
                self._queue.append((item, spans))
                self._held_spans, self._held_characters = held, held_characters
                if self._thread is None:
                    why = self._start_thread()
        if why:
            self._tell_failed(why)
        if not fits:
            self._drop(exact_count((item,)))
        if (held >= self._many_spans or held_characters >= _MANY_CHARACTERS) and not self._wake.is_set():
            self._wake.set()

    def _drop(self, spans: int) -> None:
        """Count spans that there is no room for."""
        if self._closed:
            self._tally.dropped(spans, counts.SHUTDOWN)
        elif self._tally.dropped(spans, counts.QUEUE_FULL):
            _log.warning("%s: the queue is full, what comes is dropped (told once; the dashboard counts)", self._shown)

    def _start_thread(self) -> str:
        """Start the thread; return why that can't be done now, so that the next item tries again."""
        thread = threading.Thread(target=self._run, name="telemetry-export", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more of them
            return str(error)
        self._thread = thread
        return ""

    def _run(self) -> None:
        while not self._closed:
            if self._pause_s:  # a full batch is no reason to ask a backend that is down more often
                self._closing.wait(self._pause_s)
            else:
                self._wake.wait(self._delay_s)
            self._wake.clear()
            if not self._closed:
                self._drain()
        while not self._drain():  # at the end there is no time for pauses that grow
            pause_s = self._asked_s or FIRST_PAUSE_S
            if pause_s >= self._shutdown_timeout_s or self._ended.wait(pause_s):
                break

    def _drain(self, until: float = float("inf")) -> bool:
        """Send what is queued, and return whether all of it was sent before `until`, by the monotonic clock."""
        if not self._exporting.acquire(timeout=min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)):
            return False
        try:
            while batch := self._take():
                if time.monotonic() >= until or not self._send_batch(batch):
                    return False
        finally:
            self._exporting.release()
        return True

    def _take(self) -> list[tuple[Item, int]]:
        """Return the next batch, which stays in the queue until it is known what has become of it."""
        taken: list[tuple[Item, int]] = []
        spans = 0
        with self._lock:
            while self._queue and self._queue[0][1] > self._batch_spans:
                self._split_first()
            for entry in self._queue:
                spans += entry[1]
                if taken and spans > self._batch_spans:
                    break
                taken.append(entry)
        return taken

    def _send_batch(self, batch: list[tuple[Item, int]]) -> bool:
        """Send a batch; return whether to go on with the next."""
        items = [item for item, _ in batch]
        exact = exact_count(items)
        began_s = time.monotonic()
        delivery = self._deliver(items) if exact else Delivery(True)
        took_s = time.monotonic() - began_s
        spans = sum(number for _, number in batch)
        if delivery.retry and not delivery:
            if took_s >= _SLOW_FAILURE_S:
                self._batch_spans = min(max(spans // 2, _FEW_SPANS), self._batch_spans)
            self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), _LONGEST_PAUSE_S)
            self._asked_s = 0.0
            if delivery.wait_s is not None:
                self._pause_s = self._asked_s = max(FIRST_PAUSE_S, min(delivery.wait_s, LONGEST_ASKED_S))
            self._tell_failed(f"{delivery.why}; kept, to be tried again")
            return False
        if delivery.unwritable and spans > 1:
            return self._send_parts(batch)
        if delivery.too_large and spans > 1:
            self._batch_spans = spans // 2
            return True
        self._pause_s = self._asked_s = 0.0
        if not self._remove(batch, spans):
            return False
        if delivery:
            if took_s < _SLOW_S:
                self._batch_spans = min(self._batch_spans + self._batch_spans // 8 + 1, self._max_batch_spans)
            if self._tally.sent(exact, delivery.rejected):
                _log.info("%s: spans are exported again", self._shown)
        if not delivery or delivery.why:
            if not delivery:
                self._tally.dropped(exact, counts.REJECTED)
            self._tell_failed(delivery.why)
        return True

    def _deliver(self, items: Sequence[Item]) -> Delivery:
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            return self._send(items)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            is_wrong = isinstance(error, (TypeError, ValueError))
            return Delivery(False, retry=_is_of_network(error), why=why, unwritable=is_wrong)
        finally:
            detach(token)

    def _send_parts(self, batch: list[tuple[Item, int]]) -> bool:
        """Send the first half of a batch, and leave the rest for the next, so that what can't be written is rejected alone."""
        if len(batch) > 1:
            return self._send_batch(batch[: len(batch) // 2])
        with self._lock:
            if self._queue:  # else shutdown was quicker
                self._split_first()
        return True

    def _split_first(self) -> None:
        """Have the first request in the queue be two, each with a part of its spans."""
        first, _ = self._queue.popleft()
        assert isinstance(first, EndedRequest)  # nothing else is more than one span
        self._queue.extendleft((part, part.span_count) for part in reversed(first.halves()))

    def _remove(self, batch: list[tuple[Item, int]], spans: int) -> bool:
        """Take what is settled from the queue; false if shutdown was quicker, and has counted it as dropped."""
        characters = sum(_characters(item) for item, _ in batch)
        with self._lock:
            if not self._queue:
                return False
            for _ in batch:
                self._queue.popleft()
            self._held_spans -= spans
            self._held_characters -= characters
            return True

    def _tell_failed(self, why: str) -> None:
        why = counts.told(why)
        if self._tally.failed(why):
            _log.warning("%s: spans could not be exported: %s (told once, until it works again)", self._shown, why)

    @property
    def _shown(self) -> str:
        return f"{self.name} to {self.target}" if self.target else self.name

    def _export_spans(self, items: Sequence[Item]) -> Delivery:
        if self._exporter.export(as_spans(items)) is SpanExportResult.SUCCESS:
            return Delivery(True)
        return Delivery(False, why="the exporter could not deliver them")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what is queued now, in several attempts if need be; false if there is no time for another one."""
        until = time.monotonic() + timeout_millis / 1000
        while not self._drain(until):
            if time.monotonic() + self._pause_s >= until or self._closing.wait(self._pause_s):
                return False
        return self._exporter.force_flush(timeout_millis) is not False  # many exporters return nothing

    def begin_shutdown(self) -> None:
        """Take nothing any more, and begin to send what is queued, in the thread of its own. Returns at once."""
        with self._lock:
            self._closed = True
        self._closing.set()
        self._wake.set()

    def shutdown(self, until: float | None = None) -> None:
        """Send what is queued, drop what is left at `until` (in three seconds) and shut the exporter down."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        until = time.monotonic() + self._shutdown_timeout_s if until is None else until
        self.begin_shutdown()
        if self._thread is None:
            self._drain(until)
        else:
            self._thread.join(max(0.0, until - time.monotonic()))
        self._exporter.shutdown()
        with self._lock:
            left = exact_count([item for item, _ in self._queue])
            self._held_spans = 0
            self._queue.clear()
        self._ended.set()
        self._tally.dropped(left, counts.SHUTDOWN)
        if left:
            _log.warning("%s: %s could not be sent before the end, lost", self._shown, plural(left, "span"))


def _is_of_network(error: Exception) -> bool:
    """Tell whether the backend was not reached. By name, as `requests` has such errors of its own and need not be there."""
    names = {base.__name__ for base in type(error).__mro__}
    return isinstance(error, OSError) and bool(names & _OF_NETWORK) and not isinstance(error, BrokenPipeError)


def _characters(item: Item) -> int:
    return item.characters if isinstance(item, EndedRequest) else 0


def exact_count(items: Sequence[Item]) -> int:
    """Return how many spans all items become."""
    return sum(item.exact_span_count if isinstance(item, EndedRequest) else 1 for item in items)


def as_spans(items: Sequence[Item]) -> list[ReadableSpan]:
    """Return the spans of all items."""
    spans: list[ReadableSpan] = []
    for item in items:
        if isinstance(item, EndedRequest):
            spans += item.spans()
        else:
            spans.append(item.annotated() if isinstance(item, MadeServerSpan) else item)
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
