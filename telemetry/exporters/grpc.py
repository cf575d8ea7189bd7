"""OTLP over gRPC: the SDK's own exporters, with an ear on what the backend answers (extra `grpc`).

`_initialize_channel_and_stub`, which the exporters call again after a connection is lost, is the seam; where it is not as
expected, a batch that fails is not tried again by the queue, beyond what the exporter does itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import RpcError, StatusCode
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from telemetry.exporters.answer import taken
from telemetry.exporters.otlp import bound_timeout
from telemetry.exporters.processor import MAX_BODY_BYTES, DeferredSpanProcessor, Item, as_spans
from telemetry.exporters.reader import PushReader
from telemetry.exporters.status import Delivery

if TYPE_CHECKING:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.sdk.trace import ReadableSpan

    from telemetry.exporters.options import Options

_LATER: Final = frozenset(  # OTLP specification, "Failures" of OTLP/gRPC
    {
        StatusCode.CANCELLED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.ABORTED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
_SIZE: Final = frozenset({StatusCode.RESOURCE_EXHAUSTED, StatusCode.OUT_OF_RANGE})
_TOO_LARGE: Final = re.compile(r"larger than max|exceeds maximum size|too large")
"""How servers in C, Go, Java and Rust say with one of these codes that it is the size of the message."""
_ANSWER_TOO_LARGE: Final = re.compile(r"CLIENT: Received message larger than max")
_attempts: Final = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")


class _Ear:
    """A stub that tells what comes back: an answer or an error."""

    def __init__(self, stub: Any, hear: Any) -> None:
        self._stub = stub
        self._hear = hear

    def Export(self, *given: Any, **options: Any) -> Any:  # noqa: N802  # the stub's own name
        try:
            answer = self._stub.Export(*given, **options)
        except RpcError as error:
            self._hear(None, error)
            raise
        self._hear(answer, None)
        return answer


class _Listening:
    answer: Any = None
    error: Any = None

    def _initialize_channel_and_stub(self) -> None:
        endpoint = vars(self).get("_endpoint", "")  # gRPC takes no user and password, and would tell them in its errors
        vars(self)["_endpoint"] = endpoint.rpartition("@")[2]
        super()._initialize_channel_and_stub()  # type: ignore[misc]  # of the exporter beside it
        vars(self)["_client"] = _Ear(vars(self)["_client"], self._hear)

    def _hear(self, answer: Any, error: Any) -> None:
        self.answer, self.error = answer, error

    def judge(self, succeeded: bool) -> Delivery:
        """Return what became of the last batch."""
        if succeeded:
            return taken(b"" if self.answer is None else self.answer.SerializeToString())
        code = self.error.code() if self.error is not None else None
        if code is None:
            return Delivery(False, why="the exporter could not deliver them")
        said = self.error.details() or "the backend does not say why"
        if code is StatusCode.RESOURCE_EXHAUSTED and _ANSWER_TOO_LARGE.search(said):
            return Delivery(True, why=f"the backend's answer can't be read: {said}")
        asked_s = _asked_s(self.error)
        too_large = asked_s is None and code in _SIZE and _TOO_LARGE.search(said) is not None
        later = code in _LATER or (code is StatusCode.RESOURCE_EXHAUSTED and asked_s is not None)
        return Delivery(
            False, retry=later and not too_large, wait_s=asked_s, why=f"{code.name}: {said}", too_large=too_large
        )


class _TooLargeError(Exception):
    """A message of several spans is over `MAX_BODY_BYTES`."""


class ListeningSpanExporter(_Listening, OTLPSpanExporter):
    """The standard exporter of spans."""

    def send(self, items: Sequence[Item]) -> Delivery:
        """Send a batch; return whether the backend has taken it, or might later."""
        try:
            return self.judge(self.export(as_spans(items)) is SpanExportResult.SUCCESS)
        except _TooLargeError:
            return Delivery(False, too_large=True)

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        request = super()._translate_data(data)
        if len(data) > 1 and request.ByteSize() > MAX_BODY_BYTES:
            raise _TooLargeError
        return request


class ListeningMetricExporter(_Listening, OTLPMetricExporter):
    """The standard exporter of metrics."""


def processor(options: Options, name: str = "otlp") -> DeferredSpanProcessor:
    """Return a processor that exports as the standard `OTEL_EXPORTER_OTLP_*` variables say."""
    _hush()
    exporter = ListeningSpanExporter()
    bound_timeout(exporter)
    exporter._retryable_error_codes = frozenset()  # the queue tries again, when the backend asks for that
    return DeferredSpanProcessor(
        exporter,
        exporter.send,
        name=name,
        target=_target(exporter),
        shutdown_timeout_s=options.shutdown_timeout_s,
    )


def reader(options: Options) -> PushReader:
    """Return a reader that pushes metrics likewise."""
    _hush()
    exporter = ListeningMetricExporter()
    exporter._retryable_error_codes = frozenset()
    return PushReader(
        exporter,
        exporter.judge,
        name="otlp",
        target=_target(exporter),
        shutdown_timeout_s=options.shutdown_timeout_s,
    )


def _asked_s(error: Any) -> float | None:
    """Return how long the backend asks to wait, by the `RetryInfo` that comes with an error; `None` without one."""
    try:
        for key, value in error.trailing_metadata() or ():
            if key == "google.rpc.retryinfo-bin":
                return float(RetryInfo.FromString(value).retry_delay.ToTimedelta().total_seconds())
            for detail in Status.FromString(value).details if key == "grpc-status-details-bin" else ():
                asked = RetryInfo()
                if detail.Unpack(asked):
                    return float(asked.retry_delay.ToTimedelta().total_seconds())
    except (DecodeError, ValueError, OverflowError):  # a detail that can't be read says nothing
        pass
    return None


def _target(exporter: Any) -> str:
    return f"grpc {getattr(exporter, '_endpoint', '')}"


def _hush() -> None:
    """Keep the SDK from logging every attempt, unless somebody has asked for that."""
    if _attempts.level == logging.NOTSET:
        _attempts.setLevel(logging.CRITICAL)
