"""The providers that spans and metrics go through: the user's own where there are some, else ours."""

from __future__ import annotations

import functools
import logging
import os
import threading
import uuid
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

_log = logging.getLogger(__name__)
_lock = threading.Lock()

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"


def meter_provider(service_name: str, service_version: str | None = None) -> metrics.MeterProvider:
    """Return the process's meter provider; where the app has set none, make one, export as the environment says, and set it."""
    with _lock:
        known = metrics.get_meter_provider()
        if _is_set(known):
            return known
        made = MeterProvider(_metric_readers(), resource=resource(service_name, service_version))
        metrics.set_meter_provider(made)
        return made


def tracer_provider(service_name: str, service_version: str | None = None) -> trace.TracerProvider:
    """Return the process's tracer provider; where the app has set none, make one, export as the environment says, and set it."""
    with _lock:
        known = trace.get_tracer_provider()
        if _is_set(known):
            return known
        made = TracerProvider(resource=resource(service_name, service_version))
        for processor in _span_processors():
            made.add_span_processor(processor)
        trace.set_tracer_provider(made)
        return made


def resource(service_name: str, service_version: str | None = None) -> Resource:
    """Return who is measured: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` win over what is said here."""
    named = Resource.create()
    defaults = {"service.instance.id": _instance_id(os.getpid())}
    if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
        defaults["service.name"] = service_name
    if service_version:
        defaults["service.version"] = service_version
    kept = {key: value for key, value in defaults.items() if key == "service.name" or key not in named.attributes}
    return named.merge(Resource(kept))


@functools.lru_cache(maxsize=1)
def _instance_id(process_id: int) -> str:  # noqa: ARG001  # a forked process is an instance of its own
    return str(uuid.uuid4())


def _is_set(provider: object) -> bool:
    return type(provider).__name__ not in {"ProxyTracerProvider", "_ProxyMeterProvider"}


def _metric_readers() -> list[MetricReader]:
    if not (os.environ.get(_ENDPOINT) or os.environ.get(_METRICS_ENDPOINT)):
        return []
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # 60 ms, for exporting alone

    return [PeriodicExportingMetricReader(OTLPMetricExporter())]


def _span_processors() -> list[SpanProcessor]:
    if not (os.environ.get(_ENDPOINT) or os.environ.get(_TRACES_ENDPOINT)):
        return []
    from telemetry.exporters import otlp

    return [otlp.processor()]
