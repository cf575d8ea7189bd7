"""A backend that misbehaves: no request fails, nothing is lost that the queue can hold, and data flows again by itself.

A real socket server plays each fault.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flask import Flask
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from telemetry import pipeline
from telemetry.exporters.processor import DeferredSpanProcessor
from telemetry.exporters.status import ExportStatus
from tests.conftest import Instrument
from tests.integration.telemetry.test_foreign_apps import SHOP, run

CERTIFICATES = Path(__file__).with_name("certificates")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


def refusal(status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode("latin-1")


FAULTS: dict[str, bytes | None] = {
    "too many requests": refusal("429 Too Many Requests", "Retry-After: 120"),
    "unavailable": refusal("503 Service Unavailable", "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT"),
    "garbage": b"\x00\xff\x17 no HTTP at all\r\n\r\n",
    "closes in the middle": refusal("200 OK", body="x" * 100)[:-40],
    "closes at once": b"",
    "slow": None,
}
WORDS = {
    "too many requests": "the backend answers 429 Too Many Requests; kept, to be tried again",
    "unavailable": "the backend answers 503 Service Unavailable; kept, to be tried again",
    "garbage": "does not speak HTTP/1.1",
    "closes in the middle": "Connection broken",
    "closes at once": "closed",
    "slow": "timed out",
}


class Backend:
    """An OTLP receiver on a port of loopback that answers as it is told; `None` is no answer at all."""

    def __init__(self, tls: bool = False) -> None:
        self.answer: bytes | None = OK
        self.answers: list[bytes] = []
        """What it answers first."""
        self.requests = 0
        self.spans: set[bytes] = set()
        self.duplicates = 0
        self.connections = 0
        self._tls = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATES / "untrusted.pem", CERTIFICATES / "untrusted.key")
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(10)
            peer = connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)
            with peer:
                peer.settimeout(0.1)
                while not self._closing.is_set() and self._serve_one(peer):
                    pass

    def _serve_one(self, peer: socket.socket) -> bool:
        request = self._read(peer)
        if request is None:
            return False
        self.requests += 1
        answer = self.answers.pop(0) if self.answers else self.answer
        if answer is None:
            self._closing.wait()
            return False
        if answer == OK:
            self._keep(request)
        peer.sendall(answer)
        return answer.startswith(b"HTTP/1.1 ") and not answer.endswith(b"x")

    def _read(self, peer: socket.socket) -> bytes | None:
        data = b""
        while not self._closing.is_set():
            head, found, body = data.partition(b"\r\n\r\n")
            if found:
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                if len(body) >= length:
                    return body
            try:
                more = peer.recv(65536)
            except TimeoutError:
                continue
            if not more:
                return None
            data += more
        return None

    def _keep(self, body: bytes) -> None:
        message = ExportTraceServiceRequest.FromString(body)
        for resource in message.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.duplicates += span.span_id in self.spans
                    self.spans.add(span.span_id)


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.close()


class World:
    """An app whose spans go to a backend, and what can be asked of it."""

    def __init__(self, app: Flask, tracer_provider: TracerProvider, reader: InMemoryMetricReader) -> None:
        self._client = app.test_client()
        self.tracer_provider = tracer_provider
        self.reader = reader

    def serve(self, requests: int) -> None:
        """Serve so many requests, each of which makes one span."""
        assert {self._client.get("/").status_code for _ in range(requests)} == {200}

    @property
    def status(self) -> ExportStatus:
        return pipeline.exporters_of(self.tracer_provider)[0].status

    def row(self) -> dict[str, object]:
        return dict(self._client.get("/api/admin/performance/exporters").json["exporters"][0])

    def panel(self) -> str:
        return self._client.get("/admin/performance/live").text


@pytest.fixture
def world(instrumented: Instrument, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], World]]:
    """Return a function that makes an app that exports to an address; its queue sends only when it is flushed."""
    made: list[TracerProvider | MeterProvider] = []

    def make(endpoint: str) -> World:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "50")
        reader = InMemoryMetricReader()
        tracer_provider = TracerProvider(shutdown_on_exit=False)
        meter_provider = MeterProvider([reader], shutdown_on_exit=False)
        made.extend((tracer_provider, meter_provider))
        app = Flask("world")
        app.add_url_rule("/", view_func=lambda: "hello")
        instrumented(app, tracer_provider=tracer_provider, meter_provider=meter_provider, exporters=[OnlyTraces()])
        return World(app, tracer_provider, reader)

    yield make
    for provider in made:
        for queue in pipeline.exporters_of(provider) if isinstance(provider, TracerProvider) else ():
            queue._shutdown_timeout_s = 0.1  # type: ignore[attr-defined]
        provider.shutdown()


class OnlyTraces:
    """OTLP for spans alone."""

    name = "otlp"

    def span_processor(self, options: object) -> object:
        from telemetry.exporters import otlp
        from telemetry.exporters.options import Options

        assert isinstance(options, Options)
        return otlp.processor(options)

    def metric_reader(self, _: object) -> None:
        return None


@pytest.mark.parametrize("fault", FAULTS)
def test_what_could_not_be_sent_is_sent_when_the_backend_is_well_again(
    fault: str, backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = FAULTS[fault]
    app.serve(20)
    assert not app.tracer_provider.force_flush(900)
    status = app.status
    assert (status.queued, status.sent, status.dropped, status.is_failing) == (20, 0, 0, True)
    assert WORDS[fault] in str(status.last_error)
    app.serve(20)
    assert not app.tracer_provider.force_flush(900)
    assert app.status.queued == 40
    backend.answer = OK
    assert app.tracer_provider.force_flush(5000)
    assert (len(backend.spans), backend.duplicates) == (40, 0)
    status = app.status
    assert (status.queued, status.sent, status.dropped, status.is_failing) == (0, 40, 0, False)


def test_an_attempt_is_one_request_and_told_at_once(backend: Backend, world: Callable[[str], World]) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = refusal("503 Service Unavailable")
    app.serve(1)
    for attempt in (1, 2):
        assert not app.tracer_provider.force_flush(900)
        assert (backend.requests, app.status.failures) == (attempt, attempt)


def test_a_connection_that_was_closed_while_nothing_was_sent_is_no_failure(
    backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    for _ in range(2):
        backend.answers = [b""]
        app.serve(1)
        assert app.tracer_provider.force_flush(5000)
    assert (len(backend.spans), backend.requests, app.status.failures) == (2, 4, 0)


def test_a_queue_that_is_full_drops_the_newest_and_every_place_tells_how_many(
    backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = FAULTS["unavailable"]
    app.serve(80)
    assert not app.tracer_provider.force_flush(900)
    row = app.row()
    assert (row["queued"], row["queue_limit"], row["dropped"], row["dropped_by"]) == (50, 50, 30, {"queue_full": 30})
    assert row["target"] == f"http://127.0.0.1:{backend.port}/v1/traces"
    assert row["last_success"] is None
    panel = app.panel()
    assert "50 of 50" in panel
    assert "30 did not fit into the queue" in panel
    assert "the backend answers 503 Service Unavailable; kept, to be tried again" in panel
    assert measured(app.reader, "otel.sdk.processor.span.processed") == {"": 0, "queue_full": 30}
    assert measured(app.reader, "otel.sdk.processor.span.queue.size") == {"": 50}
    backend.answer = OK
    assert app.tracer_provider.force_flush(5000)
    assert len(backend.spans) == 50
    assert measured(app.reader, "otel.sdk.exporter.span.exported") == {"": 50}


def measured(reader: InMemoryMetricReader, name: str) -> dict[str, int]:
    """Return the values of an instrument by `error.type`."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        str((point.attributes or {}).get("error.type", "")): point.value  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    }


