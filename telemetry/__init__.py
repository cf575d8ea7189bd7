"""Exact performance figures and traces for any Flask + sqlite3 app.

from telemetry import instrument
instrument(app)
"""

from typing import TYPE_CHECKING

from telemetry.apps import instrument, uninstrument
from telemetry.errors import InstrumentationError, SettingsError, TelemetryError
from telemetry.lazy import lazily
from telemetry.performance import PerformanceMetrics, get_metrics, set_metrics
from telemetry.readers import PerformanceMetricReader
from telemetry.requests import begin_transfer
from telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from telemetry.monitor import PerformanceMetric, PerformanceMonitor, flask_route_monitor, performance_monitor

__all__ = [
    "InstrumentationError",
    "PerformanceMetric",
    "PerformanceMetricReader",
    "PerformanceMetrics",
    "PerformanceMonitor",
    "SettingsError",
    "TelemetryError",
    "TelemetrySettings",
    "begin_transfer",
    "flask_route_monitor",
    "get_metrics",
    "instrument",
    "performance_monitor",
    "set_metrics",
    "uninstrument",
]

# The diagnostic layer; its monitor is `telemetry.monitor.monitor`, because the module has the name here.
__getattr__ = lazily(
    __name__,
    dict.fromkeys(
        ("PerformanceMetric", "PerformanceMonitor", "flask_route_monitor", "performance_monitor"), "telemetry.monitor"
    ),
)
