"""The server span of a request: a real span that costs little while nobody looks at it, or the SDK's own at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, SamplingResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from telemetry import instruments

if TYPE_CHECKING:
    from opentelemetry.trace import Span
    from opentelemetry.util.types import Attributes, AttributeValue

    from telemetry.requests import RequestRecord

Environ = Mapping[str, Any]


class _EnvironGetter(Getter[Environ]):
    def get(self, carrier: Environ, key: str) -> list[str] | None:
        value = carrier.get("HTTP_" + key.upper().replace("-", "_"))
        return None if value is None else [str(value)]

    def keys(self, carrier: Environ) -> list[str]:
        return [key[5:].lower().replace("_", "-") for key in carrier if key.startswith("HTTP_")]


_environ_getter = _EnvironGetter()
SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
"""Where a context keeps its span, as the public API puts it there."""


@functools.lru_cache(maxsize=8)
def _environ_names(propagator: TextMapPropagator) -> tuple[str, ...]:
    return tuple("HTTP_" + field.upper().replace("-", "_") for field in sorted(propagator.fields))


def incoming_context(environ: Environ) -> Context | None:
    """Return the context that the request's headers carry (`traceparent`, `baggage`, or what the propagators ask for)."""
    propagator = propagate.get_global_textmap()
    for name in _environ_names(propagator):
        if name in environ:
            return propagator.extract(environ, Context(), _environ_getter)
    return None


def request_attributes(environ: Environ, method: str, rule: str | None) -> dict[str, AttributeValue]:
    """Return the attributes a server span starts with, by the stable HTTP conventions; the query string is not kept."""
    attributes: dict[str, AttributeValue] = {
        instruments.HTTP_REQUEST_METHOD: method,
        "url.scheme": str(environ.get("wsgi.url_scheme", "http")),
        "url.path": str(environ.get("SCRIPT_NAME", "")) + str(environ.get("PATH_INFO", "")),
    }
    if rule is not None:
        attributes[instruments.HTTP_ROUTE] = rule
    original = str(environ.get("REQUEST_METHOD", ""))
    if original != method:
        attributes["http.request.method_original"] = original
    for name, key in (("client.address", "REMOTE_ADDR"), ("user_agent.original", "HTTP_USER_AGENT")):
        if environ.get(key):
            attributes[name] = str(environ[key])
    address, port = _server(environ)
    if address:
        attributes["server.address"] = address
    if port.isdecimal():
        attributes["server.port"] = int(port)
    protocol = str(environ.get("SERVER_PROTOCOL", "")).partition("/")[2]
    if protocol:
        attributes["network.protocol.version"] = protocol
    return attributes


def _server(environ: Environ) -> tuple[str, str]:
    """Return address and port that the client has asked for, which is what the `Host` header says; else the server's own."""
    host = str(environ.get("HTTP_HOST") or "")
    if not host:
        return str(environ.get("SERVER_NAME", "")), str(environ.get("SERVER_PORT", ""))
    address, colon, port = host.rpartition(":")
    if not (colon and port.isdecimal()):
        address, port = host, str(environ.get("SERVER_PORT", ""))
    return address.strip("[]"), port


def server_kind(parent: Context) -> SpanKind:
    """Return the kind of a request's span: one that is served inside a span of this process is internal to it."""
    around = trace.get_current_span(parent).get_span_context()
    return SpanKind.INTERNAL if around.is_valid and not around.is_remote else SpanKind.SERVER


def span_name(method: str, rule: str | None) -> str:
    """Return `METHOD rule`, or the method alone where no rule matched (HTTP conventions, "Name")."""
    shown = "HTTP" if method == "_OTHER" else method
    return shown if rule is None else f"{shown} {rule}"


def has_processors(provider: TracerProvider) -> bool:
    """Tell whether somebody listens to the spans of `provider`; where that can't be told, assume so."""
    multi = getattr(provider, "_active_span_processor", None)
    return bool(getattr(multi, "_span_processors", True))