def test_what_the_backend_refuses_is_not_tried_again(backend: Backend, world: Callable[[str], World]) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = refusal("400 Bad Request", "Content-Type: text/plain", body="no")
    app.serve(20)
    assert app.tracer_provider.force_flush(5000)
    assert (app.status.queued, app.status.dropped_by) == (0, {"rejected": 20})
    assert app.status.last_error == "the backend answers 400 Bad Request: no"
    backend.answer = OK
    app.serve(5)
    assert app.tracer_provider.force_flush(5000)
    assert len(backend.spans) == 5


def test_a_body_that_is_too_large_for_the_backend_is_sent_in_parts(
    backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answers = [refusal("413 Request Entity Too Large")] * 3
    app.serve(20)
    assert app.tracer_provider.force_flush(5000)
    assert (app.status.queued, app.status.sent, app.status.dropped) == (0, 20, 0)
    assert (len(backend.spans), backend.duplicates) == (20, 0)


@pytest.mark.parametrize(("said", "rejected"), [(1000, 20), (3, 3), (-5, 0)])
def test_a_part_that_the_backend_rejects_is_counted(
    backend: Backend, world: Callable[[str], World], said: int, rejected: int
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    partial = ExportTracePartialSuccess(rejected_spans=said, error_message="too old")
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString().decode("latin-1")
    backend.answer = refusal("200 OK", "Content-Type: application/x-protobuf", body=body)
    app.serve(20)
    assert app.tracer_provider.force_flush(5000)
    assert (app.status.sent, app.status.dropped) == (20 - rejected, rejected)
    assert (app.status.last_error == f"the backend has rejected {said}: too old") is bool(rejected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_send_on_the_connection_of_its_parent(
    backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    app.serve(1)
    assert app.tracer_provider.force_flush(5000)
    child = os.fork()
    if not child:
        app.serve(2)
        os._exit(0 if app.tracer_provider.force_flush(5000) else 1)
    assert os.waitpid(child, 0)[1] == 0
    app.serve(4)
    assert app.tracer_provider.force_flush(5000)
    assert (len(backend.spans), backend.connections) == (7, 2)


def test_a_web_page_is_no_otlp_receiver(backend: Backend, world: Callable[[str], World]) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = refusal("200 OK", "Content-Type: text/html; charset=utf-8", body="<h1>Hello</h1>")
    app.serve(1)
    app.tracer_provider.force_flush(5000)
    assert app.status.sent == 0
    assert app.status.last_error == "what answers is no OTLP receiver: 200, text/html; charset=utf-8"


def test_nobody_listens(world: Callable[[str], World]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = world(f"http://127.0.0.1:{port}/v1/traces")
    app.serve(20)
    assert not app.tracer_provider.force_flush(900)
    assert (app.status.queued, app.status.dropped) == (20, 0)
    assert "Connection refused" in str(app.status.last_error)


def test_a_name_that_does_not_resolve(world: Callable[[str], World]) -> None:
    app = world("http://collector.invalid:4318/v1/traces")
    app.serve(20)
    assert not app.tracer_provider.force_flush(900)
    assert (app.status.queued, app.status.dropped) == (20, 0)
    assert "resolve" in str(app.status.last_error)


def test_a_certificate_that_is_not_trusted(world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(tls=True)
    try:
        app = world(f"https://127.0.0.1:{backend.port}/v1/traces")
        app.serve(20)
        assert not app.tracer_provider.force_flush(900)
        assert (app.status.queued, app.status.sent) == (20, 0)
        assert "certificate verify failed" in str(app.status.last_error)
    finally:
        backend.close()


def test_a_certificate_that_is_trusted_by_the_standard_variable(
    world: Callable[[str], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(CERTIFICATES / "untrusted.pem"))
    backend = Backend(tls=True)
    try:
        app = world(f"https://127.0.0.1:{backend.port}/v1/traces")
        app.serve(20)
        assert app.tracer_provider.force_flush(5000), app.status.last_error
        assert len(backend.spans) == 20
    finally:
        backend.close()


@pytest.mark.parametrize("fault", ["slow", "unavailable", "closes at once"])
def test_shutdown_ends_within_its_bound_and_counts_what_is_lost(
    fault: str, backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = FAULTS[fault]
    app.serve(20)
    began = time.monotonic()
    app.tracer_provider.shutdown()
    assert time.monotonic() - began < 3 + 2
    assert (app.status.queued, app.status.sent, app.status.dropped_by) == (0, 0, {"shutdown": 20})


def test_what_is_lost_at_the_end_is_logged(
    backend: Backend, world: Callable[[str], World], caplog: pytest.LogCaptureFixture
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = FAULTS["too many requests"]  # and asks for two minutes, which there are not
    app.serve(3)
    app.tracer_provider.shutdown()
    assert [record.getMessage().partition("v1/traces: ")[2] for record in caplog.records] == [
        "spans could not be exported: the backend answers 429 Too Many Requests; kept, to be tried again "
        "(told once, until it works again)",
        "3 spans could not be sent before the end, lost",
    ]


def test_a_flush_tries_again_while_there_is_time(backend: Backend, world: Callable[[str], World]) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answers = [refusal("503 Service Unavailable")]
    app.serve(20)
    assert app.tracer_provider.force_flush(5000)
    assert (len(backend.spans), backend.requests) == (20, 2)


def test_after_a_long_outage_shutdown_does_not_wait_for_the_pause_of_it(
    backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answers = [refusal("503 Service Unavailable")] * 4
    app.serve(20)
    for _ in range(3):
        assert not app.tracer_provider.force_flush(900)
    queue = pipeline.exporters_of(app.tracer_provider)[0]
    assert isinstance(queue, DeferredSpanProcessor)
    assert queue._pause_s == 4
    app.tracer_provider.shutdown()
    assert (len(backend.spans), backend.requests, app.status.dropped) == (20, 5, 0)


def test_a_backend_that_asks_for_more_time_than_there_is_is_asked_once_more_at_the_end(
    backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answer = refusal("503 Service Unavailable", "Retry-After: 100")
    app.serve(20)
    assert not app.tracer_provider.force_flush(900)
    app.tracer_provider.shutdown()
    assert (backend.requests, app.status.dropped_by) == (2, {"shutdown": 20})


def test_shutdown_sends_what_is_queued_and_tries_again_while_there_is_time(
    backend: Backend, world: Callable[[str], World]
) -> None:
    app = world(f"http://127.0.0.1:{backend.port}/v1/traces")
    backend.answers = [refusal("503 Service Unavailable")]
    app.serve(20)
    app.tracer_provider.shutdown()
    assert (len(backend.spans), app.status.sent, app.status.dropped) == (20, 20, 0)


def test_a_process_whose_first_export_is_its_last_ends_quietly(backend: Backend, tmp_path: Path) -> None:
    program = """
    from flask import Flask
    from telemetry import instrument
    app = Flask("short")
    app.add_url_rule("/", view_func=lambda: "hello")
    instrument(app)
    app.test_client().get("/")
    print("{}")
    """
    run(tmp_path, program, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://127.0.0.1:{backend.port}/v1/traces")
    assert len(backend.spans) == 1


@pytest.mark.parametrize("fault", ["slow", "unavailable"])
def test_a_process_whose_backend_is_not_well_ends_within_one_bound_for_spans_and_metrics(
    fault: str, backend: Backend, tmp_path: Path
) -> None:
    backend.answer = FAULTS[fault]
    program = (
        SHOP
        + """
    import logging, time
    logging.disable(logging.CRITICAL)
    from telemetry import instrument, pipeline
    app = instrument(create_app())
    assert app.test_client().get("/shop/items").status_code == 200
    began = time.monotonic()
    pipeline.shutdown()
    print(json.dumps({"s": time.monotonic() - began}))
    """
    )
    found = run(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{backend.port}")
    assert found["s"] < 3 + 2
