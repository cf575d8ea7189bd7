"""Readers of the metrics pipeline."""

from telemetry.readers.performance import PerformanceMetricReader

__all__ = ["PerformanceMetricReader"]
