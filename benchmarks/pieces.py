"""What single decisions on the request's path are worth: each with what it stands in for."""

from __future__ import annotations

import gc
import sys
import timeit
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.apps import Measured, make_app
from benchmarks.plan import Plan
from benchmarks.report import Grid, Report, spread

ROUNDS = 9
_CALLS = 20_000
_SPANS_QUERIES = 50


class Piece(NamedTuple):
    """Two ways to do the same, as functions that do it once."""

    name: str
    before: Callable[[], object]
    now: Callable[[], object]
    times_in_one: int = 1
    """How often one call does it."""


class NamedRow(NamedTuple):
    """What a plain tuple stands in for."""

    sequence: int
    time_unix_nano: int
    value: float
    trace_id: int | None
    is_error: bool


def run(plan: Plan) -> Report:
    """Time both ways of each piece in turn."""
    report = Report("Pieces")
    calls = _CALLS // 100 if plan.quick else _CALLS
    rows, report.samples = [], []
    for piece in pieces():
        before: list[float] = []
        now: list[float] = []
        number = max(1, calls // piece.times_in_one)
        for _ in range(plan.rounds_or(ROUNDS)):
            for call, found in ((piece.before, before), (piece.now, now)):
                took_s = timeit.timeit(call, number=number)
                found.append(1e6 * took_s / number / piece.times_in_one)
        rows.append((piece.name, spread(before, "µs", 2), spread(now, "µs", 2)))
        report.samples.append({"piece": piece.name, "before_us": before, "now_us": now})
    report.grids.append(Grid("Median (quartiles) of one time", ("piece", "before", "now"), rows))
    report.notes += [_garbage(), _tracked()]
    return report


def pieces() -> list[Piece]:
    """Return the pieces, measured through the parts of telemetry that they are of."""
    return [_context(), _rule(), _rows(), _recording(), _span(), _encoding()]


def _context() -> Piece:
    from opentelemetry.context import attach, get_current, set_value

    from telemetry.requests import RECORD_KEY, serving

    record: Any = object()
    attach(set_value(RECORD_KEY, record))
    serving.set(record)
    return Piece(
        "the request that a query belongs to: OpenTelemetry's context, now a context variable",
        lambda: get_current().get(RECORD_KEY),
        serving.get,
    )


def _rule() -> Piece:
    from flask import request

    context = make_app().test_request_context("/queries/1")
    context.push()
    held = context.request
    return Piece(
        "the rule of a request: Flask's proxy, now the object that `request_context` was seen to make",
        lambda: request.url_rule,
        lambda: held.url_rule,
    )


def _rows() -> Piece:
    values = (1, 1_700_000_000_000_000_000, 0.001, None, False)
    sequence, now_ns, value, trace_id, is_error = values
    return Piece(
        "a sample in a window: a named tuple, now a plain one",
        lambda: NamedRow(sequence, now_ns, value, trace_id, is_error),
        lambda: (sequence, now_ns, value, trace_id, is_error),
    )


def _recording() -> Piece:
    from opentelemetry.context import Context
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from telemetry.binding import NO_IDS, BoundHistogram

    histogram = MeterProvider([InMemoryMetricReader()]).get_meter("pieces").create_histogram("duration")
    attributes: dict[str, Any] = {"http.request.method": "GET", "http.route": "/", "http.response.status_code": 200}
    bound, context = BoundHistogram(histogram, attributes), Context()
    bound.record(0.001, context, 1, NO_IDS, False)
    return Piece(
        "one measurement with one reader: `Histogram.record`, now bound to its attributes",
        lambda: histogram.record(0.001, attributes, context),
        lambda: bound.record(0.001, context, 1, NO_IDS, False),
    )


def _span() -> Piece:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

    from benchmarks.worker import environ_of
    from telemetry import PerformanceMetrics, TelemetrySettings
    from telemetry.instrumentation.capture import Capture
    from telemetry.instruments import Instruments
    from telemetry.requests import RequestRecord

    metrics, provider = PerformanceMetrics(), TracerProvider(shutdown_on_exit=False)
    capture = Capture(Instruments(metrics.meter_provider), provider, TelemetrySettings())
    record = RequestRecord(capture, "GET", 1, 1)
    environ, context, tracer = environ_of("/queries/1"), Context(), provider.get_tracer("pieces")
    attributes = {"http.request.method": "GET", "http.route": "/queries/<int:number>", "url.scheme": "http"}
    return Piece(
        "the span of a request that nobody listens to: the SDK's, now one that is made when it is looked at",
        lambda: tracer.start_span("GET /queries/<int:number>", context, attributes=attributes).end(),
        lambda: capture.tracing.deferred_span(context, record, environ),
    )


def _encoding() -> Piece:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    from telemetry.exporters import wire

    ended = _ended_requests()
    spans = [span for item in ended for span in item.spans()]
    return Piece(
        f"a span as OTLP, one request with {_SPANS_QUERIES} queries: the standard encoder, now bytes from the record",
        lambda: encode_spans(spans).SerializeToString(),
        lambda: wire.encode(ended),
        times_in_one=len(spans),
    )


def _ended_requests() -> list[Any]:
    """Return what ended requests leave for a processor of ours."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from benchmarks.worker import serve
    from telemetry import PerformanceMetrics, instrument, uninstrument
    from telemetry.exporters.processor import DeferredSpanProcessor

    class Kept(DeferredSpanProcessor):
        def emit(self, ended: Any, *_: Any) -> None:
            kept.append(ended)

    class Nowhere(SpanExporter):
        """Gets nothing."""

    kept: list[Any] = []
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Kept(Nowhere()))
    app = instrument(make_app(), metrics=PerformanceMetrics(), tracer_provider=provider)
    for _ in range(2):
        kept.clear()  # the first has made the table
        serve(Measured(app), f"/queries/{_SPANS_QUERIES}", 1)
    uninstrument(app)
    return kept


def _garbage() -> str:
    """Tell how much a request leaves that only the garbage collector can free."""
    from benchmarks.worker import serve
    from telemetry import PerformanceMetrics, instrument, uninstrument

    requests = 1000
    found = []
    for instrumented in (False, True):
        app = make_app()
        if instrumented:
            instrument(app, metrics=PerformanceMetrics())
        serve(Measured(app), "/queries/5", 10)
        gc.collect()
        gc.disable()
        serve(Measured(app), "/queries/5", requests)
        found.append(gc.collect() / requests)
        gc.enable()
        uninstrument(app)
    return f"objects that a request leaves in reference cycles: {found[0]:g} bare, {found[1]:g} instrumented"


def _tracked() -> str:
    """Tell whether the garbage collector goes through samples for ever."""
    now_ns = 1_700_000_000_000_000_000 + sys.getrefcount(None)
    plain, named = (1, now_ns, 0.001, None, False), NamedRow(1, now_ns, 0.001, None, False)
    gc.collect()
    tracked = f"a named tuple: {gc.is_tracked(named)}, a plain one: {gc.is_tracked(plain)}"
    return f"whether the garbage collector goes through it again after a collection: {tracked}"
