"""Where data goes: nowhere unless an endpoint is set, and then by OTLP/HTTP, all of it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tests.integration.telemetry.test_foreign_apps import SHOP, run

SERVED = (
    SHOP
    + """
    from telemetry import instrument
    app = instrument(create_app())
    for _ in range(3):
        assert app.test_client().get("/shop/items").status_code == 200
    print("{}")
    """
)


class Receiver(ThreadingHTTPServer):
    """An OTLP/HTTP endpoint that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[tuple[str, bytes]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self) -> list[object]:
        return [
            span
            for path, body in self.bodies
            if path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metric_counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for path, body in self.bodies:
            if path == "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for scope in resource.scope_metrics:
                        for metric in scope.metrics:
                            found[metric.name] = sum(point.count for point in metric.histogram.data_points)
        return found

    def resources(self) -> list[dict[str, str]]:
        return [
            {attribute.key: attribute.value.string_value for attribute in resource.attributes}
            for path, body in self.bodies
            for resource in _resources(path, body)
        ]

    def services(self) -> set[str]:
        return {resource["service.name"] for resource in self.resources()}

    def instances(self) -> set[str]:
        return {resource["service.instance.id"] for resource in self.resources()}


def _resources(path: str, body: bytes) -> list[Resource]:
    if path == "/v1/traces":
        return [spans.resource for spans in ExportTraceServiceRequest.FromString(body).resource_spans]
    return [points.resource for points in ExportMetricsServiceRequest.FromString(body).resource_metrics]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_with_an_endpoint_set_spans_and_metrics_go_there(receiver: Receiver, tmp_path: Path) -> None:
    run(tmp_path, SERVED, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_SERVICE_NAME="shop")
    assert len(receiver.spans()) == 3 * (1 + 2)
    counts = receiver.metric_counts()
    assert counts["http.server.request.duration"] == 3
    assert counts["db.client.operation.duration"] == 3 * 2
    assert counts["telemetry.request.db_operations"] == 3
    assert receiver.services() == {"shop"}
    assert len(receiver.instances()) == 1, "spans and metrics are of one process"
    assert all("service.version" not in resource for resource in receiver.resources()), "nobody has said the version"


def test_an_endpoint_for_traces_alone_gets_traces_alone(receiver: Receiver, tmp_path: Path) -> None:
    run(tmp_path, SERVED, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=receiver.endpoint + "/v1/traces")
    assert {path for path, _ in receiver.bodies} == {"/v1/traces"}
    assert receiver.services() == {"main"}


def test_an_endpoint_for_metrics_alone_gets_metrics_alone(receiver: Receiver, tmp_path: Path) -> None:
    run(tmp_path, SERVED, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=receiver.endpoint + "/v1/metrics")
    assert {path for path, _ in receiver.bodies} == {"/v1/metrics"}


def test_with_nothing_set_nothing_is_sent_and_no_thread_runs(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        SHOP
        + """
    import socket, threading
    def no(*_, **__): raise AssertionError("a connection was opened")
    socket.socket.connect = no
    from telemetry import instrument
    app = instrument(create_app())
    app.test_client().get("/shop/items")
    print(json.dumps({"threads": threading.active_count()}))
    """,
    )
    assert found == {"threads": 1}


def test_a_flush_of_the_providers_sends_what_there_is_and_they_may_be_ended_twice(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        SHOP
        + """
    from pathlib import Path
    from opentelemetry import metrics, trace
    from telemetry import instrument
    app = instrument(create_app(), exporters=["jsonfile", "prometheus"])
    app.test_client().get("/shop/items")
    flushed = [trace.get_tracer_provider().force_flush(), metrics.get_meter_provider().force_flush()]
    written = {name: (Path("telemetry-export") / name).read_text() for name in ("traces.jsonl", "metrics.jsonl")}
    metrics.get_meter_provider().shutdown()
    print(json.dumps({
        "flushed": flushed,
        "spans": written["traces.jsonl"].count("spanId"),
        "is_measured": "http.server.request.duration" in written["metrics.jsonl"],
    }))
    """,
    )
    assert found == {"flushed": [True, True], "spans": 3, "is_measured": True}


def test_the_sdk_can_be_switched_off(tmp_path: Path) -> None:
    run(tmp_path, SERVED, OTEL_SDK_DISABLED="true")


def test_two_apps_of_one_process_share_its_providers(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        """
    import json
    from flask import Flask
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from telemetry import get_metrics, instrument, uninstrument
    get_metrics().record_cache_miss()
    first, second = instrument(Flask("first")), instrument(Flask("second"))
    for app in (first, second):
        app.add_url_rule(f"/{app.name}", "view", lambda: "ok")
        app.test_client().get(f"/{app.name}")
    uninstrument(first)
    second.test_client().get("/second")
    uninstrument(second)
    instrument(first)
    first.test_client().get("/first")
    print(json.dumps({
        "counts": {name: row["request_count"] for name, row in get_metrics().snapshot()["endpoints"].items()},
        "misses": get_metrics().cache_misses,
        "are_sdk": [
            isinstance(metrics.get_meter_provider(), MeterProvider),
            isinstance(trace.get_tracer_provider(), TracerProvider),
        ],
    }))
    """,
    )
    assert found == {
        "counts": {"GET /first": 2, "GET /second": 2},
        "misses": 1,
        "are_sdk": [True, True],
    }
