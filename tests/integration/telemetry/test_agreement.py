"""A thousand requests, several at once, with errors and streams: all who count them count the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from telemetry.tail import TailPolicy
from tests.backends import servers, traffic
from tests.backends.servers import get
from tests.backends.traffic import Sent
from tests.integration.telemetry.test_pipeline import Receiver
from tests.serving import serving

REQUESTS = 1000
_ratio = TraceIdRatioBased(0.1)


def every(_: int) -> bool:
    return True


def by_the_sampler(trace_id: int) -> bool:
    return _ratio.should_sample(None, trace_id, "").decision.is_sampled()


def by_the_share(trace_id: int) -> bool:
    policy = TailPolicy.of("1/10", slow_ms=200.0, fan_out=20)
    assert policy is not None
    return policy.decide(trace_id, None, 0, 0) is not None


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving(Receiver()) as server:
        yield server


@pytest.mark.parametrize(
    ("environment", "is_kept"),
    [
        ({}, every),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, by_the_sampler),
        ({"LVS_TELEMETRY_EXPORT": "1/10"}, by_the_share),
    ],
    ids=["100 %", "10 % by the sampler", "10 % by the setting export"],
)
def test_client_admin_json_metrics_and_spans_agree(
    environment: dict[str, str], is_kept: Callable[[int], bool], receiver: Receiver, tmp_path: Path
) -> None:
    with servers.shop(
        tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_BSP_SCHEDULE_DELAY="200", **environment
    ) as shop:
        log = traffic.send(shop, REQUESTS)
        admin = get(shop, "/admin/performance/json")
    assert [sent.status for sent in log] == [sent.kind.status for sent in log]
    _check_admin(admin, log)
    _check_metrics(receiver, log)
    _check_spans(receiver.spans(), [sent for sent in log if is_kept(int(sent.trace_id, 16))])


def _check_admin(admin: dict[str, Any], log: list[Sent]) -> None:
    counts = traffic.by_route(log)
    assert {route: stats["request_count"] for route, stats in admin["endpoints"].items() if stats["request_count"]} == {
        route: min(count, 100) for route, count in counts.items()
    }
    assert admin["endpoints"]["GET /fails"]["error_count"] == 100
    assert admin["cache"]["hits"] + admin["cache"]["misses"] == counts["GET /items/<item>"]


def _check_metrics(receiver: Receiver, log: list[Sent]) -> None:
    durations, operations, queries = Counter[tuple[str, int]](), Counter[str](), 0
    for path, body in receiver.bodies:
        if path != "/v1/metrics":
            continue
        durations.clear()  # each export has all since the start; the last one counts
        operations.clear()
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.histogram.data_points:
                        labels = {label.key: label.value for label in point.attributes}
                        if metric.name == "http.server.request.duration":
                            status = labels["http.response.status_code"].int_value
                            durations[labels["http.route"].string_value, status] += point.count
                        elif metric.name == "telemetry.request.db_operations":
                            operations[labels["http.route"].string_value] += int(point.sum)
                    if metric.name == "db.client.operation.duration":
                        queries = sum(point.count for point in metric.histogram.data_points)
    assert durations == Counter((sent.kind.rule, sent.status) for sent in log)
    wanted: Counter[str] = Counter()
    for sent in log:
        wanted[sent.kind.rule] += len(sent.kind.spans)
    assert operations == wanted
    assert queries == wanted.total()


def _check_spans(spans: list[Any], kept: list[Sent]) -> None:
    assert len({span.span_id for span in spans}) == len(spans)
    assert Counter(span.trace_id.hex() for span in spans) == {sent.trace_id: 1 + len(sent.kind.spans) for sent in kept}
    servers_ = {span.trace_id.hex(): span for span in spans if span.kind == span.SPAN_KIND_SERVER}
    for sent in kept:
        attributes = {attribute.key: attribute.value for attribute in servers_[sent.trace_id].attributes}
        assert attributes["http.route"].string_value == sent.kind.rule
        assert attributes["http.response.status_code"].int_value == sent.status
