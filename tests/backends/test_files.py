"""Our configuration files, by the programs that they are for; and jsonfile's lines, by the Collector's own decoder."""

from __future__ import annotations

import json
import subprocess
from http.client import HTTPConnection
from pathlib import Path

from tests.backends import servers, traffic
from tests.backends.conftest import ROOT, Stand, program
from tests.backends.test_backends import jaeger_trace
from tools import backends


def accepts(*command: str | Path) -> None:
    """Run a checker; what it says is shown if it refuses."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_collector_accepts_our_configuration() -> None:
    accepts(program(backends.COLLECTOR, "otelcol"), "validate", "--config", ROOT / "otel-collector.yaml")


def test_promtool_accepts_our_configuration() -> None:
    accepts(program(backends.PROMETHEUS, "promtool"), "check", "config", ROOT / "deploy" / "prometheus.yml")


def test_promtool_finds_nothing_wrong_with_our_metrics_page(tmp_path: Path) -> None:
    promtool = program(backends.PROMETHEUS, "promtool")
    with servers.shop(tmp_path, OTEL_METRICS_EXPORTER="prometheus") as shop:
        traffic.send(shop, 14)
        status, page = servers.fetch(shop, "/metrics", {"Accept": "text/plain;version=0.0.4"})
    assert status == 200
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60)
    # The one name that it would have otherwise is that of the semantic conventions, process.thread.count.
    complaints = [line for line in done.stderr.decode().splitlines() if not line.startswith("process_thread_count ")]
    assert complaints == []


def test_lines_of_jsonfile_are_read_by_the_collector(stand: Stand, tmp_path: Path) -> None:
    environment = {
        "OTEL_TRACES_EXPORTER": "jsonfile",
        "OTEL_METRICS_EXPORTER": "jsonfile",
        "OTEL_SERVICE_NAME": "filed",
    }
    folder = tmp_path / "export"
    with servers.shop(tmp_path, LVS_TELEMETRY_JSONFILE_FOLDER=str(folder), **environment) as shop:
        log = traffic.send(shop, 28, seed=11)
    for signal in ("traces", "metrics"):
        lines = (folder / f"{signal}.jsonl").read_bytes().splitlines()
        assert lines
        for line in lines:
            connection = HTTPConnection("127.0.0.1", stand.otlp_http, timeout=30)
            connection.request("POST", f"/v1/{signal}", line, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
            connection.close()
            assert (answer.status, body.get("partialSuccess", {})) == (200, {})
    for sent in log:
        assert len(jaeger_trace(stand, sent.trace_id, 1 + len(sent.kind.spans))) == 1 + len(sent.kind.spans)


def test_grpc_brings_the_same_as_http(stand: Stand, tmp_path: Path) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{stand.otlp_grpc}",
        "OTEL_SERVICE_NAME": "by-grpc",
    }
    with servers.shop(tmp_path, **environment) as shop:
        log = traffic.send(shop, 28, seed=12)
    for sent in log:
        assert len(jaeger_trace(stand, sent.trace_id, 1 + len(sent.kind.spans))) == 1 + len(sent.kind.spans)
