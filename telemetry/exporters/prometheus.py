"""Metrics that Prometheus fetches: what stands on the page `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import MetricsData
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from telemetry import forked
from telemetry.exporters.reader import count_points
from telemetry.exporters.status import ExportStatus, Signal, Tally

PATH = "/metrics"
WORKER_LABEL: Final = "worker"
"""Tells the series of several workers apart, by the process. One that an app has set becomes `exported_worker`."""


class Family(NamedTuple):
    """A metric with its samples, as one worker tells it another."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: list[tuple[str, dict[str, str], float, tuple[dict[str, str], float, float | None] | None]]
    """Name, labels, value and exemplar of each."""


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

    def families(self) -> list[Family]:
        """Return what `page` does, to be told to another worker."""
        with self._fetching:
            found = [
                Family(
                    metric.name,
                    metric.documentation,
                    metric.type,
                    metric.unit,
                    [
                        (each.name, dict(each.labels), float(each.value), _told(each.exemplar))
                        for each in metric.samples
                    ],
                )
                for metric in self._pages.collect()
            ]
            self._tally.sent(self._points)
        return found

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


def joint_page(of_workers: Mapping[str, Sequence[Family]], accept: str = "") -> tuple[bytes, str]:
    """Return the metrics of several workers, by what names them, in the format that a scraper accepts, and its content type."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Joined(of_workers))
    return encode(registry), content_type


class _Joined(Collector):
    """Metrics of several workers, each with a label that names the worker."""

    def __init__(self, of_workers: Mapping[str, Sequence[Family]]) -> None:
        self._of_workers = of_workers

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for worker, families in self._of_workers.items():
            for family in families:
                metric = found.get(family.name)
                if metric is None:
                    metric = found[family.name] = Metric(family.name, family.documentation, family.type, family.unit)
                for name, labels, value, exemplar in family.samples:
                    if WORKER_LABEL in labels:
                        labels[f"exported_{WORKER_LABEL}"] = labels[WORKER_LABEL]
                    labels[WORKER_LABEL] = worker
                    metric.samples.append(Sample(name, labels, value, None, exemplar and Exemplar(*exemplar)))
        yield from found.values()


def _told(exemplar: Exemplar | None) -> tuple[dict[str, str], float, float | None] | None:
    if exemplar is None:
        return None
    at = exemplar.timestamp
    return dict(exemplar.labels), exemplar.value, None if at is None else float(at)
