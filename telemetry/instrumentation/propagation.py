"""The trace context and baggage that come with a request's headers, and the `traceparent` that goes with its response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

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


_looked_at: tuple[object, bool] = (None, False)


def _is_w3c(propagator: TextMapPropagator) -> bool:
    """Tell whether it is OpenTelemetry's own for `traceparent`, alone or with the one for `baggage`.

    Others are asked: they may read more than the `fields` that they write, as B3 has two forms, or than their class says.
    """
    global _looked_at
    known, is_w3c = _looked_at
    if known is not propagator:
        of_one = getattr(propagator, "_propagators", ()) if type(propagator) is CompositePropagator else (propagator,)
        kinds = set(map(type, of_one))
        is_w3c = TraceContextTextMapPropagator in kinds <= {TraceContextTextMapPropagator, W3CBaggagePropagator}
        _looked_at = propagator, is_w3c
    return is_w3c


_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def incoming_context(environ: Environ) -> Context | None:
    """Return the context that the request's headers carry (`traceparent`, `baggage`, or what the propagators ask for)."""
    propagator = propagate.get_global_textmap()
    if _is_w3c(propagator) and not ("HTTP_TRACESTATE" in environ or "HTTP_BAGGAGE" in environ):
        header = environ.get("HTTP_TRACEPARENT")
        if header is None:
            return None
        found = _TRACEPARENT.fullmatch(str(header))
        if found is not None:
            trace_id, span_id, flags = found.groups()
            ids = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
            return Context({SPAN_KEY: trace.NonRecordingSpan(ids)}) if ids.is_valid else None
    return propagator.extract(environ, Context(), _environ_getter) or None


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """Return the value of a `traceparent` header."""
    return f"00-{trace_id.to_bytes(16).hex()}-{span_id.to_bytes(8).hex()}-{flags:02x}"
