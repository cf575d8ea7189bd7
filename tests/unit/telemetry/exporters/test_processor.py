"""The queue between requests and an exporter: bounded, counted, never in the way."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.exporters import processor
from telemetry.exporters.ended_request import EndedRequest, ServerFacts, Source, environ_facts
from telemetry.exporters.processor import DeferredSpanProcessor, Item, as_spans
from telemetry.exporters.status import Delivery
from telemetry.query import MADE
from tests.unit.telemetry.exporters.queries import query

SOURCE = Source(Resource({}), InstrumentationScope("t"), SpanLimits(), RandomIdGenerator(), lambda sql: {"sql": sql})


POISON = "SELECT poison"


def ended(queries: int) -> EndedRequest:
    return EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, [query("SELECT 1")] * queries)


def of_path(path: str) -> EndedRequest:
    facts = ServerFacts(None, "GET", None, 404, None, 1, environ_facts({"PATH_INFO": path}))
    return EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, facts, ())


class Exporter(SpanExporter):
    """Keeps what it gets; `before` runs first and may block or raise."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.batches: list[list[ReadableSpan]] = []
        self.suppressed: list[object] = []
        self.is_shut_down = False
        self.result = SpanExportResult.SUCCESS
        self._before = before

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._before()
        self.suppressed.append(get_value(_SUPPRESS_INSTRUMENTATION_KEY))
        self.batches.append(list(spans))
        return self.result

    def shutdown(self) -> None:
        self.is_shut_down = True

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


