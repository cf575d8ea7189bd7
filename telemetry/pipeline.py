"""The providers that spans and metrics go through: the user's own where there are some, else ours."""

from __future__ import annotations

import functools
import os
import sys
import time
import uuid
import weakref
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics, trace
from opentelemetry.environment_variables import OTEL_PYTHON_METER_PROVIDER, OTEL_PYTHON_TRACER_PROVIDER
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL, OTEL_METRICS_EXEMPLAR_FILTER
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

from telemetry import forked
from telemetry.binding import begin_anew
from telemetry.errors import SettingsError
from telemetry.exporters import exporter_metrics
from telemetry.exporters.options import Options
from telemetry.exporters.registry import Chosen, Exporter

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from telemetry.exporters.status import Exporting

_lock = forked.lock()
_exporting: weakref.WeakKeyDictionary[object, dict[object, Any]] = weakref.WeakKeyDictionary()
"""By provider, what each exporter that was added to it has made."""
_GROUPS: Final = {
    OTEL_PYTHON_TRACER_PROVIDER: "opentelemetry_tracer_provider",
    OTEL_PYTHON_METER_PROVIDER: "opentelemetry_meter_provider",
}
"""By the variable that may name a provider, the entry points among which it is looked for."""


class _MeterProvider(MeterProvider):
    """The SDK's, which flushes and ends what was added to it later as well: the SDK's own knows the readers it was made with."""

    _is_ended = False

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        until = time.monotonic() + timeout_millis / 1000
        flushed = super().force_flush(timeout_millis)
        for reader in self._added():
            flushed = reader.force_flush(max(0.0, until - time.monotonic()) * 1000) and flushed
        return flushed

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        if self._is_ended:  # by the app; the end of the process comes here too
            return
        self._is_ended = True
        until = time.monotonic() + timeout_millis / 1000
        for reader in self._added():
            reader.shutdown(max(0.0, until - time.monotonic()) * 1000)
        super().shutdown(timeout_millis)

    def _added(self) -> Sequence[MetricReader]:
        return [made for made in list(_exporting.get(self, {}).values()) if isinstance(made, MetricReader)]


def meter_provider(service_name: str, service_version: str | None = None) -> metrics.MeterProvider:
    """Return the process's meter provider; where the app has set none, make one and set it."""
    with _lock:
        _check_names()
        known = metrics.get_meter_provider()
        if _is_set(known):
            return known
        check()
        made = _MeterProvider(resource=resource(service_name, service_version), shutdown_on_exit=False)
        metrics.set_meter_provider(made)
        _end_at_exit(made)
        return made


def meter_provider_apart(service_name: str, service_version: str | None = None) -> metrics.MeterProvider:
    """Return a new meter provider beside the process's, for figures that share none with others; `end` it in the end.

    Beside others that were made here it is a service instance of its own, so that a backend doesn't mix their sums.
    """
    with _lock:
        check()
        found = resource(service_name, service_version)
        has_others = any(isinstance(made, MeterProvider) for made in _made)
        if has_others and SERVICE_INSTANCE_ID not in OTELResourceDetector().detect().attributes:
            found = found.merge(Resource({SERVICE_INSTANCE_ID: str(uuid.uuid4())}))
        made = _MeterProvider(resource=found, shutdown_on_exit=False)
        _apart.add(made)
        _end_at_exit(made)
        return made


def end(provider: metrics.MeterProvider) -> None:
    """Send what is queued and end a provider that `meter_provider_apart` has made; leave any other alone."""
    if isinstance(provider, _MeterProvider) and provider in _apart:
        with _lock:
            _apart.discard(provider)
            _made.discard(provider)
        provider.shutdown()


def tracer_provider(service_name: str, service_version: str | None = None) -> trace.TracerProvider:
    """Return the process's tracer provider; where the app has set none, make one and set it."""
    with _lock:
        _check_names()
        known = trace.get_tracer_provider()
        if _is_set(known):
            return known
        check()
        made = TracerProvider(resource=resource(service_name, service_version), shutdown_on_exit=False)
        trace.set_tracer_provider(made)
        _end_at_exit(made)
        return made


def _check_names() -> None:
    """Raise `SettingsError` where a variable names a provider that is not there: looking for it would log a traceback."""
    for variable in _GROUPS.keys() & os.environ.keys():
        name, known = os.environ[variable], entry_points(group=_GROUPS[variable]).names
        if name not in known:
            raise SettingsError(f"{variable} must be one of {', '.join(sorted(known))}, got {name!r}")


