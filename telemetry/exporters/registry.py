"""Which exporters there are, and which of them a program has chosen: checked once, at the start.

    names = ["otlp", "jsonfile"]
    chosen = choose(names)
    chosen.processors(options), chosen.readers(options)

An exporter is anything with the two methods of `Exporter`. The names of `BUILT_IN` are ours; all others are looked up in
OpenTelemetry's entry-point groups, where packages of exporters announce themselves.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable

from opentelemetry.environment_variables import OTEL_METRICS_EXPORTER, OTEL_TRACES_EXPORTER

from telemetry.errors import SettingsError
from telemetry.exporters import choice, endpoints
from telemetry.exporters.options import Options

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

    from telemetry.exporters.status import Signal
    from telemetry.settings import TelemetrySettings

_Made = TypeVar("_Made")
TRACES_GROUP: Final = "opentelemetry_traces_exporter"
METRICS_GROUP: Final = "opentelemetry_metrics_exporter"
NONE: Final = "none"
_VARIABLES: Final[Mapping[Signal, str]] = {"traces": OTEL_TRACES_EXPORTER, "metrics": OTEL_METRICS_EXPORTER}
_GROUPS: Final[Mapping[Signal, str]] = {"traces": TRACES_GROUP, "metrics": METRICS_GROUP}
PACKAGES: Final[Mapping[str, str]] = {
    "azure_monitor_opentelemetry_exporter": "azure-monitor-opentelemetry-exporter",
    "gcp_monitoring": "opentelemetry-exporter-gcp-monitoring",
    "gcp_trace": "opentelemetry-exporter-gcp-trace",
    "otlp_json_file": "opentelemetry-exporter-otlp-json-file",
    "otlp_json_http": "opentelemetry-exporter-otlp-json-http",
    "otlp_proto_grpc": "opentelemetry-exporter-otlp-proto-grpc",
    "prometheus": "opentelemetry-exporter-prometheus",
    "rich_console": "opentelemetry-exporter-richconsole",
    "zipkin": "opentelemetry-exporter-zipkin",
    "zipkin_json": "opentelemetry-exporter-zipkin-json",
    "zipkin_proto": "opentelemetry-exporter-zipkin-proto-http",
}
"""The package that brings an exporter of a known name."""


@runtime_checkable
class Exporter(Protocol):
    """What can be plugged in: for each signal, something that the SDK's provider takes, or `None`."""

    def span_processor(self, options: Options) -> SpanProcessor | None:
        """Return what spans go to; called once, when the provider is set up."""

    def metric_reader(self, options: Options) -> MetricReader | None:
        """Return what metrics go to; called once, when the provider is set up."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An exporter of this package; its functions import what they need when they are called."""

    name: str
    traces: Callable[[Options], SpanProcessor] | None = None
    metrics: Callable[[Options], MetricReader] | None = None
    check: Callable[[Mapping[str, str]], None] | None = None

    def span_processor(self, options: Options) -> SpanProcessor | None:
        return None if self.traces is None else _call(self.name, self.traces, options)

    def metric_reader(self, options: Options) -> MetricReader | None:
        return None if self.metrics is None else _call(self.name, self.metrics, options)


@dataclass(frozen=True, slots=True)
class Installed:
    """An exporter of another package, found by its name in OpenTelemetry's entry-point groups."""

    name: str
    traces: EntryPoint | None
    metrics: EntryPoint | None

    def span_processor(self, options: Options) -> SpanProcessor | None:
        if self.traces is None:
            return None
        from telemetry.exporters import plugins

        return plugins.processor(self.name, self.traces, options)

    def metric_reader(self, options: Options) -> MetricReader | None:
        if self.metrics is None:
            return None
        from telemetry.exporters import plugins

        return plugins.reader(self.name, self.metrics, options)


def _check_otlp(environment: Mapping[str, str]) -> None:
    endpoints.check(environment)
    for signal in _GROUPS:
        if endpoints.protocol(signal, environment) == "grpc":
            variable = endpoints.protocol_variable(signal, environment)
            _check_installed(f"{variable}=grpc", "opentelemetry.exporter.otlp.proto.grpc", PACKAGES["otlp_proto_grpc"])


def _check_prometheus(_: Mapping[str, str]) -> None:
    _check_installed("the exporter prometheus", "opentelemetry.exporter.prometheus", PACKAGES["prometheus"])


