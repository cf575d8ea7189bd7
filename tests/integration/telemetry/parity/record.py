"""Sends requests to the app of one side, and returns what its telemetry has made of each."""

from __future__ import annotations

import contextvars
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from flask import Flask
from opentelemetry import baggage, trace
from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation import dbapi
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind
from opentelemetry.trace.span import TraceState

from telemetry import PerformanceMetrics, TelemetrySettings, instrument, uninstrument
from telemetry.exporters.processor import DeferredSpanProcessor
from tests.integration.telemetry.parity.app import Play, World, add_views, identity, send
from tests.integration.telemetry.parity.traffic import Request

Side = Literal["own", "stock"]
SCHEMA = "CREATE TABLE videos (id INTEGER PRIMARY KEY, title TEXT NOT NULL)"
COLLECT_EVERY = 5  # requests: a fifth of the time of all this, if it were done after each
RESOURCE = Resource({"service.name": "parity"})


Listener = Literal["recorder", "exporter", "nobody"]
"""Who gets the spans: a processor of the app's own, an exporter behind our processor (with stock, what ends), or nobody."""


@dataclass(frozen=True)
class Setup:
    """What both sides of one batch have in common."""

    sampler: str = "always_on"
    listener: Listener = "recorder"
    propagate_exceptions: bool = False
    instrumented_last: bool = False  # after the app's own functions have been registered
    server_timing: bool = False  # tells ids, which shifts those that are given out later


@dataclass
class Outcome:
    """What one request has come to."""

    answer: dict[str, Any] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)  # sampler, start and end of spans, in their order
    metrics: list[dict[str, Any]] = field(default_factory=list)  # of the requests since metrics were last collected
    clean: bool = True  # whether the context was afterwards what it was before


class SetState(Sampler):
    """Adds an attribute and an entry of the trace state, as samplers may."""

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None, links: Any = None
    ) -> SamplingResult:
        result = ALWAYS_ON.should_sample(parent_context, trace_id, name, kind, attributes, links)
        return SamplingResult(result.decision, {"sampler.said": "yes"}, TraceState([("sampler", "1")]))

    def get_description(self) -> str:
        return "SetState"


SAMPLERS: dict[str, Sampler] = {
    "always_on": ALWAYS_ON,
    "always_off": ALWAYS_OFF,
    "parentbased_always_on": ParentBased(ALWAYS_ON),
    "parentbased_ratio": ParentBased(TraceIdRatioBased(0.5)),
    "ratio": TraceIdRatioBased(0.5),
    "sets trace state": SetState(),
}


class Ids(IdGenerator):
    """Ids that depend on the number of the request alone; those of every second request call themselves random."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, number: int) -> None:
        self._number = number
        self._random = Random(number)

    def is_trace_id_random(self) -> bool:
        return self._number % 2 == 0

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(127) + 1

    def generate_span_id(self) -> int:
        return self._random.getrandbits(63) + 1


class RecordingSampler(Sampler):
    """Notes each question it is asked."""

    def __init__(self, inner: Sampler, log: list[dict[str, Any]]) -> None:
        self._inner = inner
        self._log = log

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
    ) -> SamplingResult:
        parent = trace.get_current_span(parent_context).get_span_context()
        self._log.append(
            {
                "event": "sample",
                "role": "user" if name.startswith("user.") else role(kind),
                "name": name,
                "kind": kind,
                "trace_id": trace_id,
                "parent": identity(parent),
                "attributes": dict(attributes or {}),
                "links": len(links or ()),
            }
        )
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return self._inner.get_description()


class Exporter(SpanExporter):
    """Notes each span that is exported."""

    def __init__(self, log: list[dict[str, Any]]) -> None:
        self._log = log
        self._recorder = Recorder(log)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self._recorder.on_end(span)
            self._log[-1]["began"] = span.start_time
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class Recorder(SpanProcessor):
    """Notes each span at its start and at its end."""

    def __init__(self, log: list[dict[str, Any]]) -> None:
        self._log = log

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        noted = self._describe("start", span)
        noted["baggage"] = dict(baggage.get_all(parent_context))
        self._log.append(noted)

    def on_end(self, span: ReadableSpan) -> None:
        noted = self._describe("end", span)
        assert span.start_time is not None
        assert span.end_time is not None
        noted["takes time"] = span.end_time >= span.start_time
        noted["resource"] = span.resource is RESOURCE
        noted["status"] = (span.status.status_code.name, span.status.description)
        noted["events"] = [(event.name, dict(event.attributes or {})) for event in span.events]
        self._log.append(noted)

    @staticmethod
    def _describe(event: str, span: ReadableSpan) -> dict[str, Any]:
        assert span.context is not None
        scope = span.instrumentation_scope
        assert scope is not None
        return {
            "event": event,
            "role": "user" if scope.name == "the app" else role(span.kind),
            "name": span.name,
            "kind": span.kind,
            "id": identity(span.context),
            "parent": None if span.parent is None else identity(span.parent),
            "attributes": dict(span.attributes or {}),
            "links": [(identity(link.context), dict(link.attributes or {})) for link in span.links],
        }


def role(kind: SpanKind | None) -> str:
    """Return whether an instrumentation's span is that of a request or of a query."""
    return "query" if kind is SpanKind.CLIENT else "server"


