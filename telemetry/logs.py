"""Log lines that say which request they belong to.

    handler.addFilter(TraceContextFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s%(request_context)s"))

or, one JSON object a line, `handler.setFormatter(JsonFormatter())`. OpenTelemetry's own logging bridge needs neither: the current
span of a request is a real one, and the records that the bridge makes carry its ids.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

from flask import has_request_context, request
from opentelemetry import trace

REQUEST_ID_HEADER: Final = "X-Request-ID"
_REQUEST_ID: Final = re.compile(r"[\w.:+/=@-]{1,128}", re.ASCII)


class TraceContextFilter(logging.Filter):
    """Gives each record `trace_id`, `span_id` and `request_id`, as text that is empty where there is none.

    `request_context` has all three, ready to stand at the end of a line. The request id is what the client has sent as
    `X-Request-ID`, if that is a plain word of up to 128 characters.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        trace_id, span_id, request_id = _ids()
        record.trace_id, record.span_id, record.request_id = trace_id, span_id, request_id
        parts = (("trace_id", trace_id), ("span_id", span_id), ("request_id", request_id))
        shown = " ".join(f"{name}={value}" for name, value in parts if value)
        record.request_context = f" [{shown}]" if shown else ""
        return True


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time (RFC 3339, UTC), level, logger, message, ids, and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("trace_id", "span_id", "request_id"):
            if value := getattr(record, name, ""):
                line[name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _ids() -> tuple[str, str, str]:
    """Return the ids of the current span and request; logging must not fail, whatever a span is made of."""
    try:
        span = trace.get_current_span().get_span_context()
        trace_id, span_id = (f"{span.trace_id:032x}", f"{span.span_id:016x}") if span.is_valid else ("", "")
    except Exception:
        trace_id = span_id = ""
    given = request.headers.get(REQUEST_ID_HEADER, "") if has_request_context() else ""
    return trace_id, span_id, given if _REQUEST_ID.fullmatch(given) else ""
