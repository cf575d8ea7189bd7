"""Metrics that Prometheus fetches: what stands on the page `/metrics`."""

from __future__ import annotations

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricsData
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from telemetry.exporters import forked
from telemetry.exporters.reader import count_points
from telemetry.exporters.status import ExportStatus, Signal, Tally

PATH = "/metrics"


class ScrapedReader(PrometheusMetricReader):
    """The standard reader with a registry of its own, and a status to look at. Thread-safe."""

    name = "prometheus"
    signal: Signal = "metrics"
    target = PATH

    def __init__(self) -> None:
        self._fetching = forked.lock()
        self._tally = Tally()
        self._points = 0
        self._is_shut_down = False
        self._pages = CollectorRegistry(auto_describe=False)
        super().__init__(registry=self._pages)

    @property
    def status(self) -> ExportStatus:
        """How often it was fetched: data points since the start, and when last."""
        return self._tally.status()

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics in the format that a scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        with self._fetching:  # the standard reader keeps what it has collected until it is written
            body = encode(self._pages)
            self._tally.sent(self._points)
        return body, content_type

    def begin_shutdown(self) -> None:
        """Do nothing: nothing is sent."""

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:
        """Have nothing to tell any more."""
        if not self._is_shut_down:
            self._is_shut_down = True
            super().shutdown(timeout_millis, **kwargs)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> None:
        self._points = count_points(metrics_data)
        super()._receive_metrics(metrics_data, timeout_millis, **kwargs)
