"""What can be taken away of one request: its trace as OTLP JSON, and a test that keeps it from making more queries."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from telemetry import fanout, instruments
from telemetry.exporters.ended import ENVIRON_KEYS, EndedRequest, ServerFacts, Source
from telemetry.requests import MADE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask

    from telemetry.recent import KeptRequest

_IDS: Final = ("traceId", "spanId", "parentSpanId")
_PLAIN: Final = {"sqlite": {instruments.DB_SYSTEM_NAME: "sqlite"}}


def otlp_json(kept: KeptRequest, app: Flask) -> dict[str, Any]:
    """Return the trace of a request as OTLP JSON, which Jaeger and the Collector's file receiver read.

    Ids are hexadecimal, as that format has them; of the request's queries it holds those that are kept one by one.
    """
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    ids = SpanContext(kept.trace_id, kept.span_id, False, TraceFlags(TraceFlags.SAMPLED))
    environ = tuple({"PATH_INFO": kept.path, "REQUEST_METHOD": kept.method}.get(key) for key in ENVIRON_KEYS)
    rule = None if kept.rule is None else kept.rule.rule
    server = ServerFacts(
        None, kept.method, rule, kept.status, kept.error_type, kept.duration_ns, environ, None, tuple(kept)
    )
    queries = [(*query[:4], query[4] & ~MADE, *query[5:]) for query in kept.queries]
    ended = EndedRequest(_source(app), ids, kept.start_ns, kept.start_unix_ns, server, queries)
    body: dict[str, Any] = MessageToDict(encode_spans(ended.spans()), use_integers_for_enums=True)
    for resource in body["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in _IDS:
                    if name in span:
                        span[name] = base64.b64decode(span[name]).hex()
    return body


def _source(app: Flask) -> Source:
    """Return what the app's spans have in common; of an app that makes none, its name."""
    middleware = getattr(app.extensions.get("telemetry"), "middleware", None)
    tracing = getattr(getattr(middleware, "capture", None), "tracing", None)
    provider = getattr(tracing, "provider", None)
    named = provider.resource if isinstance(provider, TracerProvider) else Resource.create({"service.name": app.name})
    scope = InstrumentationScope(instruments.SCOPE, "", instruments.SCHEMA_URL)
    operation = tracing.operation if tracing is not None else _no_operation
    return Source(named, scope, SpanLimits(), RandomIdGenerator(), operation)


def _no_operation(_: str) -> Mapping[str, str]:
    return _PLAIN["sqlite"]


def budget_of(kept: KeptRequest, repeats: int) -> int:
    """Return how many queries the request would make with each repeated statement asked once."""
    analysis = fanout.analyse(kept, repeats)
    spare = sum(finding.group.runs - 1 for finding in analysis.findings if finding.is_warning and finding.group)
    return kept.query_count - spare


def pytest_of(kept: KeptRequest, repeats: int) -> str:
    """Return a test that sends the request again and asserts the number of queries that it should need."""
    budget = budget_of(kept, repeats)
    name = "".join(
        letter if letter.isalnum() else "_" for letter in f"{kept.method} {kept.route.partition(' ')[2]}".lower()
    )
    while "__" in name:
        name = name.replace("__", "_")
    findings = [finding for finding in fanout.analyse(kept, repeats).findings if finding.is_warning]
    told = "".join(f"    # {finding.text}. Mend: {finding.mend}.\n" for finding in findings).replace("\r", " ")
    arguments = f", method={kept.method!r}" if kept.method not in ("GET",) else ""
    return (
        f'"""{kept.route} made {kept.query_count} queries; it should need {budget}."""\n\n'
        "from telemetry.testing import assert_max_queries\n\n\n"
        f"def test_{name.strip('_')}_needs_few_queries(client):  # a fixture: app.test_client() of the instrumented app\n"
        f"{told}"
        f"    with assert_max_queries({budget}):\n"
        f"        response = client.open({kept.path!r}{arguments})\n"
        f"    assert response.status_code == {kept.status or 200}\n"
    )
