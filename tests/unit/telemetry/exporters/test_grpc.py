"""OTLP over gRPC: what a real server answers, and what becomes of the batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.exporters import grpc as exporters
from telemetry.exporters.ended_request import EndedRequest, Source
from telemetry.exporters.options import Options
from telemetry.exporters.processor import MAX_BODY_BYTES, DeferredSpanProcessor
from tests.unit.telemetry.exporters.queries import query

SOURCE = Source(
    Resource({}), InstrumentationScope("t"), SpanLimits(), RandomIdGenerator(), lambda _: {"db.system.name": "sqlite"}
)


def ended(queries: int, sql_bytes: int = 10) -> EndedRequest:
    ids = SpanContext(1, 2, False, TraceFlags(1))
    return EndedRequest(SOURCE, ids, 0, 0, None, [query("x" * sql_bytes)] * queries)


class Backend(TraceServiceServicer, MetricsServiceServicer):
    """An OTLP receiver; `refusals` are code, words and trailing metadata of its next answers."""

    def __init__(self, port_of: grpc.Server) -> None:
        self.rejects = 0
        self.hangs = False
        self.closing = threading.Event()
        self.bodies: list[tuple[int, int]] = []
        self.refusals: list[tuple[grpc.StatusCode, str, Sequence[tuple[str, bytes]]]] = []
        add_TraceServiceServicer_to_server(self, port_of)
        add_MetricsServiceServicer_to_server(self, port_of)
        self.port = port_of.add_insecure_port("127.0.0.1:0")

    @property
    def spans(self) -> int:
        return sum(spans for spans, _ in self.bodies)

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the name in the protocol
        if self.hangs:
            self.closing.wait()
        if self.refusals:
            code, words, metadata = self.refusals.pop(0)
            context.set_trailing_metadata(metadata)
            context.abort(code, words)
        if isinstance(request, ExportMetricsServiceRequest):
            return ExportMetricsServiceResponse(
                partial_success=ExportMetricsPartialSuccess(rejected_data_points=self.rejects, error_message="nope")
            )
        assert isinstance(request, ExportTraceServiceRequest)
        spans = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
        self.bodies.append((spans, request.ByteSize()))
        return ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(rejected_spans=self.rejects, error_message="nope")
        )


@pytest.fixture
def backend() -> Iterator[Backend]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        made = Backend(server)
        server.start()
        yield made
        made.closing.set()
        server.stop(None).wait()


@pytest.fixture
def queue(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeferredSpanProcessor]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{backend.port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    made = exporters.processor(Options())
    yield made
    made.shutdown()


ASKED = RetryInfo(retry_delay=Duration(seconds=15))


def in_details(asked: RetryInfo) -> bytes:
    detail = Packed()
    detail.Pack(asked)
    return bytes(Status(details=[detail]).SerializeToString())


def test_what_is_queued_arrives_in_messages_that_a_server_takes(queue: DeferredSpanProcessor, backend: Backend) -> None:
    for _ in range(40):
        queue.emit(ended(50, 4_000))
    assert queue.force_flush()
    assert (backend.spans, queue.status.sent, queue.status.dropped) == (2000, 2000, 0)
    assert max(size for _, size in backend.bodies) <= MAX_BODY_BYTES


def test_one_span_that_is_too_large_is_lost_alone(queue: DeferredSpanProcessor, backend: Backend) -> None:
    for sql_bytes in (10, 5_000_000, 10):
        queue.emit(ended(1, sql_bytes))
    assert queue.force_flush()
    assert (backend.spans, queue.status.dropped_by, queue.status.queued) == (2, {"rejected": 1}, 0)
    assert "larger than max" in str(queue.status.last_error)


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE])
def test_what_a_server_with_a_smaller_limit_does_not_take_is_sent_in_parts(
    queue: DeferredSpanProcessor, backend: Backend, code: grpc.StatusCode
) -> None:
    words = "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes"
    backend.refusals = [(code, words, ())] * 2
    queue.emit(ended(8))
    assert queue.force_flush()
    assert (backend.spans, queue.status.dropped) == (8, 0)
    assert next(spans for spans, _ in backend.bodies) == 2


def test_a_server_that_is_exhausted_and_does_not_say_for_how_long_has_rejected_the_batch(
    queue: DeferredSpanProcessor, backend: Backend
) -> None:
    backend.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", ())]
    queue.emit(ended(3))
    assert queue.force_flush()
    assert (queue.status.dropped_by, queue.status.last_error) == ({"rejected": 3}, "RESOURCE_EXHAUSTED: quota")


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
@pytest.mark.parametrize(
    "asked",
    [
        ("grpc-status-details-bin", in_details(ASKED)),
        ("google.rpc.retryinfo-bin", ASKED.SerializeToString()),
    ],
    ids=["status", "own"],
)
def test_a_batch_waits_as_long_as_the_server_asks(
    queue: DeferredSpanProcessor, backend: Backend, code: grpc.StatusCode, asked: tuple[str, bytes]
) -> None:
    backend.refusals = [(code, "slow down", [asked])]
    queue.emit(ended(3))
    assert not queue.force_flush(900)
    assert (queue.status.queued, queue._pause_s) == (3, 15)
    assert queue.force_flush()
    assert (backend.spans, queue.status.sent) == (3, 3)


@pytest.mark.parametrize("detail", [b"\xff", in_details(RetryInfo(retry_delay=Duration(seconds=2**60)))])
def test_a_delay_that_can_not_be_read_is_none(queue: DeferredSpanProcessor, backend: Backend, detail: bytes) -> None:
    backend.refusals = [(grpc.StatusCode.UNAVAILABLE, "slow down", [("grpc-status-details-bin", detail)])]
    queue.emit(ended(3))
    assert not queue.force_flush(900)
    assert (queue.status.queued, queue._pause_s) == (3, 1)


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_password_in_the_endpoint_is_not_shown(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{scheme}user:secret@127.0.0.1:{backend.port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
    queue = exporters.processor(Options())
    queue.emit(ended(1))
    assert queue.force_flush(), queue.status.last_error
    assert (queue.target, backend.spans) == (f"grpc 127.0.0.1:{backend.port}", 1)
    queue.shutdown()


def test_the_standard_variable_bounds_an_export(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{backend.port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_BSP_EXPORT_TIMEOUT", "300")
    backend.hangs = True
    queue = exporters.processor(Options(shutdown_timeout_s=0.1))
    queue.emit(ended(1))
    began = time.monotonic()
    assert not queue.force_flush(900)
    assert time.monotonic() - began < 5
    assert "DEADLINE_EXCEEDED" in str(queue.status.last_error)
    queue.shutdown()


def test_spans_that_the_server_rejects_are_counted(queue: DeferredSpanProcessor, backend: Backend) -> None:
    backend.rejects = 2
    queue.emit(ended(3))
    assert queue.force_flush()
    assert (queue.status.sent, queue.status.dropped_by) == (1, {"rejected": 2})
    assert queue.status.last_error == "the backend has rejected 2: nope"


def test_points_that_the_server_rejects_are_counted(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{backend.port}")
    backend.rejects = 1
    reader = exporters.reader(Options())
    provider = MeterProvider([reader], shutdown_on_exit=False)
    for name in ("a", "b"):
        provider.get_meter("t").create_counter(name).add(1)
    provider.shutdown()
    assert (reader.status.sent, reader.status.dropped_by) == (1, {"rejected": 1})
    assert reader.status.last_error == "the backend has rejected 1: nope"


def test_an_answer_that_is_too_large_to_read_is_one() -> None:
    listening = exporters._Listening()
    listening.error = SimpleNamespace(
        code=lambda: grpc.StatusCode.RESOURCE_EXHAUSTED,
        details=lambda: "Stream removed (CLIENT: Received message larger than max (5000010 vs. 4194304))",
        trailing_metadata=lambda: (),
    )
    delivery = listening.judge(False)
    assert delivery.delivered
    assert "can't be read" in delivery.why
