"""Every OpenTelemetry instrument and attribute that this package records, in one place.

HTTP and database names are the stable semantic conventions; what they lack stands under `telemetry.`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, MeterProvider

SCOPE: Final = "telemetry"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.40.0"

HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
OTHER: Final = "_OTHER"
"""What semantic conventions write for a value that has no name of its own."""
ERROR_TYPE: Final = "error.type"
DB_SYSTEM_NAME: Final = "db.system.name"
DB_OPERATION_NAME: Final = "db.operation.name"
DB_COLLECTION_NAME: Final = "db.collection.name"
DB_QUERY_TEXT: Final = "db.query.text"
CODE_FILE_PATH: Final = "code.file.path"
CODE_FUNCTION_NAME: Final = "code.function.name"
CODE_LINE_NUMBER: Final = "code.line.number"
CACHE_OUTCOME: Final = "telemetry.cache.outcome"
OTEL_COMPONENT_NAME: Final = "otel.component.name"
EXPORT_REASON: Final = "telemetry.export.reason"
EXPORT_SHARE: Final = "telemetry.export.share"

REQUEST_DURATION: Final = "http.server.request.duration"
OPERATION_DURATION: Final = "db.client.operation.duration"
REQUEST_OPERATIONS: Final = "telemetry.request.db_operations"
REQUEST_DB_DURATION: Final = "telemetry.request.db_duration"
REQUEST_COMMIT_DURATION: Final = "telemetry.request.db_commit_duration"
REQUEST_STATEMENTS: Final = "telemetry.request.db_statements"
REQUEST_VERDICT: Final = "telemetry.request.verdict"
LOCK_WAIT: Final = "telemetry.request.db_lock_wait"
CACHE_LOOKUPS: Final = "telemetry.cache.lookups"
FUNCTION_DURATION: Final = "telemetry.function.duration"
PROCESS_UPTIME: Final = "process.uptime"
PROCESS_CPU_UTILIZATION: Final = "process.cpu.utilization"
PROCESS_MEMORY_USAGE: Final = "process.memory.usage"
PROCESS_MEMORY_UTILIZATION: Final = "telemetry.process.memory.utilization"
PROCESS_THREADS: Final = "process.thread.count"
SPANS_EXPORTED: Final = "otel.sdk.exporter.span.exported"
SPANS_PROCESSED: Final = "otel.sdk.processor.span.processed"
SPAN_QUEUE_SIZE: Final = "otel.sdk.processor.span.queue.size"
SPAN_QUEUE_CAPACITY: Final = "otel.sdk.processor.span.queue.capacity"
POINTS_EXPORTED: Final = "otel.sdk.exporter.metric_data_point.exported"

_REQUEST_BOUNDARIES_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_OPERATION_BOUNDARIES_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_OPERATIONS_BOUNDARIES = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

Kind = Literal["histogram", "counter", "gauge", "up_down_counter"]


@dataclass(frozen=True, slots=True)
class InstrumentSpec:
    """Name, kind, unit and attributes of one instrument, as the docs show them."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    boundaries: tuple[float, ...] | None = None


