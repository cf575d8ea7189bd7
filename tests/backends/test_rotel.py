"""The same data at a receiver that needs no Go: rotel takes OTLP, by gRPC and HTTP, and hands it on to the test."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backends import servers, traffic
from tests.backends.servers import eventually, get
from tests.integration.telemetry.test_pipeline import Receiver
from tests.serving import serving


@dataclass(frozen=True)
class Relay:
    """Where rotel listens, and what it hands on to."""

    http: int
    grpc: int
    receiver: Receiver


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    found = importlib.util.find_spec("rotel")
    if found is None or found.origin is None:
        pytest.skip("rotel is not installed on this machine: requirements/backends.lock has it")
    agent = Path(found.origin).with_name("rotel-agent")
    http, grpc = servers.free_port(), servers.free_port()
    with (
        serving(Receiver()) as receiver,
        servers.running(
            *(agent, "start", "--exporter", "otlp"),
            *("--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", receiver.endpoint),
            *("--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}"),
            *("--batch-timeout", "100ms"),
            log=tmp_path / "rotel.log",
            ready=http,
        ),
    ):
        yield Relay(http, grpc, receiver)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_what_was_sent_arrives_whole(relay: Relay, protocol: str, tmp_path: Path) -> None:
    port = relay.grpc if protocol == "grpc" else relay.http
    environment = {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    with servers.shop(tmp_path, **environment) as shop:
        log = traffic.send(shop, 70)
        admin = get(shop, "/admin/performance/json")
    wanted = traffic.span_count(log)
    spans: list[Any] = eventually(relay.receiver.spans, wanted=lambda spans: len(spans) >= wanted)
    assert len(spans) == len({span.span_id for span in spans}) == wanted
    assert Counter(span.trace_id.hex() for span in spans) == {sent.trace_id: 1 + len(sent.kind.spans) for sent in log}
    roots = {span.trace_id.hex(): span for span in spans if span.kind == span.SPAN_KIND_SERVER}
    for sent in log:
        root = roots[sent.trace_id]
        assert (root.name, root.parent_span_id.hex()) == (f"GET {sent.kind.rule}", sent.parent_id)
        inside = [span for span in spans if span.trace_id == root.trace_id and span is not root]
        assert sorted(span.name for span in inside) == sorted(sent.kind.spans)
        assert {span.parent_span_id for span in inside} <= {root.span_id}
    counts = eventually(
        relay.receiver.metric_counts, wanted=lambda counts: counts.get("http.server.request.duration", 0) >= len(log)
    )
    assert counts["http.server.request.duration"] == len(log)
    assert counts["db.client.operation.duration"] == admin["database"]["total_queries"]
    assert relay.receiver.services() == {"shop"}


def test_rotel_or_the_collector_is_there() -> None:
    """One of the two must be, or nothing real was tested."""
    from tools import backends

    has_rotel = importlib.util.find_spec("rotel") is not None
    assert has_rotel or backends.COLLECTOR.is_ready or os.environ.get("BACKENDS_OPTIONAL") == "1"
