"""The telemetry's settings, and what else would measure the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from service.doctor.finding import Finding

_DOUBLED: Final = {"flask": "FlaskInstrumentor", "sqlite3": "SQLite3Instrumentor"}
_AUTO: Final = "opentelemetry.instrumentation.auto_instrumentation"


def check_telemetry() -> Iterator[Finding]:
    """Look at the settings of the telemetry, and at what it reads the process's figures with."""
    from telemetry import InstrumentationError, SettingsError, TelemetrySettings, apps, pipeline, system

    try:
        apps.check_instrumentation(TelemetrySettings.load().instrumentation)
        pipeline.check()
    except (SettingsError, InstrumentationError) as error:
        yield Finding(
            "problem", "telemetry", f"{error}.", "Correct it, or unset it; the server does not start like this."
        )
    else:
        yield Finding("ok", "telemetry", "its settings are right.")
    if system.ProcessUsage().memory_bytes() is None:
        yield Finding("note", "telemetry", "psutil does not tell of this process: CPU and memory are left out.")


def check_instrumentors(
    environment: Mapping[str, str], modules: Mapping[str, object] | None = None, installed: set[str] | None = None
) -> Iterator[Finding]:
    """Look whether OpenTelemetry's own instrumentations would measure the same requests and queries a second time.

    They do where they are switched on in this process, or where `opentelemetry-instrument` is around the server.
    """
    modules = sys.modules if modules is None else modules
    if installed is None:
        installed = {point.name for point in entry_points(group="opentelemetry_instrumentor")}
    active = sorted(name for name in _DOUBLED if _is_active(name, modules))
    disabled = {name.strip() for name in environment.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
    automatic = sorted((_DOUBLED.keys() & installed) - disabled) if _is_automatic(environment, modules) else []
    if not active and not automatic:
        yield Finding("ok", "double counting", "no other instrumentation of Flask or sqlite3 is active.")
        return
    names = " and ".join(sorted({*active, *automatic}))
    how = "opentelemetry-instrument is around this process" if automatic else "they are switched on in this process"
    text = (
        f"OpenTelemetry's own instrumentation of {names} is active as well ({how}): "
        "what it sees is counted twice at a backend."
    )
    remedy = (
        "Start the server without opentelemetry-instrument, or set OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=flask,sqlite3; "
        "an app that calls FlaskInstrumentor or SQLite3Instrumentor must not call instrument(app) too."
    )
    yield Finding("problem", "double counting", text, remedy)


def _is_active(name: str, modules: Mapping[str, object]) -> bool:
    instrumentor = getattr(modules.get(f"opentelemetry.instrumentation.{name}"), _DOUBLED[name], None)
    made = getattr(instrumentor, "_instance", None)  # asking the class itself would make one
    return bool(getattr(made, "is_instrumented_by_opentelemetry", False))


def _is_automatic(environment: Mapping[str, str], modules: Mapping[str, object]) -> bool:
    if any(name == _AUTO or name.startswith(_AUTO + ".") for name in modules):
        return True
    folder = _AUTO.replace(".", "/")
    return any(
        folder in Path(entry).as_posix() for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry
    )