class DeferredSpan(trace.Span):
    """The current span of a request whose spans nobody listens to.

    It has ids, a sampling decision and attributes as any span has, so that app code, child spans, propagation and log
    correlation work; each is made when it is first asked for. Thread-safe.
    """

    __slots__ = ("_environ", "_made", "_parent", "_provider", "_record", "_result", "_trace_id", "attributes", "name")

    def __init__(self, provider: TracerProvider, parent: Context, record: RequestRecord, environ: Environ) -> None:
        self._provider = provider
        self._parent = parent
        self._record = record
        self._environ = environ
        self._made: SpanContext | None = None
        self._trace_id: int | None = None
        self._result: SamplingResult | None = None
        self.attributes: dict[str, AttributeValue] = {}
        self.name: str | None = None

    def get_span_context(self) -> SpanContext:
        return self._made or self._make()

    @property
    def is_made(self) -> bool:
        """Whether anybody has looked at the span."""
        return self._made is not None

    @property
    def trace_id(self) -> int:
        """The trace the request belongs to; cheaper than its span context."""
        if self._trace_id is None:
            parent = trace.get_current_span(self._parent).get_span_context()
            made = parent.trace_id if parent.is_valid else self._provider.id_generator.generate_trace_id()
            with _making:
                if self._trace_id is None:
                    self._trace_id = made
        return self._trace_id

    def _make(self) -> SpanContext:
        trace_id = self.trace_id
        with _making:
            if self._made is not None:
                return self._made
            provider, record = self._provider, self._record
            parent = trace.get_current_span(self._parent).get_span_context()
            rule = record.rule.rule if record.rule is not None else None
            result = provider.sampler.should_sample(
                self._parent,
                trace_id,
                span_name(record.method, rule),
                server_kind(self._parent),
                request_attributes(self._environ, record.method, rule),
                (),
            )
            flags = TraceFlags.SAMPLED if _is_sampled(result) else TraceFlags.DEFAULT
            generator = provider.id_generator
            if parent.trace_flags.random_trace_id if parent.is_valid else generator.is_trace_id_random():
                flags |= TraceFlags.RANDOM_TRACE_ID
            self._result = result
            self._made = SpanContext(
                trace_id,
                generator.generate_span_id(),
                False,
                TraceFlags(flags),
                result.trace_state,
            )
            return self._made

    def is_recording(self) -> bool:
        self.get_span_context()
        return not self._record.complete and self._result is not None and self._result.decision is not Decision.DROP

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        self.attributes.update(attributes)

    def update_name(self, name: str) -> None:
        self.name = name

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Events are not kept: nobody listens."""

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Links are not kept: nobody listens."""

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """The status is not kept: nobody listens."""

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Exceptions are not kept here: the record has its own."""

    def end(self, end_time: int | None = None) -> None:
        """The record ends the request."""


_making = threading.Lock()


def _is_sampled(result: SamplingResult) -> bool:
    return result.decision is Decision.RECORD_AND_SAMPLE


class Tracing:
    """Makes the spans of requests and queries on one tracer provider; one that is not the SDK's makes none."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer(instruments.SCOPE, schema_url=instruments.SCHEMA_URL)
        self._sdk = provider if isinstance(provider, TracerProvider) else None

    @property
    def listened_to(self) -> bool:
        """Whether spans have to be made at once, because a span processor is there to see them start."""
        return self._sdk is not None and has_processors(self._sdk)

    def deferred_span(self, parent: Context, record: RequestRecord, environ: Environ) -> DeferredSpan | None:
        """Return a span that makes itself when it is looked at; `None` where spans are switched off."""
        return None if self._sdk is None else DeferredSpan(self._sdk, parent, record, environ)

    def start_server_span(self, record: RequestRecord, environ: Environ, parent: Context) -> Span:
        """Start the SDK's own span for a request that has been routed."""
        rule = record.rule.rule if record.rule is not None else None
        attributes = request_attributes(environ, record.method, rule)
        span = self.tracer.start_span(
            span_name(record.method, rule), parent, server_kind(parent), attributes, start_time=record.start_unix_ns
        )
        return _with_attributes(span, attributes)

    def start_query_span(self, operation: Mapping[str, str], sql: str) -> Span:
        """Start the span of one query, in the current context."""
        name = " ".join(
            operation[part]
            for part in (instruments.DB_OPERATION_NAME, instruments.DB_COLLECTION_NAME)
            if part in operation
        )
        attributes = {**operation, instruments.DB_QUERY_TEXT: sql}
        span = self.tracer.start_span(name or "sqlite", kind=SpanKind.CLIENT, attributes=attributes)
        return _with_attributes(span, attributes)


def _with_attributes(span: Span, attributes: Mapping[str, AttributeValue]) -> Span:
    """Return `span` with its attributes, which the SDK throws away where a sampler returns attributes of its own."""
    kept = getattr(span, "attributes", None)
    if kept is not None and next(iter(attributes)) not in kept and span.is_recording():
        span.set_attributes(attributes)
    return span


def end_span(
    span: Span, error: BaseException | None, error_type: str | None, duration_ns: int, started_ns: int
) -> None:
    """End `span` `duration_ns` after `started_ns` (Unix time), as failed where there is an error type."""
    if error is not None:
        span.record_exception(error, escaped=True)
    if error_type is not None:
        span.set_attribute(instruments.ERROR_TYPE, error_type)
        span.set_status(Status(StatusCode.ERROR, None if error is None else f"{type(error).__name__}: {error}"))
    span.end(started_ns + duration_ns)


def error_type_of(error: BaseException) -> str:
    """Return the fully qualified class name of `error`, as `error.type` wants it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
