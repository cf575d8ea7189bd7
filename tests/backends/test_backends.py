"""The same data everywhere: what was sent is in Jaeger, in the Collector's file, in Prometheus and in the admin JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from telemetry import instruments
from tests.backends import servers, traffic
from tests.backends.conftest import ROOT, Stand, program
from tests.backends.servers import eventually, get
from tests.backends.traffic import Kind, Sent
from tools import backends

REQUESTS = 7 * 40  # so that each route has under 100 requests but one, which has 120
EARLY = 7 * 10
SOURCES = ("app", "collector")
DURATION = "http_server_request_duration_seconds"
OPERATIONS = "telemetry_request_db_operations"


@dataclass
class Run:
    """A run of requests, and where to ask for it."""

    log: list[Sent]
    early: dict[str, Any]
    """The database figures of the admin JSON after the first requests, which all fit into its window."""
    early_queries: dict[str, float]
    """What Prometheus had at that time, by where it had it from."""
    admin: dict[str, Any]
    points: dict[str, Any]
    exporters: list[dict[str, Any]]
    stand: Stand
    prometheus: int
    service: str

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return what Prometheus answers now."""
        return promql(self.prometheus, expression)


def promql(port: int, expression: str) -> list[tuple[dict[str, str], float]]:
    """Return the labels and values that a Prometheus answers now."""
    answer = get(port, "/api/v1/query", query=expression)
    assert answer["status"] == "success", answer
    return [(row["metric"], float(row["value"][1])) for row in answer["data"]["result"]]