Make = Callable[..., DeferredSpanProcessor]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that makes a processor; what is said to it as OTEL_BSP_* are set first."""
    made = []

    def build(exporter: SpanExporter, **variables: object) -> DeferredSpanProcessor:
        for name, value in variables.items():
            monkeypatch.setenv(f"OTEL_BSP_{name.upper()}", str(value))
        made.append(DeferredSpanProcessor(exporter, shutdown_timeout_s=0.5))
        return made[-1]

    yield build
    for each in made:
        each.shutdown()


def test_what_is_queued_leaves_in_batches_of_whole_requests(make: Make) -> None:
    exporter = Exporter()
    queue = make(exporter, max_export_batch_size=10)
    for _ in range(5):
        queue.emit(ended(4))
    assert queue.force_flush()
    assert sum(map(len, exporter.batches)) == 20
    assert max(map(len, exporter.batches)) <= 10
    assert {len(batch) % 4 for batch in exporter.batches} == {0}
    assert (queue.status.sent, queue.status.queued, queue.status.dropped) == (20, 0, 0)
    assert queue.status.last_success_unix_ns is not None


def test_a_request_over_the_size_of_a_batch_is_sent_in_parts(make: Make) -> None:
    exporter = Exporter()
    queue = make(exporter, max_export_batch_size=10)
    queue.emit(ended(25))
    assert queue.force_flush()
    assert max(len(batch) for batch in exporter.batches) <= 10
    assert len({span.context.span_id for batch in exporter.batches for span in batch if span.context}) == 25
    assert (queue.status.sent, queue.status.queued) == (25, 0)


def test_a_full_batch_wakes_the_thread(make: Make) -> None:
    sent = threading.Event()
    queue = make(Exporter(sent.set), max_export_batch_size=10, schedule_delay=3_600_000)
    queue.emit(ended(10))
    assert sent.wait(10)


@pytest.mark.parametrize("held", ["spans", "characters"])
def test_half_a_queue_wakes_the_thread_before_anything_is_dropped(
    make: Make, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setattr(processor, "_MANY_CHARACTERS", 10_000)
    sent = threading.Event()
    queue = make(Exporter(sent.set), max_queue_size=20, schedule_delay=3_600_000)
    queue.emit(ended(10) if held == "spans" else of_path("/" + "p" * 10_000))
    assert sent.wait(10)


def test_what_clients_choose_of_a_request_counts_as_what_is_held(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "MAX_QUEUE_CHARACTERS", 1000)
    queue = make(Exporter(), schedule_delay=3_600_000)
    for _ in range(3):
        queue.emit(of_path("/" + "p" * 400))
    assert queue.status.dropped_by == {"queue_full": 1}


def test_a_batch_that_is_not_full_leaves_after_the_delay(make: Make) -> None:
    sent = threading.Event()
    queue = make(Exporter(sent.set), schedule_delay=1)
    queue.emit(ended(1))
    assert sent.wait(10)


def test_what_does_not_fit_in_is_dropped_and_counted(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    is_full = threading.Event()
    exporter = Exporter(before=is_full.wait)  # it is asked when half of the queue is taken
    queue = make(exporter, max_queue_size=10, max_export_batch_size=100)
    for _ in range(5):
        queue.emit(ended(4))
    assert (queue.status.queued, queue.status.dropped) == (8, 12)
    assert caplog.text.count("the queue is full") == 1
    is_full.set()
    assert queue.force_flush()
    assert sum(map(len, exporter.batches)) == 8


def test_one_request_larger_than_the_queue_still_gets_through_an_empty_one(make: Make) -> None:
    queue = make(Exporter(), max_queue_size=10)
    queue.emit(ended(50))
    assert (queue.status.queued, queue.status.dropped) == (50, 0)


def test_spans_of_the_sdk_take_the_same_way_if_they_are_sampled(make: Make) -> None:
    exporter = Exporter()
    queue = make(exporter)
    for sampler in (None, ALWAYS_OFF):
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(queue)
        provider.get_tracer("t").start_span("work").end()
    queue.on_end(ReadableSpan("never sampled", trace.INVALID_SPAN_CONTEXT))
    assert queue.force_flush()
    assert [span.name for batch in exporter.batches for span in batch] == ["work"]


def test_nothing_is_traced_while_exporting(make: Make) -> None:
    exporter = Exporter()
    queue = make(exporter)
    queue.emit(ended(1))
    queue.force_flush(900)
    assert exporter.suppressed == [True]
    assert get_value(_SUPPRESS_INSTRUMENTATION_KEY) is None


def test_an_exporter_that_raises_or_refuses_costs_its_batch_alone(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter(lambda: failures.pop()())
    failures: list[Callable[[], None]] = [lambda: None, lambda: None, lambda: 1 / 0 and None]
    queue = make(exporter)
    queue.emit(ended(2))
    assert queue.force_flush()
    assert (queue.status.dropped, queue.status.last_error) == (2, "ZeroDivisionError: division by zero")
    assert "spans could not be exported" in caplog.text
    exporter.result = SpanExportResult.FAILURE
    queue.emit(ended(3))
    assert queue.force_flush()
    assert (queue.status.dropped, queue.status.last_error) == (5, "the exporter could not deliver them")
    exporter.result = SpanExportResult.SUCCESS
    queue.emit(ended(4))
    assert queue.force_flush()
    assert (queue.status.dropped_by, queue.status.sent) == ({"rejected": 5}, 4)
    assert caplog.text.count("could not be exported") == 1, "a failure that goes on is told once"


@pytest.mark.parametrize("poisoned", [set(), {0}, {3, 4}, {6}, set(range(7))])
def test_what_can_not_be_written_is_rejected_alone(
    make: Make, poisoned: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(Exporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for span in spans:
                "\ud800".encode() if span.attributes and "poison" in span.attributes else None
            return super().export(spans)

    exporter = Picky()
    queue = make(exporter)
    provider = TracerProvider(shutdown_on_exit=False)
    for number in range(7):
        span = provider.get_tracer("t").start_span(f"span {number}")
        if number in poisoned:
            span.set_attribute("poison", True)
        span.end()
        assert isinstance(span, ReadableSpan)
        queue.on_end(span)
    assert queue.force_flush()
    arrived = {span.name for batch in exporter.batches for span in batch}
    assert arrived == {f"span {number}" for number in range(7) if number not in poisoned}
    assert (queue.status.sent, queue.status.dropped) == (7 - len(poisoned), len(poisoned))
    assert ("surrogates not allowed" in caplog.text) is bool(poisoned)


def test_a_backend_that_goes_away_while_the_rest_is_sent_gets_it_again(make: Make) -> None:
    class Sender:
        def __init__(self) -> None:
            self.sent: list[int] = []
            self.is_up = False

        def __call__(self, items: Sequence[Item]) -> Delivery:
            if len(items) > 1:
                raise ValueError("not these together")
            if self.sent and not self.is_up:
                return Delivery(False, retry=True, why="gone")
            self.sent.append(id(items[0]))
            return Delivery(True)

    sender = Sender()
    queue = DeferredSpanProcessor(Exporter(), sender)
    items = [ended(1), ended(1)]
    for item in items:
        queue.emit(item)
    assert not queue.force_flush(900)
    assert queue.status.dropped == 0
    sender.is_up = True
    assert queue.force_flush()
    assert sender.sent == [id(item) for item in items], "each once"
    queue.shutdown()


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=12), st.integers(1, 8), st.lists(st.booleans()))
def test_whatever_becomes_of_batches_each_span_is_sent_once_in_order_or_counted(
    requests: list[tuple[int, bool]], most: int, is_down: list[bool]
) -> None:
    """Requests of so many queries, some with one that can't be written, for a backend that takes few spans and is often down."""
    arrived: list[str] = []
    moments = iter(is_down)

    def send(items: Sequence[Item]) -> Delivery:
        spans = as_spans(items)
        if any((span.attributes or {})["db.query.text"] == POISON for span in spans):
            raise ValueError("can't be written")
        if len(spans) > most:
            return Delivery(False, too_large=True)
        if next(moments, False):
            return Delivery(False, retry=True, why="down")
        arrived.extend(str((span.attributes or {})["db.query.text"]) for span in spans)
        return Delivery(True)

    queue = DeferredSpanProcessor(Exporter(), send)
    queue._start_thread = lambda: "it would send beside the test"  # type: ignore[method-assign]
    wanted, poisoned = [], 0
    for at, (number, is_poisoned) in enumerate(requests):
        texts = [f"SELECT {at}, {each}" for each in range(number)]
        wanted += texts
        poisoned += is_poisoned
        queries = [query(text) for text in (*texts, *[POISON] * is_poisoned)]
        if queries:
            queue.emit(EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, queries))
    while not queue.force_flush(900):
        pass
    assert arrived == wanted
    assert queue.status.dropped_by == ({"rejected": poisoned} if poisoned else {})
    assert (queue.status.sent, queue.status.queued) == (len(wanted), 0)
    queue.shutdown()


