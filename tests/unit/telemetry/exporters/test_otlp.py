"""OTLP over HTTP: bytes through the standard exporter, or its public API where there is no way in."""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote

import pytest
import requests
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry.exporters import answer, otlp
from telemetry.exporters.ended_request import EndedRequest, Source
from telemetry.exporters.options import Options
from telemetry.exporters.otlp import RecordSender
from telemetry.exporters.status import ExportStatus
from tests.serving import serving
from tests.unit.telemetry.exporters.queries import query

CHECKED_WITH = "1.45."
IDS = SpanContext(1, 2, False, TraceFlags(1))


def ended(limits: SpanLimits | None = None) -> EndedRequest:
    source = Source(
        Resource({}), InstrumentationScope("t"), limits or SpanLimits(), RandomIdGenerator(), lambda _: {"a": "b"}
    )
    return EndedRequest(source, IDS, 0, 0, None, [query("SELECT 12345")])


def readable() -> ReadableSpan:
    return ReadableSpan("of the SDK", IDS, resource=Resource({}), start_time=1, end_time=2, attributes={})


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the bodies that are sent; none leaves."""
    sent: list[bytes] = []

    def keep(_: Any, body: bytes) -> SimpleNamespace:
        sent.append(body)
        return SimpleNamespace(success=True)

    monkeypatch.setattr("opentelemetry.exporter.otlp.common.http._OTLPHTTPClient.export", keep)
    return sent


def names(body: bytes) -> list[str]:
    message = ExportTraceServiceRequest.FromString(body)
    return [span.name for resource in message.resource_spans for scope in resource.scope_spans for span in scope.spans]


def texts(body: bytes) -> list[str]:
    message = ExportTraceServiceRequest.FromString(body)
    return [
        attribute.value.string_value
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        for attribute in span.attributes
        if attribute.key == "db.query.text"
    ]


def test_the_seam_is_there_in_the_version_that_it_was_checked_with(bodies: list[bytes]) -> None:
    version = importlib.metadata.version("opentelemetry-exporter-otlp-proto-http")
    assert version.startswith(CHECKED_WITH), "check the seam with this version, then name it here"
    assert RecordSender(OTLPSpanExporter())([ended()])
    assert [names(body) for body in bodies] == [["sqlite"]]


def test_requests_and_spans_of_the_sdk_leave_in_one_message(bodies: list[bytes]) -> None:
    assert RecordSender(OTLPSpanExporter())([readable(), ended(), readable()])
    assert [sorted(names(body)) for body in bodies] == [["of the SDK", "of the SDK", "sqlite"]]


def test_limits_of_the_provider_hold(bodies: list[bytes]) -> None:
    RecordSender(OTLPSpanExporter())([ended(SpanLimits(max_span_attribute_length=6)), ended()])
    assert sorted(texts(bodies[0])) == ["SELECT", "SELECT 12345"]


def test_a_message_of_several_spans_is_not_sent_if_it_is_too_large(
    bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.exporters.otlp.MAX_BODY_BYTES", 200)
    send = RecordSender(OTLPSpanExporter())
    assert send([ended(), ended(), readable()]).too_large
    assert not bodies
    assert send([ended()])
    assert len(bodies) == 1


class Page(BaseHTTPRequestHandler):
    """Each path names what it is answered with: the content type, the status and the body, URL-encoded, with colons between."""

    def do_POST(self) -> None:
        kind, status, body = map(unquote, [*self.path[1:].split(":"), "200", ""][:3])
        self.send_response(int(status))
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode("latin-1"))))
        self.end_headers()
        self.wfile.write(body.encode("latin-1"))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ExportStatus]]:
    """Return a function that exports a span and a child to a `Page`, and returns how that went."""
    with serving(HTTPServer(("127.0.0.1", 0), Page)) as server:

        def export(kind: str, status: int = 200, body: bytes = b"") -> ExportStatus:
            path = ":".join([quote(kind, safe=""), str(status), quote(body.decode("latin-1"), safe="")])
            url = f"http://127.0.0.1:{server.server_port}/{path}"
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
            queue = otlp.processor(Options())
            queue.emit(ended())
            queue.emit(ended())
            queue.force_flush(900)
            queue.shutdown()
            return queue.status

        yield export


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain; version=0.0.4"])
def test_a_page_that_answers_instead_of_a_receiver_has_taken_nothing(
    answered: Callable[..., ExportStatus], kind: str
) -> None:
    status = answered(kind, body=b"<title>Welcome</title>")
    assert (status.sent, status.dropped) == (0, 2)
    assert status.last_error == f"what answers is no OTLP receiver: 200, {kind}"


@pytest.mark.parametrize(
    "kind", ["application/x-protobuf", "text/plain; charset=utf-8", "text/html; charset=utf-8", ""]
)
def test_an_answer_that_says_nothing_has_taken_all(answered: Callable[..., ExportStatus], kind: str) -> None:
    status = answered(kind)
    assert (status.sent, status.dropped, status.last_error) == (2, 0, None)


@pytest.mark.parametrize("kind", ["application/x-protobuf", ""])
def test_what_a_backend_has_rejected_of_a_batch_is_counted(answered: Callable[..., ExportStatus], kind: str) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message="too old")
    status = answered(kind, body=ExportTraceServiceResponse(partial_success=partial).SerializeToString())
    assert (status.sent, status.dropped, status.last_error) == (1, 1, "the backend has rejected 1: too old")


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/x-protobuf", Status(message="trace id is zero").SerializeToString(), ": trace id is zero"),
        ("application/x-protobuf", b"\xff\xff", ""),
        ("application/json", b'{"detail":\n "no such tenant"}', ': {"detail": "no such tenant"}'),
        ("text/plain", b"x" * 5000, ": " + "x" * 300),
        ("text/html", b"<title>Bad Request</title>", ""),
        ("", b"no reason", ""),
    ],
)
def test_a_backend_that_refuses_says_why_in_its_own_words(
    answered: Callable[..., ExportStatus], kind: str, body: bytes, said: str
) -> None:
    status = answered(kind, 400, body)
    assert (status.dropped, status.last_error) == (2, f"the backend answers 400 Bad Request{said}"[:300])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("('Connection aborted.', BadStatusLine('\\x00\\x00\\x18\\x04'))", "OTEL_EXPORTER_OTLP_PROTOCOL must be grpc"),
        (
            "('Connection aborted.', RemoteDisconnected('Remote end closed'))",
            "the connection was closed without an answer",
        ),
        ("('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))", "Connection reset by peer"),
    ],
)
def test_what_went_wrong_is_told_without_objects_of_python(error: str, words: str) -> None:
    told = answer._in_words(ConnectionError(error))
    assert told.endswith(words)
    assert "(" not in told


def test_a_header_of_the_settings_is_not_replaced_by_a_password_of_a_netrc_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked = requests.Request("POST", "http://127.0.0.1/", headers={"authorization": "Bearer token"})
    assert answer.Session().prepare_request(asked).headers["Authorization"] == "Bearer token"
    asked = requests.Request("POST", "http://you:own@127.0.0.1/")
    assert answer.Session().prepare_request(asked).headers["Authorization"].startswith("Basic ")


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "opentelemetry.exporter.otlp.common.http._OTLPHTTPClient.export", lambda *_: SimpleNamespace(success=False)
    )
    assert not RecordSender(OTLPSpanExporter())([ended()])


class Another(OTLPSpanExporter):
    """Somebody's own exporter, whose `export` must be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.exported += [span.name for span in spans]
        return SpanExportResult.SUCCESS


