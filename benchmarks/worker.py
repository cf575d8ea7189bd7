"""One variant of the measured app, in a process of its own: `python -m benchmarks.worker VARIANT`.

It reads lines `QUERIES REQUESTS` and answers each with the CPU time it took, in nanoseconds a request.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask, g
from werkzeug.test import EnvironBuilder


def make_app() -> Flask:
    """Return an app with one route that makes as many queries as its path says, through one cursor each."""
    app = Flask("benchmark")
    connections: list[sqlite3.Connection] = []

    @app.get("/queries/<int:number>")
    def queries(number: int) -> str:
        if not connections:
            connections.append(sqlite3.connect(":memory:"))
            connections[0].execute("CREATE TABLE videos (id INTEGER PRIMARY KEY, title TEXT)")
        g.connection = connections[0]
        for key in range(number):
            g.connection.cursor().execute("SELECT title FROM videos WHERE id = ?", (key,)).fetchone()
        return "ok"

    return app


def bare() -> Flask:
    """The app as it is."""
    return make_app()


def instrumented() -> Flask:
    """`instrument(app)`, nothing else."""
    from telemetry import instrument

    return instrument(make_app())


def instrumented_two_readers() -> Flask:
    """`instrument(app)` with a second metric reader beside ours."""
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    return instrumented()


def _tracing() -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Sink(SpanExporter):
        """Stands for the network: spans end here."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Sink()))
    trace.set_tracer_provider(provider)


def instrumented_exporting() -> Flask:
    """`instrument(app)` with a second metric reader and every span given to an exporter."""
    _tracing()
    return instrumented_two_readers()


def stock() -> Flask:
    """OpenTelemetry's own Flask and sqlite3 instrumentation, with a batch processor and a metric reader."""
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http,database"
    from opentelemetry import metrics
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    _tracing()
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    SQLite3Instrumentor().instrument()
    app = make_app()
    FlaskInstrumentor().instrument_app(app)
    return app


VARIANTS: dict[str, Callable[[], Flask]] = {
    "bare Flask": bare,
    "instrument(app)": instrumented,
    "instrument(app), two readers": instrumented_two_readers,
    "instrument(app), two readers, spans exported": instrumented_exporting,
    "stock OpenTelemetry": stock,
}


def measure(app: Flask, queries: int, requests: int) -> float:
    """Return the CPU time of one request in nanoseconds, over all threads of the process."""
    environ = EnvironBuilder(path=f"/queries/{queries}").get_environ()

    def start_response(*_: Any) -> Any:
        return None

    gc.collect()
    started = time.process_time_ns()
    for _ in range(requests):
        body = app(dict(environ), start_response)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return (time.process_time_ns() - started) / requests


def main(variant: str) -> None:
    """Answer requests for measurements until the input ends."""
    app = VARIANTS[variant]()
    for line in sys.stdin:
        queries, requests = map(int, line.split())
        print(measure(app, queries, requests), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
