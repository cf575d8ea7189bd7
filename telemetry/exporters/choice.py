"""The exporters whose packages depend on what is chosen: OTLP by HTTP or gRPC, Jaeger, Prometheus."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from telemetry.exporters import endpoints

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

    from telemetry.exporters.options import Options
    from telemetry.exporters.status import Signal

JAEGER_ENDPOINT = "http://localhost:4318/v1/traces"
_JAEGER_HINT = "Jaeger takes OTLP over HTTP on port 4318; 4317 is gRPC, and 16686 has its pages"


def otlp_processor(options: Options) -> SpanProcessor:
    """Return what sends spans by OTLP, in the protocol that the standard variables say, HTTP by default."""
    if _is_grpc("traces"):
        from telemetry.exporters import grpc

        return grpc.processor(options)
    from telemetry.exporters import otlp

    return otlp.processor(options)


def otlp_reader(options: Options) -> MetricReader:
    """Return what sends metrics likewise."""
    if _is_grpc("metrics"):
        from telemetry.exporters import grpc

        return grpc.reader(options)
    from telemetry.exporters import otlp

    return otlp.reader(options)


def jaeger_processor(options: Options) -> SpanProcessor:
    """Return what sends spans to Jaeger: to the endpoint that is set, else to Jaeger's port on this machine."""
    if _is_grpc("traces"):
        from telemetry.exporters import grpc

        return grpc.processor(options, name="jaeger")
    from telemetry.exporters import otlp

    endpoint = None if endpoints.is_set("traces", os.environ) else JAEGER_ENDPOINT
    return otlp.processor(options, name="jaeger", endpoint=endpoint, hint=_JAEGER_HINT)


def prometheus_reader(_: Options) -> MetricReader:
    """Return what the page `/metrics` shows."""
    from telemetry.exporters.prometheus import ScrapedReader

    return ScrapedReader()


def jsonfile_processor(options: Options) -> SpanProcessor:
    """Return what writes spans into files."""
    from telemetry.exporters import jsonfile

    return jsonfile.processor(options)


def jsonfile_reader(options: Options) -> MetricReader:
    """Return what writes metrics into files."""
    from telemetry.exporters import jsonfile

    return jsonfile.reader(options)


def _is_grpc(signal: Signal) -> bool:
    return endpoints.protocol(signal, os.environ) == "grpc"
