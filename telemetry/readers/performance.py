"""The in-memory reader that the dashboard's figures come from."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any, Final

from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics._internal.measurement_consumer import SynchronousMeasurementConsumer
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData, NumberDataPoint

from telemetry import forked, instruments
from telemetry.readers.window import WindowAggregation, WindowStore


class PerformanceMetricReader(MetricReader):
    """Keeps raw samples of the route instruments in `store`, and the last collected points of the others.

    Other readers of the same provider keep their own aggregation. Nothing runs in the background: `point_values` collects
    when it is asked. Thread-safe. After `shutdown`, or once removed from its provider, it answers from what it last saw.
    """

    def __init__(self, store: WindowStore) -> None:
        super().__init__(preferred_aggregation={Histogram: WindowAggregation(store)}, **_LIMITS)
        self.store = store
        self.unlock()
        self._data: MetricsData | None = None
        self._registered = True

    def point_values(self, instrument: str, attribute: str | None = None, *, collect: bool = True) -> dict[Any, float]:
        """Return the values of a counter or gauge of ours, keyed by the value of `attribute`.

        Points with the same value of the attribute are summed. With `collect=False` they are those of the
        last collection; and so they are where an instrument's callback asks, which runs while a reader collects.
        """
        if collect and not _is_collecting():
            with self._lock:
                if self._registered:
                    self.collect()
        data = self._data
        found: dict[Any, float] = {}
        for resource_metrics in data.resource_metrics if data else ():
            for scope_metrics in resource_metrics.scope_metrics:
                if scope_metrics.scope.name != instruments.SCOPE:  # others measure the process too
                    continue
                for metric in scope_metrics.metrics:
                    if metric.name != instrument:
                        continue
                    for point in metric.data.data_points:
                        if isinstance(point, NumberDataPoint):
                            key = (point.attributes or {}).get(attribute) if attribute else None
                            found[key] = found.get(key, 0) + point.value
        return found

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> None:  # noqa: ARG002
        self._data = metrics_data

    def unlock(self) -> None:
        """Wait for nobody: at first, and in a forked child, whose parent's threads are not there to go on."""
        self._lock = forked.lock()

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:  # noqa: ARG002
        """Collect a last time, then stop collecting."""
        with self._lock:
            if self._registered:
                self._registered = False
                if self._collect is not None:
                    self.collect()


_MOST_SERIES: Final = 20_000
"""Of one instrument: twice as many as requests make. Each may lead to a window, whose number is bounded by `max_routes`."""
_TAKES_LIMITS: Final = "cardinality_limits" in inspect.signature(MetricReader.__init__).parameters  # from SDK 1.45.2 on
_LIMITS: Final[dict[str, Any]] = {"cardinality_limits": {Histogram: _MOST_SERIES}} if _TAKES_LIMITS else {}


def _is_collecting() -> bool:
    """Tell whether the caller is a callback that a reader's collection has called: the SDK's lock can't be taken twice."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _COLLECT:
            return True
        frame = frame.f_back
    return False


_COLLECT: Final = SynchronousMeasurementConsumer.collect.__code__