def test_a_subclass_is_asked_through_the_public_api() -> None:
    exporter = Another()
    assert RecordSender(exporter)([ended(), readable()])
    assert exporter.exported == ["sqlite", "of the SDK"]


def test_without_the_seam_the_public_api_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = OTLPSpanExporter()
    exporter._client.shutdown()
    del exporter._client
    exported: list[ReadableSpan] = []
    monkeypatch.setattr(exporter, "export", lambda spans: exported.extend(spans) or SpanExportResult.FAILURE)
    assert not RecordSender(exporter)([ended()])
    assert [span.name for span in exported] == ["sqlite"]


class Dripping(BaseHTTPRequestHandler):
    """Never comes to the end of an answer, piece by piece."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_timeout_is_one_for_the_answer_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Dripping)) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
        queue = otlp.processor(Options(), endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces")
        queue.emit(ended())
        assert not queue.force_flush(900)
        assert (queue.status.is_failing, queue.status.queued) == (True, 1)
        queue.shutdown()


def test_an_answer_is_read_where_no_thread_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Timer) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with serving(HTTPServer(("127.0.0.1", 0), Page)) as server:
        queue = otlp.processor(Options(), endpoint=f"http://127.0.0.1:{server.server_port}/{quote('a/b', safe='')}")
        monkeypatch.setattr(threading.Timer, "start", start)
        queue._start_thread = lambda: "none"  # type: ignore[method-assign]
        queue.emit(ended())
        assert queue.force_flush()
        assert queue.status.sent == 1
        queue.shutdown()


class LateDate(BaseHTTPRequestHandler):
    """Asks to wait until a date that no clock reaches, then takes what it gets."""

    asked = False

    def do_POST(self) -> None:
        self.send_response(200 if LateDate.asked else 503)
        self.send_header("Content-Length", "0")
        self.send_header("Retry-After", "Mon, 01 Jan 2024 00:00:00 +99999999999999")
        self.end_headers()
        LateDate.asked = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_wait_that_can_t_be_understood_costs_no_batch() -> None:
    with serving(HTTPServer(("127.0.0.1", 0), LateDate)) as server:
        queue = otlp.processor(Options(), endpoint=f"http://127.0.0.1:{server.server_port}/v1/traces")
        queue.emit(ended())
        assert not queue.force_flush(900)
        assert queue.force_flush()
        assert (queue.status.sent, queue.status.dropped) == (1, 0)
        queue.shutdown()


def test_a_date_without_a_zone_is_utc() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    asked_s = answer._retry_after_s({"retry-after": later.strftime("%a %b %d %H:%M:%S %Y")})
    assert asked_s is not None
    assert 90 < asked_s <= 100
