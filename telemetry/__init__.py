"""Exact performance figures and traces for any Flask + sqlite3 app.

from telemetry import instrument
instrument(app)
"""

from telemetry.apps import instrument, uninstrument
from telemetry.errors import InstrumentationError, SettingsError, TelemetryError
from telemetry.performance import PerformanceMetrics, get_metrics, set_metrics
from telemetry.readers import PerformanceMetricReader
from telemetry.settings import TelemetrySettings

__all__ = [
    "InstrumentationError",
    "PerformanceMetricReader",
    "PerformanceMetrics",
    "SettingsError",
    "TelemetryError",
    "TelemetrySettings",
    "get_metrics",
    "instrument",
    "set_metrics",
    "uninstrument",
]