@contextmanager
def instrumented(
    side: Side, app: Flask, tracers: TracerProvider, meters: MeterProvider, server_timing: bool
) -> Iterator[None]:
    """Instrument the app and sqlite3 by our capture, or as OpenTelemetry's instrumentors do it."""
    if side == "own":
        metrics = PerformanceMetrics(meter_provider=meters)
        settings = TelemetrySettings.load(admin=False, server_timing=server_timing)
        instrument(app, metrics=metrics, settings=settings, tracer_provider=tracers)
        try:
            yield
        finally:
            uninstrument(app)
        return
    FlaskInstrumentor.instrument_app(app, tracer_provider=tracers, meter_provider=meters)
    # What SQLite3Instrumentor does, which has no argument for the meter provider.
    name = "opentelemetry.instrumentation.sqlite3"
    dbapi.wrap_connect(name, sqlite3, "connect", "sqlite", {}, tracer_provider=tracers, meter_provider=meters)
    try:
        yield
    finally:
        dbapi.unwrap_connect(sqlite3, "connect")
        FlaskInstrumentor.uninstrument_app(app)


def outcomes(side: Side, requests: Sequence[Request], setup: Setup, seed: int = 0) -> list[Outcome]:
    """Send `requests` one after the other, each in a context of its own, and return what each has come to."""
    log: list[dict[str, Any]] = []
    ids = Ids()
    sampler = SAMPLERS[setup.sampler]
    tracers = TracerProvider(
        sampler=RecordingSampler(sampler, log) if setup.listener == "recorder" else sampler,
        resource=RESOURCE,
        id_generator=ids,
        shutdown_on_exit=False,
    )
    if setup.listener == "recorder":
        tracers.add_span_processor(Recorder(log))
    elif setup.listener == "exporter":
        exporter = Exporter(log)
        tracers.add_span_processor(DeferredSpanProcessor(exporter) if side == "own" else SimpleSpanProcessor(exporter))
    delta = AggregationTemporality.DELTA
    reader = InMemoryMetricReader(preferred_temporality={Histogram: delta, Counter: delta, UpDownCounter: delta})
    meters = MeterProvider([reader], resource=RESOURCE, shutdown_on_exit=False)
    app = Flask("tests.parity")
    app.config["PROPAGATE_EXCEPTIONS"] = setup.propagate_exceptions
    app.logger.disabled = True
    if setup.instrumented_last:
        add_views(app)
    found = []
    with instrumented(side, app, tracers, meters, setup.server_timing):
        if not setup.instrumented_last:
            add_views(app)
        connection = sqlite3.connect(":memory:", isolation_level=None)
        world = World(tracers.get_tracer("the app"), connection, app)
        connection.cursor().execute(SCHEMA)
        connection.cursor().execute("INSERT INTO videos (title) VALUES ('first')")
        read(reader)
        tracers.force_flush()
        for number, sent in enumerate(requests):
            log.clear()
            ids.restart(seed + number)
            outcome = Outcome()
            contextvars.copy_context().run(_send, sent, world, outcome)
            tracers.force_flush()
            outcome.log = list(log)
            if (number + 1) % COLLECT_EVERY == 0 or number == len(requests) - 1:
                outcome.metrics = read(reader)
            found.append(outcome)
        connection.close()
    tracers.shutdown()
    return found


def _send(sent: Request, world: World, outcome: Outcome) -> None:
    assert world.app is not None
    around = world.tracer.start_as_current_span("user.around") if sent.inside_a_span else nullcontext()
    play = Play(sent, world, outcome.seen)
    with around:
        before = get_current()
        outcome.answer = send(world.app, play)
        outcome.clean = get_current() == before


def read(reader: InMemoryMetricReader) -> list[dict[str, Any]]:
    """Return the points since the last call, one a series."""
    data = reader.get_metrics_data()
    points = []
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    noted: dict[str, Any] = {
                        "name": metric.name,
                        "unit": metric.unit,
                        "attributes": dict(point.attributes or {}),
                    }
                    if isinstance(point, HistogramDataPoint):
                        noted["count"] = point.count
                        noted["bounds"] = tuple(point.explicit_bounds)
                        noted["exemplars"] = [(one.trace_id, one.span_id) for one in point.exemplars]
                    else:
                        noted["value"] = point.value
                    points.append(noted)
    return points