def test_a_flush_that_takes_too_long_says_so(make: Make) -> None:
    queue = make(Exporter())
    queue.emit(ended(2))
    assert not queue.force_flush(timeout_millis=0)
    assert queue.status.queued == 2, "they are kept"
    queue.shutdown()
    assert queue.status.sent == 2


def test_after_shutdown_all_is_dropped_and_nothing_raises(make: Make) -> None:
    exporter = Exporter()
    queue = make(exporter)
    queue.emit(ended(3))
    queue.shutdown()
    queue.shutdown()
    queue.emit(ended(2))
    assert exporter.is_shut_down
    assert (queue.status.sent, queue.status.dropped) == (3, 2)


def test_shutdown_does_not_wait_for_an_exporter_that_hangs(make: Make) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        goes_on.wait()

    queue = make(Exporter(hang), max_export_batch_size=1)
    queue._shutdown_timeout_s = 0.05
    queue.emit(ended(1))
    assert hangs.wait(10)
    queue.emit(ended(7))
    began = time.monotonic()
    queue.shutdown()
    assert time.monotonic() - began < 5
    assert (queue.status.queued, queue.status.dropped_by) == (0, {"shutdown": 8})
    goes_on.set()


class Backend:
    """Takes batches, or not, as it is told."""

    def __init__(self) -> None:
        self.answers: list[Delivery] = []
        self.taken = 0
        self.asked = threading.Semaphore(0)

    def __call__(self, items: Sequence[Item]) -> Delivery:
        answer = self.answers.pop(0) if self.answers else Delivery(True)
        if answer:
            self.taken += len(as_spans(items)) - answer.rejected
        self.asked.release()
        return answer


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def queue(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeferredSpanProcessor]:
    """Return a queue whose thread does nothing by itself."""
    for name, value in (("SCHEDULE_DELAY", 3_600_000), ("MAX_QUEUE_SIZE", 10), ("MAX_EXPORT_BATCH_SIZE", 10)):
        monkeypatch.setenv(f"OTEL_BSP_{name}", str(value))
    made = DeferredSpanProcessor(Exporter(), backend, name="otlp", target="http://collector", shutdown_timeout_s=0.5)
    monkeypatch.setattr(made, "_many_spans", 10)
    yield made
    made.shutdown()


