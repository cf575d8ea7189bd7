"""Metrics that are pushed: the SDK's periodic reader, with a status to look at and a bound on its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)

from telemetry.exporters.processor import FIRST_PAUSE_S, LONGEST_ASKED_S, SHUTDOWN_TIMEOUT_S
from telemetry.exporters.status import Delivery, ExportStatus, Signal, Tally, told
from telemetry.forked import call_in_child

_log = logging.getLogger(__name__)

Judge = Callable[[bool], Delivery]
"""Tells what became of an export, given whether the SDK's exporter says that it went well."""


class PushReader(PeriodicExportingMetricReader):
    """Collects and exports every `OTEL_METRIC_EXPORT_INTERVAL`.

    What a backend may take later is sent again for as long as `OTEL_METRIC_EXPORT_TIMEOUT` says. What it sends are sums since
    the start, so an export that fails loses nothing: the next one tells as much, and more. Only where the exporter prefers
    deltas is the interval of an export that fails lost.
    """

    signal: Signal = "metrics"

    def __init__(
        self,
        exporter: MetricExporter,
        judge: Judge | None = None,
        *,
        name: str = "",
        target: str = "",
        shutdown_timeout_s: float = SHUTDOWN_TIMEOUT_S,
    ) -> None:
        self.name = name or type(exporter).__name__
        self.target = target
        self._shutdown_timeout_s = shutdown_timeout_s
        self._is_shut_down = False
        self._watched = _WatchedExporter(exporter, judge, self.name)
        super().__init__(self._watched)
        self._watched.longest_pause_s = self._export_interval_millis / 1000
        call_in_child(self._unlock)

    def _unlock(self) -> None:
        """In a forked child: the parent may have held it."""
        self._export_lock = threading.Lock()

    @property
    def status(self) -> ExportStatus:
        """How exporting goes, now."""
        return self._watched.tally.status()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Collect and export now; an export that waits to be tried again gives way."""
        self._watched.wake.set()
        return super().force_flush(timeout_millis)

    def begin_shutdown(self) -> None:
        """Begin the last export, in the thread of its own. Returns at once."""
        self._watched.begin_shutdown(self._shutdown_timeout_s)
        self._shutdown_event.set()

    def shutdown(self, timeout_millis: float = 30_000, until: float | None = None, **kwargs: Any) -> None:
        """Export once more and end, not later than `until` by the monotonic clock (in three seconds)."""
        if self._is_shut_down:
            return
        self._is_shut_down = True
        left_s = self._shutdown_timeout_s if until is None else max(0.0, until - time.monotonic())
        if not self._watched.is_closing:
            self.begin_shutdown()
        super().shutdown(min(timeout_millis, left_s * 1000), **kwargs)
        self._watched.end()


class _WatchedExporter(MetricExporter):
    """Counts what `inner` does, and has it try again what the backend may take later."""

    def __init__(self, inner: MetricExporter, judge: Judge | None, name: str) -> None:
        super().__init__(getattr(inner, "_preferred_temporality", None), getattr(inner, "_preferred_aggregation", None))
        self._inner = inner
        self._judge = judge
        self._name = name
        self.longest_pause_s = FIRST_PAUSE_S
        self.tally = Tally()
        self._start_anew()
        call_in_child(self._start_anew)

    def _start_anew(self) -> None:
        self.wake = threading.Event()
        """Set where an export that waits is to give way, to one that tells as much, and more."""
        self.is_closing = False
        self._last_until = float("inf")
        self._not_before = 0.0
        self._is_unsent = False

    def begin_shutdown(self, timeout_s: float) -> None:
        """Let the next export be the last, and be tried for so long."""
        self._last_until = time.monotonic() + timeout_s
        self.is_closing = True
        self.wake.set()

    def end(self) -> None:
        """Let no more attempts be made, and tell if there was no time for the last export."""
        self._last_until = 0.0
        self.wake.set()
        if self._is_unsent:
            _log.warning("%s: what was measured last could not be sent before the end, lost", self._name)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self.wake.clear()
        is_last = self.is_closing  # read after that: who sets it sets the event behind it
        until, pause_s = time.monotonic() + timeout_millis / 1000, FIRST_PAUSE_S
        self._is_unsent = True
        wait_s = self._not_before - time.monotonic()
        while True:
            if is_last:
                until = min(until, self._last_until)
            if wait_s > 0 and (time.monotonic() + wait_s >= until or self.wake.wait(wait_s)):
                return MetricExportResult.FAILURE
            delivery = self._attempt(metrics_data, timeout_millis, **kwargs)
            if delivery:
                self._is_unsent = False
                return MetricExportResult.SUCCESS
            if not delivery.retry:
                return MetricExportResult.FAILURE
            wait_s = pause_s if delivery.wait_s is None else min(max(delivery.wait_s, FIRST_PAUSE_S), LONGEST_ASKED_S)
            if delivery.wait_s is not None:
                self._not_before = time.monotonic() + wait_s
            if not is_last:  # at the end there is no time for pauses that grow
                pause_s = min(pause_s * 2, max(self.longest_pause_s, FIRST_PAUSE_S))

    def _attempt(self, metrics_data: MetricsData, timeout_millis: float, **kwargs: Any) -> Delivery:
        try:
            result = self._inner.export(metrics_data, timeout_millis=timeout_millis, **kwargs)
            delivery = self._delivery(result is MetricExportResult.SUCCESS)
        except Exception as error:
            delivery = Delivery(False, why=f"{type(error).__name__}: {error}")
        if delivery and self.tally.sent(count_points(metrics_data), delivery.rejected):
            _log.info("%s: metrics are exported again", self._name)
        why = told(delivery.why)
        if (not delivery or why) and self.tally.failed(why):
            _log.warning("%s: metrics could not be exported: %s (told once, until it works again)", self._name, why)
        return delivery

    def _delivery(self, succeeded: bool) -> Delivery:
        if self._judge is not None:
            return self._judge(succeeded)
        return Delivery(succeeded, why="" if succeeded else "the exporter could not deliver them")

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._inner.shutdown(timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def count_points(metrics_data: MetricsData) -> int:
    """Return how many data points there are."""
    return sum(
        len(metric.data.data_points)
        for resource in metrics_data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
