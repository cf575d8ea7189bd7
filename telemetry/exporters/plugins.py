"""Exporters of other packages, found by OpenTelemetry's entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.trace.export import SpanExporter

from telemetry.errors import SettingsError
from telemetry.exporters.processor import DeferredSpanProcessor
from telemetry.exporters.reader import PushReader

if TYPE_CHECKING:
    from telemetry.exporters.options import Options


def processor(name: str, point: EntryPoint, options: Options) -> DeferredSpanProcessor:
    """Return a processor around the span exporter of `point`.

    Raises:
        SettingsError: it can't be loaded or made, or is no span exporter.
    """
    exporter = _make(name, point)
    if not isinstance(exporter, SpanExporter):
        raise SettingsError(f"the exporter {name} must be a SpanExporter, got {type(exporter).__name__}")
    return DeferredSpanProcessor(
        exporter, name=name, target=_target(exporter), shutdown_timeout_s=options.shutdown_timeout_s
    )


def reader(name: str, point: EntryPoint, options: Options) -> MetricReader:
    """Return a reader around the metric exporter of `point`, or the reader that it is.

    Raises:
        SettingsError: it can't be loaded or made, or is neither.
    """
    exporter = _make(name, point)
    if isinstance(exporter, MetricReader):
        return exporter
    if not isinstance(exporter, MetricExporter):
        raise SettingsError(f"the exporter {name} must be a MetricExporter, got {type(exporter).__name__}")
    return PushReader(exporter, name=name, target=_target(exporter), shutdown_timeout_s=options.shutdown_timeout_s)


def _make(name: str, point: EntryPoint) -> Any:
    try:
        return point.load()()
    except Exception as error:
        raise SettingsError(
            f"the exporter {name} ({point.value}) can't be set up: {type(error).__name__}: {error}"
        ) from error


def _target(exporter: object) -> str:
    from telemetry.exporters.otlp import shown

    endpoint = getattr(exporter, "endpoint", None) or getattr(exporter, "_endpoint", None)
    return shown(endpoint) if isinstance(endpoint, str) else ""
