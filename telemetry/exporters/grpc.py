"""OTLP over gRPC: the SDK's own exporters, with an ear on what the backend answers (extra `grpc`).

`_initialize_channel_and_stub`, which the exporters call again after a connection is lost, is the seam; where it is not as
expected, a batch that fails is not tried again by the queue, beyond what the exporter does itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from grpc import RpcError, StatusCode
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from telemetry.exporters.processor import DeferredSpanProcessor, Item, as_spans
from telemetry.exporters.reader import PushReader
from telemetry.exporters.status import Delivery

if TYPE_CHECKING:
    from telemetry.exporters.registry import Options

_LATER: Final = frozenset(  # OTLP specification, "Failures" of OTLP/gRPC
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
        StatusCode.RESOURCE_EXHAUSTED,
    }
)
_attempts: Final = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")


class _Ear:
    """A stub that remembers the last error."""

    def __init__(self, stub: Any, hear: Any) -> None:
        self._stub = stub
        self._hear = hear

    def Export(self, *given: Any, **options: Any) -> Any:  # noqa: N802  # the stub's own name
        try:
            answer = self._stub.Export(*given, **options)
        except RpcError as error:
            self._hear(error)
            raise
        self._hear(None)
        return answer


class _Listening:
    last: Any = None

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[misc]  # of the exporter beside it
        vars(self)["_client"] = _Ear(vars(self)["_client"], self._hear)

    def _hear(self, error: Any) -> None:
        self.last = error

    def judge(self, succeeded: bool) -> Delivery:
        """Return what became of the last batch."""
        if succeeded:
            return Delivery(True)
        code = self.last.code() if self.last is not None else None
        if code is None:
            return Delivery(False, why="the exporter could not deliver them")
        why = f"{code.name}: {self.last.details() or 'the backend does not say why'}"
        return Delivery(False, retry=code in _LATER, why=why)


class ListeningSpanExporter(_Listening, OTLPSpanExporter):
    """The standard exporter of spans."""

    def send(self, items: Sequence[Item]) -> Delivery:
        """Send a batch; return whether the backend has taken it, or might later."""
        return self.judge(self.export(as_spans(items)) is SpanExportResult.SUCCESS)


class ListeningMetricExporter(_Listening, OTLPMetricExporter):
    """The standard exporter of metrics."""


def processor(options: Options, name: str = "otlp") -> DeferredSpanProcessor:
    """Return a processor that exports as the standard `OTEL_EXPORTER_OTLP_*` variables say."""
    _hush()
    exporter = ListeningSpanExporter()
    return DeferredSpanProcessor(
        exporter,
        exporter.send,
        name=name,
        target=_target(exporter),
        shutdown_timeout_s=options.shutdown_timeout_s,
    )


def reader(options: Options, name: str = "otlp") -> PushReader:
    """Return a reader that pushes metrics likewise."""
    _hush()
    exporter = ListeningMetricExporter()
    return PushReader(
        exporter,
        exporter.judge,
        name=name,
        target=_target(exporter),
        shutdown_timeout_s=options.shutdown_timeout_s,
    )


def _target(exporter: Any) -> str:
    return f"grpc {getattr(exporter, '_endpoint', '')}"


def _hush() -> None:
    """Keep the SDK from logging every attempt, unless somebody has asked for that."""
    if _attempts.level == logging.NOTSET:
        _attempts.setLevel(logging.CRITICAL)