def _check_installed(what: str, module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise SettingsError(f"{what} needs a package that is not installed: pip install '{package}'")


BUILT_IN: Final[Mapping[str, BuiltIn]] = {
    "otlp": BuiltIn("otlp", choice.otlp_processor, choice.otlp_reader, _check_otlp),
    "jaeger": BuiltIn("jaeger", choice.jaeger_processor, None, _check_otlp),
    "prometheus": BuiltIn("prometheus", None, choice.prometheus_reader, _check_prometheus),
    "jsonfile": BuiltIn("jsonfile", choice.jsonfile_processor, choice.jsonfile_reader),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The exporters of each signal."""

    traces: tuple[Exporter, ...] = ()
    metrics: tuple[Exporter, ...] = ()


def choose(
    given: Sequence[str | Exporter] | None = None,
    environment: Mapping[str, str] = os.environ,
    *,
    name: str = "exporters",
) -> Chosen:
    """Return the exporters that `given` names, which errors call `name`, for both signals; without it, those of the standard
    variables.

    Where those are not set either, that is `otlp` for a signal with an endpoint, and nothing for one without.

    Raises:
        SettingsError: a name is unknown, or its package is missing, or what it needs is set wrongly.
    """
    if is_switched_off(environment):
        return Chosen()
    if given is not None:
        resolved = _resolve(given, name, ("traces", "metrics"), environment)
        return Chosen(resolved, resolved)
    return Chosen(_from_environment("traces", environment), _from_environment("metrics", environment))


def is_switched_off(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the environment switches the whole SDK of OpenTelemetry off, and with it all that is measured."""
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def of_settings(settings: TelemetrySettings) -> Chosen:
    """Return what `choose` does, of the setting `exporters`. Raises what it does."""
    return choose(settings.exporters or None, name=settings.called("exporters"))


def known(signals: Sequence[Signal] = ("traces", "metrics")) -> list[str]:
    """Return every name that can be chosen here and now for one of `signals`."""
    names = {name for name, exporter in BUILT_IN.items() if any(getattr(exporter, signal) for signal in signals)}
    for signal in signals:
        names |= entry_points(group=_GROUPS[signal]).names
    return sorted({*names, NONE})


def _from_environment(signal: Signal, environment: Mapping[str, str]) -> tuple[Exporter, ...]:
    variable = _VARIABLES[signal]
    names = [name.strip() for name in environment.get(variable, "").split(",") if name.strip()]
    if not names:
        names = ["otlp"] if endpoints.is_set(signal, environment) else []
    return _resolve(names, variable, (signal,), environment)


def _resolve(
    given: Sequence[str | Exporter], name: str, signals: Sequence[Signal], environment: Mapping[str, str]
) -> tuple[Exporter, ...]:
    if isinstance(given, str):
        raise SettingsError(f"{name} must be a list of names such as ['otlp'], got {given!r}")
    found: dict[object, Exporter] = {}
    for each in given:
        if not isinstance(each, str):
            if not isinstance(each, Exporter):
                raise SettingsError(
                    f"{name} must be names, or objects with span_processor() and metric_reader(), "
                    f"got {type(each).__name__}"
                )
            found[id(each)] = each
        elif each != NONE:
            found[each] = _named(each, name, signals, environment)
        elif len(given) > 1:
            raise SettingsError(f"{name} must be none alone or without it, got {', '.join(map(str, given))!r}")
    return tuple(found.values())


def _named(name: str, shown: str, signals: Sequence[Signal], environment: Mapping[str, str]) -> Exporter:
    exporter = BUILT_IN.get(name)
    if exporter is not None and any(getattr(exporter, signal) for signal in signals):
        if exporter.check is not None:
            exporter.check(environment)
        return exporter
    points = {signal: next(iter(entry_points(group=_GROUPS[signal], name=name)), None) for signal in signals}
    if any(points.values()):
        return Installed(name, points.get("traces"), points.get("metrics"))
    raise SettingsError(f"{shown} must be one or more of {', '.join(known(signals))}, got {name!r}{_remedy(name)}")


def _remedy(name: str) -> str:
    """Return a hint for the error that names an unknown exporter: what the name is for, or where it comes from."""
    for signal in _GROUPS:
        if name in known([signal]):
            return f", which is for {signal} alone"
    package = PACKAGES.get(name)
    return f"; it comes with: pip install '{package}'" if package else ""


def _call(name: str, make: Callable[[Options], _Made], options: Options) -> _Made:
    try:
        return make(options)
    except ImportError as error:
        raise SettingsError(f"the exporter {name} needs a package that is missing ({error.name})") from error
    except ValueError as error:  # the SDK's exporters say so of variables that they can't read
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"the exporter {name} can't be set up: {error}") from error
