"""The measured app, bare and in the variants that run in the project's own environment.

Nothing is imported before a variant is made: some peers want to be there before Flask and sqlite3 are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

    from _typeshed.wsgi import WSGIApplication
    from flask import Flask

MAX_QUEUE_SPANS = "1000000"


class UnavailableError(Exception):
    """A variant can't be had here; the text says why."""


class LostSpansError(Exception):
    """A variant has dropped spans, so that its figures would flatter it."""


@dataclass(slots=True)
class Measured:
    """An app and what ends a measurement of it."""

    wsgi: WSGIApplication
    flush: Callable[[], Any] = lambda: None
    """Does the work that the requests have left for later; its CPU time is that of the requests."""
    received: Callable[[], int] | None = None
    """Returns how many spans have come out at the other end since the last call; `None` if there is no such end."""
    of_requests: dict[str, Any] = field(default_factory=dict)
    """What its requests carry in the WSGI environment beside the usual."""
    more_spans: int = 0
    """Spans that the app makes itself in each request."""
    status: int = 200
    """What it answers."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The app, measured in one way."""

    name: str
    make: Callable[[], Measured]
    sees_queries: bool = True
    peer: str | None = None
    """The environment it runs in: a file of `peers/requirements`; the project's own if there is none."""


LOAD_VARIABLE = "BENCH_LOAD"
"""Names one of `load_apps.LOADS` to measure in place of the usual app."""


def make_app() -> Flask:
    """Return an app with one route that makes as many queries as its path says, each through a cursor of its own."""
    if LOAD_VARIABLE in os.environ:
        from benchmarks.load_apps import LOADS

        return LOADS[os.environ[LOAD_VARIABLE]].make()

    import sqlite3
    import threading

    from flask import Flask, g

    app = Flask("benchmark")
    of_thread = threading.local()

    @app.get("/queries/<int:number>")
    def queries(number: int) -> str:
        connection: sqlite3.Connection | None = getattr(of_thread, "connection", None)
        if connection is None:
            connection = of_thread.connection = sqlite3.connect(":memory:")
            connection.execute("CREATE TABLE videos (id INTEGER PRIMARY KEY, title TEXT)")
        g.connection = connection
        for key in range(number):
            g.connection.cursor().execute("SELECT title FROM videos WHERE id = ?", (key,)).fetchone()
        return "ok"

    return app


def bare() -> Measured:
    """The app as it is."""
    return Measured(make_app())


def hand_written() -> Measured:
    """What one writes oneself: a duration for each request, the last 100 of each endpoint."""
    from collections import defaultdict, deque
    from time import perf_counter

    from flask import Response, g, request

    app = make_app()
    durations_s: defaultdict[str | None, deque[float]] = defaultdict(lambda: deque(maxlen=100))

    @app.before_request
    def start() -> None:
        g.started = perf_counter()

    @app.after_request
    def stop(response: Response) -> Response:
        durations_s[request.endpoint].append(perf_counter() - g.started)
        return response

    return Measured(app)


def instrumented() -> Measured:
    """`instrument(app)`, nothing else."""
    from telemetry import instrument

    return Measured(instrument(make_app()))


def two_readers() -> Measured:
    """`instrument(app)` with a second metric reader beside ours."""
    _second_reader()
    return instrumented()


def batching() -> Measured:
    """`instrument(app)` with two readers and the batch processor that `stock` has, set up by the user."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = MAX_QUEUE_SPANS
    sink = _sink()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(sink))
    trace.set_tracer_provider(provider)
    measured = two_readers()
    measured.flush, measured.received = _flushing(provider), _since_last(lambda: sink.spans)
    return measured


def eager() -> Measured:
    """`instrument(app)` with two readers and a span processor of the user's own, which sees each span start and end."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

    class Counting(SpanProcessor):
        ended = 0

        def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002
            self.ended += 1

    counting = Counting()
    provider = TracerProvider()
    provider.add_span_processor(counting)
    trace.set_tracer_provider(provider)
    measured = two_readers()
    measured.received = _since_last(lambda: counting.ended)
    return measured