def test_what_the_backend_can_not_take_now_is_kept_and_sent_later(
    queue: DeferredSpanProcessor, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    down = Delivery(False, retry=True, why="connection refused")
    backend.answers = [down, down]
    queue.emit(ended(4))
    for _ in range(2):
        assert not queue.force_flush(900)
        status = queue.status
        assert (status.queued, status.sent, status.dropped, status.is_failing) == (4, 0, 0, True)
    queue.emit(ended(5))
    assert queue.force_flush()
    assert (backend.taken, queue.status.sent, queue.status.queued, queue.status.failures) == (9, 9, 0, 2)
    assert not queue.status.is_failing
    assert caplog.messages == [
        "otlp to http://collector: spans could not be exported: connection refused; kept, to be tried again "
        "(told once, until it works again)",
        "otlp to http://collector: spans are exported again",
    ]


def test_a_queue_that_can_not_be_sent_stays_within_its_bound(queue: DeferredSpanProcessor, backend: Backend) -> None:
    backend.answers = [Delivery(False, retry=True)] * 5
    for _ in range(5):
        queue.emit(ended(3))
        queue.force_flush(900)
    assert (queue.status.queued, queue.status.dropped_by) == (9, {"queue_full": 6})
    assert queue.force_flush()
    assert backend.taken == 9


def test_queries_whose_spans_the_sdk_has_made_are_not_counted_again_with_a_request_that_is_dropped(
    queue: DeferredSpanProcessor, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.answers = [Delivery(False, retry=True)] * 9
    failed = (*query("INSERT")[:3], "sqlite3.IntegrityError", MADE, *query("INSERT")[5:])
    for _ in range(4):
        queue.emit(
            EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, [failed, query("SELECT")] * 2)
        )
    assert queue.status.dropped_by == {"queue_full": 4}
    assert caplog.text.count("the queue is full") == 1
    queue.shutdown()
    assert queue.status.dropped_by == {"queue_full": 4, "shutdown": 4}
    queue.emit(EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, [failed, query("SELECT")]))
    assert queue.status.dropped_by == {"queue_full": 4, "shutdown": 5}


def test_what_the_backend_refuses_is_dropped_and_the_rest_goes_on(
    queue: DeferredSpanProcessor, backend: Backend
) -> None:
    backend.answers = [Delivery(False, why="400 Bad Request"), Delivery(True, why="1 was too old", rejected=1)]
    queue.emit(ended(6))
    assert queue.force_flush()
    queue.emit(ended(6))
    assert queue.force_flush()
    assert (queue.status.sent, queue.status.dropped_by) == (5, {"rejected": 7})
    assert queue.status.last_error == "1 was too old"


@pytest.mark.parametrize(("said", "rejected"), [(1000, 6), (6, 6), (2, 2), (-5, 0)])
def test_a_backend_can_not_reject_more_than_it_was_sent(
    queue: DeferredSpanProcessor, backend: Backend, said: int, rejected: int
) -> None:
    backend.answers = [Delivery(True, why="nope", rejected=said)]
    queue.emit(ended(6))
    assert queue.force_flush()
    assert (queue.status.sent, queue.status.dropped) == (6 - rejected, rejected)


