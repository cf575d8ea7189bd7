"""Exporting itself as metrics, by the semantic conventions for the OpenTelemetry SDK."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Observation

from telemetry import forked, instruments
from telemetry.exporters import status as counts

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from telemetry.exporters.status import Exporting, ExportStatus, Signal

Look = Callable[..., Sequence["Exporting"]]
_lock = forked.lock()
_registered: weakref.WeakKeyDictionary[object, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()


def register(meter_provider: MeterProvider, tracer_provider: object, look: Look) -> None:
    """Have `meter_provider` measure the exporters that `look` returns of the two, each once, however often this is called."""
    with _lock:
        known = _registered.get(meter_provider)
        if known is not None:
            known.add(tracer_provider)
            return
        providers = _registered[meter_provider] = weakref.WeakSet([meter_provider, tracer_provider])
    meter = meter_provider.get_meter(instruments.SCOPE, schema_url=instruments.SCHEMA_URL)

    def exporters() -> Iterable[Exporting]:
        return look(*list(providers))

    def counter(name: str, signal: Signal, points: Callable[[ExportStatus], Mapping[str, int]]) -> None:
        spec = instruments.describe(name)
        create = meter.create_observable_counter if spec.kind == "counter" else meter.create_observable_up_down_counter

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for exporter in exporters():
                if exporter.signal == signal:
                    component = {instruments.OTEL_COMPONENT_NAME: f"{exporter.name}/{signal}"}
                    for error_type, number in points(exporter.status).items():
                        yield Observation(
                            number, component | ({instruments.ERROR_TYPE: error_type} if error_type else {})
                        )

        create(name, [observe], spec.unit, spec.description)

    counter(instruments.SPANS_EXPORTED, "traces", _exported)
    counter(instruments.SPANS_PROCESSED, "traces", _processed)
    counter(instruments.SPAN_QUEUE_SIZE, "traces", lambda status: {"": status.queued})
    counter(instruments.SPAN_QUEUE_CAPACITY, "traces", lambda status: {"": status.queue_limit})
    counter(instruments.POINTS_EXPORTED, "metrics", _exported)


def _exported(status: ExportStatus) -> dict[str, int]:
    rejected = status.dropped_by.get(counts.REJECTED, 0)
    return {"": status.sent} | ({counts.REJECTED: rejected} if rejected else {})


def _processed(status: ExportStatus) -> dict[str, int]:
    lost = {reason: number for reason, number in status.dropped_by.items() if reason != counts.REJECTED}
    return {"": status.sent + status.dropped_by.get(counts.REJECTED, 0)} | lost