def exporting() -> Measured:
    """`instrument(app)` with two readers and every span sent to the receiver, in batches as by default."""
    from opentelemetry import trace

    endpoint = _endpoint("own")
    measured = two_readers()
    provider: Any = trace.get_tracer_provider()
    measured.flush, measured.received = _flushing(provider), _counted_by(endpoint)
    return measured


def exporting_notable() -> Measured:
    """`exporting` with the tail decision: requests that are slow or fail, and 1 in 100 of the rest."""
    from telemetry import SettingsError, TelemetrySettings

    try:
        TelemetrySettings.load(export="notable+1/100")
    except SettingsError as error:
        raise UnavailableError(str(error)) from error
    os.environ["LVS_TELEMETRY_EXPORT"] = "notable+1/100"
    os.environ["LVS_TELEMETRY_FAN_OUT_WARNING"] = "1000"  # else 50 queries make every request notable
    measured = exporting()
    measured.received = None  # few of them arrive, as is meant
    return measured


def stock() -> Measured:
    """OpenTelemetry's own Flask and sqlite3 instrumentation, a metric reader, a batch processor; its exporter throws away."""
    sink = _sink()
    measured = _stock(sink)
    measured.received = _since_last(lambda: sink.spans)
    return measured


def stock_exporting() -> Measured:
    """`stock` with every span sent to the receiver by the standard OTLP exporter, in batches as by default."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    endpoint = _endpoint("stock")
    measured = _stock(OTLPSpanExporter())
    measured.received = _counted_by(endpoint)
    return measured


def _stock(exporter: Any) -> Measured:
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http,database"
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = MAX_QUEUE_SPANS
    from opentelemetry import trace
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _second_reader()
    SQLite3Instrumentor().instrument()
    app = make_app()
    FlaskInstrumentor().instrument_app(app)
    return Measured(app, _flushing(provider))


def _sink() -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Sink(SpanExporter):
        """Stands for the network: spans end here."""

        spans = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.spans += len(spans)
            return SpanExportResult.SUCCESS

    return Sink()


def _second_reader() -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))


def _endpoint(side: str) -> str:
    """Set the standard variables for the receiver, and return the URL it counts the spans of `side` under."""
    try:
        url = f"{os.environ['BENCH_RECEIVER']}/{side}-{os.getpid()}"
    except KeyError as error:
        raise UnavailableError("there is no receiver") from error
    os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = url
    os.environ["OTEL_BSP_MAX_QUEUE_SIZE"] = MAX_QUEUE_SPANS
    return url


def _counted_by(url: str) -> Callable[[], int]:
    from urllib.request import urlopen

    def received() -> int:
        with urlopen(url) as answer:
            return int(answer.read())

    return received


def _flushing(provider: Any) -> Callable[[], None]:
    def flush() -> None:
        if not provider.force_flush(60_000):
            raise LostSpansError("spans could not be flushed within a minute")

    return flush


def _since_last(count: Callable[[], int]) -> Callable[[], int]:
    seen = 0

    def since_last() -> int:
        nonlocal seen
        before, seen = seen, count()
        return seen - before

    return since_last


BASELINE = "bare Flask"
HAND_WRITTEN = "hand-written hooks"
OWN = "instrument(app)"
OWN_TWO_READERS = "instrument(app), two readers"
OWN_BATCHING = "instrument(app), two readers, the app's own BatchSpanProcessor"
OWN_EXPORTING = "instrument(app), two readers, OTLP"
STOCK = "stock OpenTelemetry"
STOCK_EXPORTING = "stock OpenTelemetry, OTLP"

VARIANTS = (
    Variant(BASELINE, bare, sees_queries=False),
    Variant(HAND_WRITTEN, hand_written, sees_queries=False),
    Variant(OWN, instrumented),
    Variant(OWN_TWO_READERS, two_readers),
    Variant("instrument(app), two readers, OTLP, tail notable+1/100", exporting_notable),
    Variant(OWN_EXPORTING, exporting),
    Variant(OWN_BATCHING, batching),
    Variant("instrument(app), two readers, own span processor (eager)", eager),
    Variant(STOCK, stock),
    Variant(STOCK_EXPORTING, stock_exporting),
)