def test_a_backend_that_always_rejects_a_part_is_told_of_once_until_it_takes_a_batch_as_a_whole(
    queue: DeferredSpanProcessor, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    part = Delivery(True, why="1 was too old", rejected=1)
    backend.answers = [part, part, part, Delivery(True), part]
    told = []
    for _ in range(5):
        queue.emit(ended(2))
        assert queue.force_flush()
        told.append(len(caplog.messages))
        caplog.clear()
    assert told == [1, 0, 0, 1, 1]
    assert (queue.status.sent, queue.status.dropped, queue.status.is_failing) == (6, 4, True)


class SmallBackend(Backend):
    """Takes at most so many spans at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.batches: list[int] = []

    def __call__(self, items: Sequence[Item]) -> Delivery:
        self.batches.append(len(as_spans(items)))
        if self.batches[-1] > self.most:
            return Delivery(False, why="413 Payload Too Large", too_large=True)
        return super().__call__(items)


@pytest.mark.parametrize("requests", [[1] * 64, [64], [1, 40, 3, 20], [2, 62]])
@pytest.mark.parametrize("most", [1, 5, 63])
def test_what_is_too_large_is_sent_in_parts(requests: list[int], most: int, caplog: pytest.LogCaptureFixture) -> None:
    backend = SmallBackend(most)
    queue = DeferredSpanProcessor(Exporter(), backend)
    for queries in requests:
        queue.emit(ended(queries))
    assert queue.force_flush()
    assert (backend.taken, queue.status.sent, queue.status.queued, queue.status.dropped) == (64, 64, 0, 0)
    assert not caplog.messages, "nothing is lost"
    queue.shutdown()


def test_a_batch_that_is_halved_does_not_end_the_pause(queue: DeferredSpanProcessor, backend: Backend) -> None:
    down = Delivery(False, retry=True)
    backend.answers = [down, Delivery(False, too_large=True), down]
    queue.emit(ended(4))
    for _ in range(2):
        assert not queue.force_flush(900)
    assert queue._pause_s == 2


def test_batches_grow_again_when_a_backend_takes_them() -> None:
    backend = SmallBackend(10)
    queue = DeferredSpanProcessor(Exporter(), backend)
    for _ in range(64):
        queue.emit(ended(1))
    assert queue.force_flush()
    backend.most, backend.batches = 1000, []
    for _ in range(1000):
        queue.emit(ended(1))
    assert queue.force_flush()
    assert sum(backend.batches) == 1000
    assert max(backend.batches) > 100
    queue.shutdown()


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (ConnectionRefusedError("nobody there"), True),
        (requests.ConnectTimeout("too late"), True),
        (requests.HTTPError("400"), False),
        (requests.TooManyRedirects("31"), False),
        (BrokenPipeError("of a terminal"), False),
        (PermissionError("of a file"), False),
        (RuntimeError("odd"), False),
    ],
)
def test_what_an_exporter_could_not_bring_to_its_backend_is_kept(make: Make, error: Exception, is_kept: bool) -> None:
    errors = [error]

    def fail_once() -> None:
        if errors:
            raise errors.pop()

    exporter = Exporter(fail_once)
    queue = make(exporter)
    queue.emit(ended(3))
    queue.force_flush(900)
    queue.force_flush()
    assert (queue.status.sent, queue.status.dropped_by) == ((3, {}) if is_kept else (0, {"rejected": 3}))


@pytest.mark.parametrize(
    ("slow_s", "sizes"),
    [(0.0, [1000, 500, 250, 125, 125, 125, 125, 125]), (3600.0, [1000, 500, 250, 125, 141, 159, 179, 202, 101])],
)
def test_a_backend_that_is_slow_gets_smaller_batches_until_it_takes_them_in_time(
    slow_s: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent as large as before, a batch that takes longer than the timeout would be sent for ever."""
    monkeypatch.setattr(processor, "_SLOW_FAILURE_S", 0.0)
    monkeypatch.setattr(processor, "_SLOW_S", slow_s)
    monkeypatch.setattr(processor, "FIRST_PAUSE_S", 0.001)
    batches = []

    def send(items: Sequence[Item]) -> Delivery:
        batches.append(len(as_spans(items)))
        return Delivery(batches[-1] <= 200, retry=True, why="Read timed out")

    queue = DeferredSpanProcessor(Exporter(), send)
    queue._start_thread = lambda: "it would send beside the test"  # type: ignore[method-assign]
    for _ in range(1000):
        queue.emit(ended(1))
    assert queue.force_flush()
    assert batches[: len(sizes)] == sizes
    assert (queue.status.sent, queue.status.queued, queue.status.dropped) == (1000, 0, 0)
    queue.shutdown()


def test_batches_stay_large_enough_for_a_backend_that_was_away_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt fails after a timeout, where its packets are dropped on the way."""
    monkeypatch.setattr(processor, "_SLOW_FAILURE_S", 0.0)
    monkeypatch.setattr(processor, "FIRST_PAUSE_S", 0.0)
    batches = []

    def send(items: Sequence[Item]) -> Delivery:
        batches.append(len(items))
        return Delivery(len(batches) > 20, retry=True)

    queue = DeferredSpanProcessor(Exporter(), send)
    queue._start_thread = lambda: "it would send beside the test"  # type: ignore[method-assign]
    for _ in range(1000):
        queue.emit(ended(1))
    assert queue.force_flush()
    assert batches[19:22] == [64, 64, 73]
    queue.shutdown()


def test_a_span_that_is_too_large_alone_is_rejected_and_the_export_goes_on() -> None:
    backend = SmallBackend(0)
    queue = DeferredSpanProcessor(Exporter(), backend)
    for queries in (3, 1, 2):
        queue.emit(ended(queries))
    assert queue.force_flush()
    assert (queue.status.queued, queue.status.dropped_by) == (0, {"rejected": 6})
    assert queue.status.last_error == "413 Payload Too Large"
    queue.shutdown()


@pytest.mark.parametrize(("asked_s", "pause_s"), [(None, 1.0), (0.0, 1.0), (7.0, 7.0), (86_400.0, 300.0)])
def test_the_pause_is_the_one_that_the_backend_asks_for_within_reason(
    queue: DeferredSpanProcessor, backend: Backend, asked_s: float | None, pause_s: float
) -> None:
    backend.answers = [Delivery(False, retry=True, wait_s=asked_s)]
    queue.emit(ended(1))
    assert not queue.force_flush(900)
    assert queue._pause_s == pause_s
    assert queue.force_flush()
    assert queue._pause_s == 0


def test_pauses_double_up_to_half_a_minute(queue: DeferredSpanProcessor, backend: Backend) -> None:
    backend.answers = [Delivery(False, retry=True)] * 8
    queue.emit(ended(1))
    pauses = []
    for _ in range(7):
        queue.force_flush(900)
        pauses.append(queue._pause_s)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


class Waited(threading.Event):
    """An event that tells when somebody has begun to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.begun.set()
        return super().wait(timeout)


def test_a_pause_ends_with_the_process_and_what_is_queued_gets_a_last_chance(
    queue: DeferredSpanProcessor, backend: Backend
) -> None:
    closing = Waited()
    queue._closing = closing
    backend.answers = [Delivery(False, retry=True, wait_s=300)]
    queue.emit(ended(10))  # a full batch
    assert closing.begun.wait(10)
    queue.shutdown()
    assert (backend.taken, queue.status.dropped) == (10, 0)


def test_what_is_left_at_shutdown_is_counted(queue: DeferredSpanProcessor, backend: Backend) -> None:
    backend.answers = [Delivery(False, retry=True)] * 10
    queue.emit(ended(4))
    queue.shutdown()
    assert (backend.taken, queue.status.dropped_by, queue.status.queued) == (0, {"shutdown": 4}, 0)


def test_an_idle_queue_has_no_thread(make: Make) -> None:
    before = threading.active_count()
    queue = make(Exporter())
    assert queue.force_flush()
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_sends_its_own_spans_and_not_its_parents(make: Make, tmp_path: Path) -> None:
    exporter = Exporter()
    queue = make(exporter, schedule_delay=3_600_000)
    queue.emit(ended(3))
    child = os.fork()
    if not child:
        queue.emit(ended(2))
        queue.force_flush(900)
        (tmp_path / "child").write_text(f"{queue.status.sent}")
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "child").read_text() == "2"
    assert queue.status.queued == 3


