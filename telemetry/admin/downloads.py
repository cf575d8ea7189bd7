"""What can be taken away of one request: its trace as OTLP JSON, and a test that keeps it from making more queries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry import fanout, figures, instruments
from telemetry.exporters.ended_request import ENVIRON_KEYS, EndedRequest, ServerFacts, Source
from telemetry.instrumentation.capture import EXTENSION
from telemetry.query import START_NS, with_span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flask import Flask

    from telemetry.fanout import Analysis
    from telemetry.recent import KeptRequest

_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def otlp_json(requests: Sequence[KeptRequest], app: Flask) -> dict[str, Any]:
    """Return the spans of requests as OTLP JSON, which Jaeger and the Collector's file receiver read.

    Ids are hexadecimal, as that format has them; of the requests' queries it holds those that are kept one by one.
    """
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    from telemetry.exporters.jsonfile import as_body

    source = _source(app)
    return as_body(encode_spans([span for kept in requests for span in _ended(kept, source).spans()]))


def _ended(kept: KeptRequest, source: Source) -> EndedRequest:
    ids = SpanContext(kept.trace_id, kept.span_id, False, TraceFlags(TraceFlags.SAMPLED))
    environ = tuple({"PATH_INFO": kept.path, "REQUEST_METHOD": kept.method}.get(key) for key in ENVIRON_KEYS)
    rule = None if kept.rule is None else kept.rule.rule
    server = ServerFacts(
        None, kept.method, rule, kept.status, kept.error_type, kept.duration_ns, environ, None, tuple(kept)
    )
    queries = [with_span(query) for query in kept.queries]
    return EndedRequest(source, ids, kept.start_ns, kept.start_unix_ns, server, queries)


def _source(app: Flask) -> Source:
    """Return what the app's spans have in common; of an app that makes none, its name."""
    middleware = getattr(app.extensions.get(EXTENSION), "middleware", None)
    tracing = getattr(getattr(middleware, "capture", None), "tracing", None)
    provider = getattr(tracing, "provider", None)
    named = provider.resource if isinstance(provider, TracerProvider) else Resource.create({"service.name": app.name})
    scope = InstrumentationScope(instruments.SCOPE, "", instruments.SCHEMA_URL)
    operation = tracing.operation if tracing is not None else _no_operation
    repeats = tracing.repeats if tracing is not None else fanout.REPEATS
    return Source(named, scope, SpanLimits(), RandomIdGenerator(), operation, repeats=repeats)


def _no_operation(_: str) -> Mapping[str, str]:
    return {instruments.DB_SYSTEM_NAME: "sqlite"}


def pytest_of(kept: KeptRequest, analysis: Analysis) -> str:
    """Return a test that sends the request again and asserts the number of queries that it should need.

    That is how many it would make with each repeated statement asked once; without a finding, as many as it made.
    """
    findings = [each for each in analysis.findings if each.is_warning and each.kind not in fanout.BY_TIME]
    budget = kept.query_count - sum(finding.runs - 1 for finding in findings if finding.runs)
    name = re.sub(r"[\W_]+", "_", f"{kept.method} {kept.route.partition(' ')[2]}".lower()).strip("_")
    made = figures.plural(kept.query_count, "query") if kept.query_count else "no query"
    wanted = f"it should need {budget}" if findings else "it keeps to that"
    purpose = "needs_few" if findings else "keeps_to_its"
    told = "".join(_comment(f"{finding.text}. Mend: {finding.mend}.", "    ") for finding in findings)
    arguments = f", method={kept.method!r}" if kept.method != "GET" else ""
    # A test client stops reading at the first byte: the queries of what comes after it would never be made.
    streams = kept.transfer_ns is not None and any(
        query[START_NS] > kept.start_ns + kept.duration_ns for query in kept.queries
    )
    arguments += ", buffered=True" if streams else ""
    missing = "Query strings" if kept.method in _WITHOUT_BODY else "Query strings and bodies"
    return (
        f"{_comment(f'{kept.route} made {made}; {wanted}.')}\n"
        "from telemetry.testing import assert_max_queries\n\n\n"
        f"def test_{name}_{purpose}_queries(client):  # a fixture: app.test_client() of the instrumented app\n"
        f"{_comment(f'{missing} are not kept: add what the request had.', '    ')}"
        f"{told}"
        f"    with assert_max_queries({budget}):\n"
        f"        response = client.open({kept.address!r}{arguments})\n"
        f"    assert response.status_code == {kept.status or 200}\n"
    )


def _comment(text: str, indent: str = "") -> str:
    """Return `text` as one line of comment, whatever a table or a route may be called."""
    return f"{indent}# {' '.join(text.split())}\n"