def check() -> None:
    """Raise `SettingsError` where OpenTelemetry can't use a variable of its own: it says so when a provider is made."""
    _check_names()
    try:
        SpanLimits()
    except ValueError as error:
        raise SettingsError(str(error)) from error
    try:
        MeterProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
    except ValueError as error:
        raise SettingsError(f"{OTEL_METRICS_EXEMPLAR_FILTER} can't be used: {error}") from error
    interval = os.environ.get(OTEL_METRIC_EXPORT_INTERVAL, "").strip()
    if not _may_be_interval(interval):
        raise SettingsError(f"{OTEL_METRIC_EXPORT_INTERVAL} must be over 0, in milliseconds, got {interval!r}")


def _may_be_interval(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:  # which OpenTelemetry takes for its default
        return True


def export(
    chosen: Chosen,
    options: Options,
    tracer_provider: trace.TracerProvider,
    meter_provider: metrics.MeterProvider,
    *,
    to_foreign: bool,
) -> None:
    """Let the providers export to what is chosen: those made here, and `to_foreign` those of the app as well.

    An exporter that a provider has already is not added again.

    Raises:
        SettingsError: an exporter can't be set up.
    """
    with _lock:
        _bounds_s.add(options.shutdown_timeout_s)
        if isinstance(tracer_provider, TracerProvider):
            known = _exporting.setdefault(tracer_provider, {})
            for exporter in _new(chosen.traces, known) if to_foreign or tracer_provider in _made else ():
                processor = known[_key(exporter)] = exporter.span_processor(options)
                if processor is not None:
                    tracer_provider.add_span_processor(processor)
        if isinstance(meter_provider, MeterProvider):
            known = _exporting.setdefault(meter_provider, {})
            for exporter in _new(chosen.metrics, known) if to_foreign or meter_provider in _made else ():
                reader = known[_key(exporter)] = exporter.metric_reader(options)
                if reader is not None:
                    meter_provider.add_metric_reader(reader)
            exporter_metrics.register(meter_provider, tracer_provider, exporters_of)


def exporters_of(*providers: object) -> Sequence[Exporting]:
    """Return what the providers export to, as far as it tells of itself."""
    found = [
        made for provider in providers if provider is not None for made in list(_exporting.get(provider, {}).values())
    ]
    return [made for made in found if hasattr(made, "status") and hasattr(made, "target")]


def resource(service_name: str, service_version: str | None = None) -> Resource:
    """Return who is measured: `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` win over what is said here."""
    named = Resource.create()
    said: dict[str, AttributeValue] = {}
    if str(named.attributes.get("service.name", "")).startswith("unknown_service"):
        said["service.name"] = service_name
    if service_version and "service.version" not in named.attributes:
        said["service.version"] = service_version
    return named.merge(Resource(said))


def shutdown() -> None:
    """Send what is queued in all exporters at once, and end the providers made here, within the shortest bound set.

    A process that ends may come here twice.
    """
    if os.getpid() in _ended:
        return
    _ended.add(os.getpid())
    until = time.monotonic() + min(_bounds_s, default=Options().shutdown_timeout_s)
    providers = list(_made)
    parts = [made for provider in providers for made in _exporting.get(provider, {}).values() if made is not None]
    for part in parts:
        if hasattr(part, "begin_shutdown"):
            part.begin_shutdown()
    for part in parts:
        if hasattr(part, "begin_shutdown"):
            part.shutdown(until=until)
    for provider in providers:
        provider.shutdown()


def _is_set(provider: object) -> bool:
    return type(provider).__name__ not in {"ProxyTracerProvider", "_ProxyMeterProvider"}


def _new(exporters: Iterable[Exporter], known: dict[object, Any]) -> list[Exporter]:
    return [exporter for exporter in exporters if _key(exporter) not in known]


def _key(exporter: Exporter) -> object:
    return getattr(exporter, "name", None) or _Nameless(exporter)


class _Nameless:
    """Equal for one and the same exporter, which it keeps alive: the ids of objects that are gone come again."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Nameless) and other._exporter is self._exporter

    def __hash__(self) -> int:
        return id(self._exporter)


def _end_at_exit(provider: TracerProvider | MeterProvider) -> None:
    _made.add(provider)
    _watch_end_and_forks()


@functools.cache
def _watch_end_and_forks() -> None:
    forked.call_at_end(shutdown)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_end_with_multiprocessing_when_forked)
        os.register_at_fork(after_in_child=_begin_sums_anew)


def _end_with_multiprocessing_when_forked() -> None:
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:  # it forgets what was registered before the fork, then calls what is to be called after one
        util.register_after_fork(_made, lambda _: forked.call_at_end(shutdown))


def _begin_sums_anew() -> None:
    for provider in list(_made):
        if isinstance(provider, MeterProvider):
            begin_anew(provider)


_made: weakref.WeakSet[TracerProvider | MeterProvider] = weakref.WeakSet()
_apart: weakref.WeakSet[MeterProvider] = weakref.WeakSet()
_ended: set[int] = set()
_bounds_s: set[float] = set()
