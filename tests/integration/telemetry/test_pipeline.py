"""Where data goes: nowhere unless an endpoint is set, and then by OTLP/HTTP, all of it."""

from __future__ import annotations

import gzip
import textwrap
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from tests.integration.telemetry.test_foreign_apps import SHOP, run
from tests.serving import serving

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


TWICE = """
    import sqlite3
    from contextlib import closing
    from flask import Flask

    def create_app():
        app = Flask("twice")

        @app.get("/")
        def ask_twice():
            with closing(sqlite3.connect(":memory:")) as connection:
                connection.execute("SELECT 1")
                connection.execute("SELECT 2")
            return ""

        return app
"""


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
        newest: dict[tuple[str, str], int] = {}  # they are sums since the start of an instance
        for path, body in self.bodies:
            if path == "/v1/metrics":
                for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    instance = _attributes(of_resource.resource)["service.instance.id"]
                    for scope in of_resource.scope_metrics:
                        for metric in scope.metrics:
                            counts = [point.count for point in metric.histogram.data_points]
                            newest[instance, metric.name] = sum(counts)
        found: Counter[str] = Counter()
        for (_, name), count in newest.items():
            found[name] += count
        return found

    def resources(self) -> list[dict[str, str]]:
        return [_attributes(resource) for path, body in self.bodies for resource in _resources(path, body)]

    def services(self) -> set[str]:
        return {resource["service.name"] for resource in self.resources()}

    def instances(self) -> set[str]:
        return {resource["service.instance.id"] for resource in self.resources()}


def _attributes(resource: Resource) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in resource.attributes}


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
    with serving(Receiver()) as server:
        yield server


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


def test_figures_of_an_apps_own_are_exported_likewise_each_as_an_instance(receiver: Receiver, tmp_path: Path) -> None:
    program = (
        TWICE
        + """
    from telemetry import PerformanceMetrics, instrument, uninstrument
    first, second, third = (instrument(create_app(), metrics=PerformanceMetrics()) for _ in range(3))
    for app in (first, second, second, third, third, third):
        assert app.test_client().get("/").status_code == 200
    uninstrument(third)
    print("{}")
    """
    )
    run(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert len(receiver.spans()) == 6 * (1 + 2)
    assert receiver.metric_counts()["http.server.request.duration"] == 1 + 2 + 3
    assert len(receiver.instances()) == 3, "the first is the instance that the spans are of"


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("made_in", ["the parent", "the child"])
def test_the_end_of_a_worker_of_multiprocessing_sends_what_is_queued(
    method: str, made_in: str, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "worker.py").write_text(
        textwrap.dedent(
            TWICE
            + """
    from telemetry import instrument
    app = instrument(create_app()) if MADE_HERE else None

    def work():
        client = (app or instrument(create_app())).test_client()
        for _ in range(5):
            assert client.get("/").status_code == 200
    """
        ).replace("MADE_HERE", str(made_in == "the parent"))
    )
    program = f"""
    import json, multiprocessing, worker
    if __name__ == "__main__":
        process = multiprocessing.get_context("{method}").Process(target=worker.work)
        process.start()
        process.join()
        print(json.dumps({{"code": process.exitcode}}))
    """
    found = run(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert found == {"code": 0}
    assert len(receiver.spans()) == 5 * (1 + 2)
    assert receiver.metric_counts()["http.server.request.duration"] == 5


def test_a_forked_worker_does_not_tell_again_of_what_its_parent_has_measured(
    receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "worker.py").write_text(
        textwrap.dedent(
            TWICE
            + """
    from telemetry import get_metrics, instrument
    app = instrument(create_app())

    def work(number):
        for _ in range(number):
            assert app.test_client().get("/").status_code == 200
            get_metrics().record_cache_hit()
    """
        )
    )
    program = """
    import json, multiprocessing, worker
    if __name__ == "__main__":
        worker.work(3)
        processes = [multiprocessing.get_context("fork").Process(target=worker.work, args=(5,)) for _ in range(2)]
        for each in processes: each.start()
        for each in processes: each.join()
        print(json.dumps({"codes": [each.exitcode for each in processes]}))
    """
    assert run(tmp_path, program, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) == {"codes": [0, 0]}
    assert len(receiver.spans()) == (3 + 5 + 5) * (1 + 2)
    counts = receiver.metric_counts()
    assert counts["http.server.request.duration"] == 3 + 5 + 5
    assert counts["db.client.operation.duration"] == (3 + 5 + 5) * 2
    assert len(receiver.instances()) == 3


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


def test_the_sdk_can_be_switched_off(receiver: Receiver, tmp_path: Path) -> None:
    run(tmp_path, SERVED, OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert receiver.bodies == []


@pytest.mark.parametrize("figures", ["None", "PerformanceMetrics()"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "x"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "x"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-1"),
        ("OTEL_PYTHON_METER_PROVIDER", "x"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "x"),
    ],
)
def test_a_variable_that_opentelemetry_can_not_use_is_a_wrong_setting(
    tmp_path: Path, variable: str, value: str, figures: str
) -> None:
    found = run(
        tmp_path,
        f"""
        import json
        from flask import Flask
        from telemetry import PerformanceMetrics, SettingsError, instrument
        try:
            instrument(Flask("app"), metrics={figures})
        except SettingsError as error:
            print(json.dumps({{"error": str(error)}}))
        """,
        **{variable: value},
    )
    assert variable in found["error"]


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
