"""The servers, one of each for all tests; what is not ready here is said, and its tests are left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.backends import servers
from tools import backends

ROOT = servers.ROOT


def program(backend: backends.Backend, name: str) -> Path:
    """Return a program of a backend, or leave the test out where it could not be made ready."""
    found = backend.program(name)
    if found is None:
        if os.environ.get("BACKENDS_REQUIRED") == "1":
            pytest.fail(f"{name} is not ready: run python tools/backends.py")
        pytest.skip(f"{name} could not be made ready on this machine")
    return found


@dataclass(frozen=True)
class Stand:
    """What runs, and where."""

    otlp_http: int
    otlp_grpc: int
    prometheus_page: int
    jaeger: int
    traces_file: Path


@pytest.fixture(scope="session")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """Run the Collector by `otel-collector.yaml`, and Jaeger behind it."""
    otelcol, jaeger = program(backends.COLLECTOR, "otelcol"), program(backends.JAEGER_QUERY, "jaeger")
    folder = tmp_path_factory.mktemp("stand")
    ports = [servers.free_port() for _ in range(7)]
    http, grpc, page, health, jaeger_grpc, query, query_grpc = ports
    (folder / "jaeger.yaml").write_text(yaml.safe_dump(jaeger_config(jaeger_grpc, query, query_grpc)), "utf-8")
    with ExitStack() as stack:
        jaeger_yaml = folder / "jaeger.yaml"
        stack.enter_context(servers.running(jaeger, "--config", jaeger_yaml, log=folder / "jaeger.log", ready=query))
        stack.enter_context(
            servers.running(
                *(otelcol, "--config", ROOT / "otel-collector.yaml"),
                log=folder / "otelcol.log",
                ready=http,
                OTLP_GRPC=f"127.0.0.1:{grpc}",
                OTLP_HTTP=f"127.0.0.1:{http}",
                PROMETHEUS_PAGE=f"127.0.0.1:{page}",
                HEALTH=f"127.0.0.1:{health}",
                JAEGER=f"127.0.0.1:{jaeger_grpc}",
                TRACES_FILE=str(folder / "traces.jsonl"),
                BATCH_TIMEOUT="100ms",
                DECISION_WAIT="2s",
                SPAN_METRICS_INTERVAL="500ms",
            )
        )
        yield Stand(http, grpc, page, query, folder / "traces.jsonl")


def jaeger_config(grpc: int, query: int, query_grpc: int) -> dict[str, object]:
    """Return a Jaeger that keeps everything in memory."""
    return {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
        },
        "extensions": {
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 100_000}}}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"127.0.0.1:{query}"},
                "grpc": {"endpoint": f"127.0.0.1:{query_grpc}"},
            },
        },
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{grpc}"}}}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