@pytest.fixture(scope="module")
def run(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Send the requests, and wait until the backends have them all."""
    folder = tmp_path_factory.mktemp("run")
    environment = {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{stand.otlp_http}",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with servers.shop(folder, **environment) as shop, prometheus(folder, shop, stand.prometheus_page) as port:
        log = traffic.send(shop, EARLY, seed=1)
        early = get(shop, "/admin/performance/json")["database"]
        early_queries = {
            source: eventually(
                lambda source=source: promql(port, f'sum({OPERATIONS}_sum{{source="{source}"}})'),
                wanted=lambda rows: bool(rows) and rows[0][1] >= early["total_queries"],
            )[0][1]
            for source in SOURCES
        }
        log += traffic.send(shop, REQUESTS - EARLY, seed=2)
        spans = traffic.span_count(log)
        exporters = eventually(
            lambda: get(shop, "/api/admin/performance/exporters")["exporters"],
            wanted=lambda rows: rows[0]["sent"] >= spans,
        )
        admin = get(shop, "/admin/performance/json")
        points = get(shop, "/api/admin/performance/timeline", range="all")
        made = Run(log, early, early_queries, admin, points, exporters, stand, port, "shop")
        for source in SOURCES:
            served = f'sum({DURATION}_count{{source="{source}"}})'
            eventually(
                lambda served=served: made.query(served), wanted=lambda rows: bool(rows) and rows[0][1] >= len(log)
            )
        yield made


def prometheus(folder: Path, shop: int, collector: int) -> Any:
    """Run a Prometheus that fetches from the app itself and from the Collector."""
    port = servers.free_port()
    jobs = [
        {
            "job_name": name,
            "honor_labels": name == "collector",
            "metric_relabel_configs": [{"source_labels": ["service_name"], "regex": "|shop", "action": "keep"}],
            "static_configs": [{"targets": [f"127.0.0.1:{at}"], "labels": {"source": name}}],
        }
        for name, at in (("app", shop), ("collector", collector))
    ]
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    return _prometheus(folder, port)


@servers.contextlib.contextmanager
def _prometheus(folder: Path, port: int) -> Iterator[int]:
    with servers.running(
        program(backends.PROMETHEUS, "prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        log=folder / "prometheus.log",
        ready=port,
    ):
        yield port


def jaeger_trace(stand: Stand, trace_id: str, spans: int) -> list[dict[str, Any]]:
    """Return the spans of a trace, as Jaeger's query API has them, when there are as many as there must be."""
    found = eventually(
        lambda: get(stand.jaeger, f"/api/traces/{trace_id}").get("data") or [],
        wanted=lambda traces: sum(len(trace["spans"]) for trace in traces) >= spans,
        within_s=30,
    )
    return [span for trace in found for span in trace["spans"]]


def tags(span: dict[str, Any]) -> dict[str, Any]:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def parent_of(span: dict[str, Any]) -> str | None:
    return next((ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"), None)


def check_server_span(span: dict[str, Any], sent: Sent) -> None:
    """What must hold of the server span of a request; more of the kind belongs here."""
    kind, found = sent.kind, tags(span)
    assert span["operationName"] == f"GET {kind.rule}"
    assert parent_of(span) == sent.parent_id, "it continues the trace of the client"
    assert found["span.kind"] == "server"
    assert found[instruments.HTTP_REQUEST_METHOD] == "GET"
    assert found[instruments.HTTP_ROUTE] == kind.rule
    assert found[instruments.HTTP_RESPONSE_STATUS_CODE] == kind.status
    assert found["url.path"] == kind.path
    assert found["url.scheme"] == "http"
    assert found["client.address"] == "127.0.0.1"
    assert found.get(instruments.ERROR_TYPE) == kind.error
    assert found.get("error", False) is (kind.error is not None)
    assert found[instruments.REQUEST_OPERATIONS] == len(kind.spans)
    assert found[instruments.REQUEST_DB_DURATION] > 0
    assert (kind.path, found.get(instruments.REQUEST_STATEMENTS)) == (kind.path, kind.statements)
    assert (kind.path, found.get(instruments.REQUEST_VERDICT)) == (kind.path, kind.verdict)
    events = [{field["key"]: field["value"] for field in event["fields"]} for event in span["logs"] or []]
    assert [event["exception.type"] for event in events if event["event"] == "exception"] == (
        [kind.error] if kind.error else []
    )


def check_query_span(span: dict[str, Any], root: dict[str, Any], name: str, kind: Kind) -> None:
    """What must hold of the span of a query; more of the kind belongs here."""
    found = tags(span)
    assert parent_of(span) == root["spanID"]
    assert span["operationName"] == name
    assert found["span.kind"] == "client"
    assert found[instruments.DB_SYSTEM_NAME] == "sqlite"
    operation, table = name.split()
    assert found[instruments.DB_OPERATION_NAME] == operation
    assert found[instruments.DB_COLLECTION_NAME] == table
    assert found[instruments.DB_QUERY_TEXT].startswith(f"{operation} ")
    assert found.get(instruments.ERROR_TYPE) == kind.error
    assert root["startTime"] <= span["startTime"]
    path, line = Path(found[instruments.CODE_FILE_PATH]), int(found[instruments.CODE_LINE_NUMBER])
    assert path.name == "shop.py"
    assert "execute(" in (ROOT / "tests" / "backends" / "shop.py").read_text("utf-8").splitlines()[line - 1]


def test_the_client_got_the_answers_that_it_should(run: Run) -> None:
    assert [sent.status for sent in run.log] == [sent.kind.status for sent in run.log]
    assert len({sent.trace_id for sent in run.log}) == REQUESTS


def test_each_request_is_one_trace_in_jaeger_with_the_right_tree(run: Run) -> None:
    for sent in run.log:
        spans = jaeger_trace(run.stand, sent.trace_id, 1 + len(sent.kind.spans))
        roots = [span for span in spans if tags(span)["span.kind"] == "server"]
        assert len(roots) == 1, sent
        check_server_span(roots[0], sent)
        queries = sorted((span for span in spans if span is not roots[0]), key=lambda span: span["startTime"])
        assert sorted(span["operationName"] for span in queries) == sorted(sent.kind.spans)
        for span in queries:
            check_query_span(span, roots[0], span["operationName"], sent.kind)


def test_jaeger_has_no_other_traces_of_the_app(run: Run) -> None:
    found = eventually(
        lambda: get(run.stand.jaeger, "/api/traces", service=run.service, limit="5000")["data"],
        wanted=lambda traces: len(traces) >= len(run.log),
    )
    assert sorted(trace["traceID"].zfill(32) for trace in found) == sorted(sent.trace_id for sent in run.log)


def test_the_collectors_file_has_the_same_spans(run: Run) -> None:
    wanted = traffic.span_count(run.log)

    def spans() -> list[dict[str, Any]]:
        lines = run.stand.traces_file.read_text("utf-8").splitlines()
        return [span for line in lines for span in spans_of(json.loads(line), run.service)]

    found = eventually(spans, wanted=lambda spans: len(spans) >= wanted)
    assert len(found) == wanted
    assert len({span["spanId"] for span in found}) == wanted
    assert Counter(span["traceId"] for span in found) == {sent.trace_id: 1 + len(sent.kind.spans) for sent in run.log}


def spans_of(export: dict[str, Any], service: str) -> list[dict[str, Any]]:
    """Return the spans of one service in an export as OTLP JSON."""
    return [
        span
        for resource in export["resourceSpans"]
        if {"key": "service.name", "value": {"stringValue": service}} in resource["resource"]["attributes"]
        for scope in resource["scopeSpans"]
        for span in scope.get("spans", ())
    ]


def by_route(rows: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    """Return the sum for each route, called as the admin JSON calls it."""
    names = {kind.rule: kind.route for kind in traffic.KINDS}
    found: dict[str, float] = defaultdict(float)
    for labels, value in rows:
        if labels.get("http_route") in names:
            found[names[labels["http_route"]]] += value
    return dict(found)


@pytest.mark.parametrize("source", SOURCES)
def test_prometheus_counts_what_the_client_and_the_admin_json_count(run: Run, source: str) -> None:
    counts = by_route(run.query(f'{DURATION}_count{{source="{source}"}}'))
    assert counts == traffic.by_route(run.log)
    endpoints = run.admin["endpoints"]
    assert {route: min(count, 100) for route, count in counts.items()} == {
        route: endpoints[route]["request_count"] for route in counts
    }
    failed = by_route(run.query(f'{DURATION}_count{{source="{source}", error_type!=""}}'))
    assert failed == {"GET /fails": endpoints["GET /fails"]["error_count"]}


@pytest.mark.parametrize("source", SOURCES)
def test_sums_and_buckets_are_those_of_the_raw_samples(run: Run, source: str) -> None:
    samples: dict[str, list[float]] = defaultdict(list)
    for duration_ms, at in zip(run.points["duration_ms"], run.points["route"], strict=True):
        samples[run.points["routes"][at]].append(duration_ms)
    complete = {route for route, count in traffic.by_route(run.log).items() if count < 100}
    assert len(complete) == 4
    sums = by_route(run.query(f'{DURATION}_sum{{source="{source}"}}'))
    for route in complete:
        rounding_ms = 0.01 * len(samples[route])  # each is written with two decimals
        assert sums[route] * 1000 == pytest.approx(sum(samples[route]), abs=rounding_ms)
        mean_ms = run.admin["endpoints"][route]["avg_ms"]
        assert sums[route] * 1000 / len(samples[route]) == pytest.approx(mean_ms, abs=0.01)
    for bound in sorted(
        {labels["le"] for labels, _ in run.query(f'{DURATION}_bucket{{source="{source}"}}')} - {"+Inf"}, key=float
    ):
        counts = by_route(run.query(f'{DURATION}_bucket{{source="{source}", le="{bound}"}}'))
        limit_ms = float(bound) * 1000
        for route in complete:
            surely = sum(value < limit_ms - 0.01 for value in samples[route])
            at_most = sum(value <= limit_ms + 0.01 for value in samples[route])
            assert surely <= counts[route] <= at_most, (route, bound)


@pytest.mark.parametrize("source", SOURCES)
def test_queries_are_counted_alike(run: Run, source: str) -> None:
    wanted: Counter[str] = Counter()
    for sent in run.log:
        wanted[sent.kind.route] += len(sent.kind.spans)
    assert by_route(run.query(f'{OPERATIONS}_sum{{source="{source}"}}')) == wanted
    assert by_route(run.query(f'{OPERATIONS}_count{{source="{source}"}}')) == traffic.by_route(run.log)
    of_statements = run.query(f'sum(db_client_operation_duration_seconds_count{{source="{source}"}})')[0][1]
    assert of_statements == wanted.total()
    assert run.early_queries[source] == run.early["total_queries"]
    first = [len(sent.kind.spans) for sent in run.log[:EARLY]]
    assert run.early == {
        "total_queries": sum(first),
        "avg_per_request": pytest.approx(sum(first) / EARLY, abs=0.01),
        "max_per_request": max(first),
        "count": EARLY,
    }


@pytest.mark.parametrize("source", SOURCES)
def test_cache_lookups_are_those_of_the_admin_json(run: Run, source: str) -> None:
    found = {
        labels["telemetry_cache_outcome"]: value
        for labels, value in run.query(f'telemetry_cache_lookups_total{{source="{source}"}}')
    }
    assert found == {"hit": run.admin["cache"]["hits"], "miss": run.admin["cache"]["misses"]}
    assert sum(found.values()) == traffic.by_route(run.log)["GET /items/<item>"]


def test_span_metrics_of_the_collector_agree_with_ours(run: Run) -> None:
    rows = eventually(
        lambda: run.query(
            'traces_span_metrics_duration_seconds_count{service_name="shop", span_kind="SPAN_KIND_SERVER"}'
        ),
        wanted=lambda rows: sum(value for _, value in rows) >= REQUESTS,
    )
    assert by_route(rows) == traffic.by_route(run.log)


def test_the_exporters_tell_what_they_have_sent(run: Run) -> None:
    by_name = {(row["name"], row["signal"]): row for row in run.exporters}
    assert set(by_name) == {("otlp", "traces"), ("otlp", "metrics"), ("prometheus", "metrics")}
    traces = by_name["otlp", "traces"]
    assert traces["sent"] == traffic.span_count(run.log)
    assert (traces["queued"], traces["dropped"], traces["failures"], traces["last_error"]) == (0, 0, 0, None)
    exported = eventually(  # when Prometheus has asked once more
        lambda: run.query('sum(otel_sdk_exporter_span_exported_total{source="app"})')[0][1],
        wanted=lambda number: number >= traces["sent"],
    )
    assert exported == traces["sent"]


def test_each_query_of_the_grafana_dashboard_finds_something(run: Run) -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/local-video-server.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$service", ".*")
            assert eventually(lambda expression=expression: run.query(expression), within_s=10), expression