@pytest.mark.parametrize("wrong", ["0", "-1", "many", "1.5", "٣"])
def test_a_wrong_variable_is_told_and_ignored(make: Make, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    queue = make(Exporter(), max_queue_size=wrong)
    assert f"OTEL_BSP_MAX_QUEUE_SIZE must be a whole number over 0, got {wrong!r}: 65536 applies" in caplog.text
    queue.emit(ended(100))
    assert queue.status.queued == 100


def test_statements_wait_up_to_a_length_together(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.exporters.processor.MAX_QUEUE_CHARACTERS", 1000)
    goes_on = threading.Event()
    queue = make(Exporter(goes_on.wait))  # type: ignore[arg-type]
    long = EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, [query("x" * 400)])
    for _ in range(3):
        queue.emit(long)
    assert (queue.status.queued, dict(queue.status.dropped_by)) == (2, {"queue_full": 1})
    goes_on.set()
    assert queue.force_flush()
    queue.emit(long)
    assert queue.force_flush()
    assert (queue.status.sent, queue.status.dropped) == (3, 1)


def test_a_thread_that_can_t_be_started_now_is_started_with_the_next_request(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Exporter()
    queue = make(exporter, schedule_delay=10)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        queue.emit(ended(1))
    assert (queue.status.is_failing, queue.status.last_error, queue.status.queued) == (
        True,
        "can't start new thread",
        1,
    )
    queue.emit(ended(1))
    until = time.monotonic() + 10
    while queue.status.sent < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert (queue.status.sent, queue.status.is_failing) == (2, False)


def test_without_any_thread_the_queue_is_sent_at_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Exporter()
    queue = make(exporter)
    monkeypatch.setattr(queue, "_start_thread", lambda: "can't start new thread")
    queue.emit(ended(3))
    queue.shutdown()
    assert (sum(map(len, exporter.batches)), queue.status.dropped, exporter.is_shut_down) == (3, 0, True)


def test_a_request_that_is_sent_in_parts_keeps_the_order_of_its_queries() -> None:
    backend, taken = SmallBackend(3), list[ReadableSpan]()

    def take(items: Sequence[Item]) -> Delivery:
        delivery = backend(items)
        if delivery:
            taken.extend(as_spans(items))
        return delivery

    queue = DeferredSpanProcessor(Exporter(), take)
    queries = [query(f"SELECT {number}") for number in range(8)]
    queue.emit(EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, queries))
    assert queue.force_flush()
    assert [span.attributes["sql"] for span in taken if span.attributes] == [each[0] for each in queries]
    queue.shutdown()


def test_two_exporters_that_ask_at_once_send_the_same_ids() -> None:
    class Slow(RandomIdGenerator):
        """Has the other exporter ask while this one is being answered."""

        others: tuple[Sequence[bytes], ...] = ()

        def generate_span_id(self) -> int:
            if not threading.current_thread().name.startswith("other"):
                other = threading.Thread(target=self._ask, name="other exporter")
                other.start()
                other.join(10)
            return super().generate_span_id()

        def _ask(self) -> None:
            self.others += (request.query_ids(),)

    generator = Slow()
    request = EndedRequest(
        dataclasses.replace(SOURCE, id_generator=generator),
        SpanContext(1, 2, False, TraceFlags(1)),
        *(0, 0, None, [query("SELECT 1")] * 3),
    )
    ids = request.query_ids()
    assert generator.others
    assert all(other == ids for other in generator.others)


def test_a_request_in_parts_has_the_ids_that_another_exporter_sends_of_it_as_a_whole() -> None:
    made = (*query("INSERT")[:3], "sqlite3.IntegrityError", MADE, *query("INSERT")[5:])
    queries = [query("SELECT 1"), made, query("SELECT 2"), query("SELECT 3"), made, query("SELECT 4")]
    request = EndedRequest(SOURCE, SpanContext(1, 2, False, TraceFlags(1)), 0, 0, None, queries)
    parts = [part for half in request.halves() for part in half.halves()]
    said = [[(span.context, span.attributes) for span in as_spans(items)] for items in ([request], parts)]
    assert said[0] == said[1]


def test_requests_that_keep_coming_do_not_cut_a_pause_short(make: Make) -> None:
    asked = threading.Semaphore(0)

    def fail() -> None:
        asked.release()

    queue = make(Exporter(fail), max_export_batch_size=1, schedule_delay=1)
    queue._send = lambda items: (fail(), Delivery(False, retry=True, why="down"))[1]
    queue.emit(ended(1))
    assert asked.acquire(timeout=10)
    until = time.monotonic() + 10
    while not queue._pause_s and time.monotonic() < until:
        time.sleep(0.001)
    assert queue._pause_s
    for _ in range(50):
        queue.emit(ended(1))
        time.sleep(0.002)
    assert not asked.acquire(blocking=False), "it is asked again after a second"