TABLE: Final[tuple[InstrumentSpec, ...]] = (
    InstrumentSpec(
        REQUEST_DURATION,
        "histogram",
        "s",
        "Duration of HTTP server requests; to the first byte where the body is streamed.",
        (HTTP_REQUEST_METHOD, HTTP_ROUTE, HTTP_RESPONSE_STATUS_CODE, ERROR_TYPE),
        _REQUEST_BOUNDARIES_S,
    ),
    InstrumentSpec(
        OPERATION_DURATION,
        "histogram",
        "s",
        "Duration of database client operations.",
        (DB_SYSTEM_NAME, DB_OPERATION_NAME, DB_COLLECTION_NAME, ERROR_TYPE),
        _OPERATION_BOUNDARIES_S,
    ),
    InstrumentSpec(
        REQUEST_OPERATIONS,
        "histogram",
        "{operation}",
        "Database operations made while serving one request.",
        (HTTP_REQUEST_METHOD, HTTP_ROUTE),
        _OPERATIONS_BOUNDARIES,
    ),
    InstrumentSpec(
        LOCK_WAIT,
        "histogram",
        "s",
        "Time that a request lost to write locks of the database, of requests that lost any.",
        (HTTP_REQUEST_METHOD, HTTP_ROUTE),
        _OPERATION_BOUNDARIES_S,
    ),
    InstrumentSpec(CACHE_LOOKUPS, "counter", "{lookup}", "Lookups in the app's caches, by outcome.", (CACHE_OUTCOME,)),
    InstrumentSpec(
        FUNCTION_DURATION,
        "histogram",
        "s",
        "Duration of functions that `@performance_monitor` is on.",
        (CODE_FUNCTION_NAME, ERROR_TYPE),
        _OPERATION_BOUNDARIES_S,
    ),
    InstrumentSpec(PROCESS_UPTIME, "gauge", "s", "Time the process has been running."),
    InstrumentSpec(
        PROCESS_CPU_UTILIZATION, "gauge", "1", "CPU time of the process over elapsed time and logical CPUs, 0 to 1."
    ),
    InstrumentSpec(PROCESS_MEMORY_USAGE, "up_down_counter", "By", "Resident memory of the process."),
    InstrumentSpec(
        PROCESS_MEMORY_UTILIZATION, "gauge", "1", "Resident memory of the process over the machine's memory, 0 to 1."
    ),
    InstrumentSpec(PROCESS_THREADS, "up_down_counter", "{thread}", "Threads of the process."),
    InstrumentSpec(
        SPANS_PROCESSED,
        "counter",
        "{span}",
        "Spans that have left an exporter's queue; with `error.type`, those that were dropped: `queue_full` or `shutdown`.",
        (OTEL_COMPONENT_NAME, ERROR_TYPE),
    ),
    InstrumentSpec(
        SPANS_EXPORTED,
        "counter",
        "{span}",
        "Spans that a backend has taken; with `error.type`, those that it has `rejected`.",
        (OTEL_COMPONENT_NAME, ERROR_TYPE),
    ),
    InstrumentSpec(
        SPAN_QUEUE_SIZE, "up_down_counter", "{span}", "Spans in an exporter's queue.", (OTEL_COMPONENT_NAME,)
    ),
    InstrumentSpec(
        SPAN_QUEUE_CAPACITY, "up_down_counter", "{span}", "Spans that the queue may hold.", (OTEL_COMPONENT_NAME,)
    ),
    InstrumentSpec(
        POINTS_EXPORTED,
        "counter",
        "{data_point}",
        "Data points of metrics that a backend has taken; with `error.type`, those that it has `rejected`.",
        (OTEL_COMPONENT_NAME, ERROR_TYPE),
    ),
)
_SPECS = {spec.name: spec for spec in TABLE}


def describe(name: str) -> InstrumentSpec:
    """Return the row of `TABLE` called `name`."""
    return _SPECS[name]


class Instruments:
    """The synchronous instruments of one meter provider; creating it twice gives the same SDK instruments."""

    def __init__(self, meter_provider: MeterProvider) -> None:
        meter = meter_provider.get_meter(SCOPE, schema_url=SCHEMA_URL)

        def histogram(name: str) -> Histogram:
            spec = describe(name)
            return meter.create_histogram(
                name, spec.unit, spec.description, explicit_bucket_boundaries_advisory=spec.boundaries
            )

        self.meter = meter
        self.request_duration = histogram(REQUEST_DURATION)
        self.operation_duration = histogram(OPERATION_DURATION)
        self.request_operations = histogram(REQUEST_OPERATIONS)
        self.function_duration = histogram(FUNCTION_DURATION)
        self.lock_wait = histogram(LOCK_WAIT)
        lookups = describe(CACHE_LOOKUPS)
        self.cache_lookups: Counter = meter.create_counter(CACHE_LOOKUPS, lookups.unit, lookups.description)
