"""The part of the OpenAPI document about the requests that are kept."""

from __future__ import annotations

from typing import Any, Final

from service.openapi_parts import (
    COUNT,
    ERRORS,
    NUMBER,
    TEXT,
    Schema,
    answers,
    exactly,
    listed,
    operation,
    parameter,
    reference,
)
from telemetry import fanout, figures
from telemetry.admin.parameters import DEFAULT_LIMIT, MAX_LIMIT
from telemetry.admin.requests_api import MAX_GROUP, SORTS, VERDICT_CHOICES


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [{"type": "null"}, schema]}


_TRACE_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_BRIEF: Final[dict[str, Schema]] = {
    "trace_id": _TRACE_ID,
    "span_id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    **dict.fromkeys(("route", "endpoint", "path"), TEXT),
    "status": COUNT,
    "error_type": _or_null(TEXT),
    "started_at": {"type": "string", "format": "date-time"},
    "duration_ms": NUMBER,
    "transfer_ms": _or_null(NUMBER),
    "query_count": COUNT,
    **dict.fromkeys(("db_ms", "db_share_percent", "lock_wait_ms"), NUMBER),
    "commit_count": COUNT,
    "commit_ms": NUMBER,
    "statements": COUNT,
    "repeated": COUNT,
    "verdict": {"enum": list(fanout.VERDICTS)},
    "severity": {"enum": [status.word for status in figures.STATUSES]},
}
_LINE = _or_null(exactly({"file": TEXT, "line": COUNT, "function": TEXT}))
SCHEMAS: Final[dict[str, Schema]] = {
    "Request": exactly(_BRIEF),
    "Plan": exactly(
        {
            "file": TEXT,
            "steps": listed(exactly({"detail": TEXT, "depth": COUNT, "warning": TEXT})),
            "error": _or_null(TEXT),
        }
    ),
    "QueryGroup": exactly(
        {
            "statement": TEXT,
            "sql": TEXT,
            "runs": COUNT,
            "distinct": COUNT,
            **dict.fromkeys(("total_ms", "each_ms", "longest_ms"), NUMBER),
            "rows": _or_null(COUNT),
            "errors": COUNT,
            "source": _LINE,
            "called_from": _LINE,
            "plan": _or_null(reference("Plan")),
        }
    ),
    "Finding": exactly(
        {
            "kind": {"enum": [*fanout.VERDICTS, *fanout.REMARKS]},
            "is_warning": {"type": "boolean"},
            "text": TEXT,
            "mend": TEXT,
            "group": _or_null(COUNT),
            "feeder": _or_null(COUNT),
        }
    ),
    "RequestDetail": exactly(
        {
            **_BRIEF,
            "findings": listed(reference("Finding")),
            "checked": _or_null(TEXT),
            "groups": listed(reference("QueryGroup")),
            "queries": listed(
                exactly(
                    {
                        "group": _or_null(COUNT),
                        "start_ms": {"type": "number"},
                        "duration_ms": NUMBER,
                        "rows": _or_null(COUNT),
                        "error_type": _or_null(TEXT),
                    }
                )
            ),
            "commits": listed(
                exactly({"start_ms": {"type": "number"}, "duration_ms": NUMBER, "has_failed": {"type": "boolean"}})
            ),
        }
    ),
    "FanOut": exactly(
        {
            "routes": listed(
                exactly(
                    {
                        "route": TEXT,
                        "requests": COUNT,
                        **dict.fromkeys(("queries_p50", "queries_p95", "queries_max"), NUMBER),
                        "growth": _or_null(TEXT),
                        "lock_wait_ms": NUMBER,
                    }
                )
            ),
            "databases": listed(
                exactly(
                    {
                        "file": TEXT,
                        "wal_bytes": _or_null(COUNT),
                        "longest_write_ms": _or_null(NUMBER),
                        "longest_writer": _or_null(TEXT),
                    }
                )
            ),
        }
    ),
}
_OF_REQUEST = [
    parameter(
        "request_id",
        "path",
        {"type": "string", "pattern": "^[0-9a-f]{32}(-[0-9a-f]{16})?$"},
        "Trace id and span id of a request that is kept; by a trace id alone, its newest one.",
    )
]
_LEAST: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 999_999_999, "default": 0}
_OF_KEPT: Final = ERRORS | {
    404: "The request is not kept, or has no such group.",
    503: "The worker that keeps the request, or may, does not answer; `Retry-After` says when to come again.",
}
PATHS: Final[dict[str, dict[str, Any]]] = {
    "/api/admin/performance/requests": {
        "get": operation(
            "The newest requests and the worst of each route.",
            answers(200, "The requests.", exactly({"requests": listed(reference("Request")), "kept": COUNT}), 401),
            admin=True,
            parameters=[
                parameter("route", "query", TEXT, "One route alone."),
                parameter("min_queries", "query", _LEAST, "Only those with so many queries or more."),
                parameter("min_ms", "query", _LEAST, "Only those that took so long or longer."),
                parameter(
                    "errors", "query", {"enum": ["1", "0"]}, "Only those that failed, or only those that did not."
                ),
                parameter(
                    "verdict",
                    "query",
                    {"enum": list(VERDICT_CHOICES)},
                    "Only those with this verdict; `any` is any but `ok`.",
                ),
                parameter("sort_by", "query", {"enum": list(SORTS), "default": SORTS[0]}, "What to sort by."),
                parameter("order", "query", {"enum": ["desc", "asc"], "default": "desc"}, "Falling or rising."),
                parameter(
                    "limit",
                    "query",
                    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
                    "How many requests at most.",
                ),
            ],
        )
    },
    "/api/admin/performance/requests/{request_id}": {
        "parameters": _OF_REQUEST,
        "get": operation(
            "One request with its queries.",
            answers(200, "It.", reference("RequestDetail"), 401, 404, 503, words=_OF_KEPT),
            admin=True,
        ),
    },
    "/api/admin/performance/requests/{request_id}/plan": {
        "parameters": _OF_REQUEST,
        "get": operation(
            "How SQLite would run one of its statements.",
            answers(200, "The plan, or why there is none.", reference("Plan"), 401, 404, 503, words=_OF_KEPT),
            admin=True,
            parameters=[
                parameter(
                    "group",
                    "query",
                    {"type": "integer", "minimum": 0, "maximum": MAX_GROUP, "default": 0},
                    "Position among its groups.",
                )
            ],
        ),
    },
    "/api/admin/performance/requests/{request_id}/otlp": {
        "parameters": _OF_REQUEST,
        "get": operation(
            "One request as OTLP JSON, or by a trace id alone all of the trace.",
            answers(200, "Its spans.", {"type": "object"}, 401, 404, 503, words=_OF_KEPT),
            admin=True,
        ),
    },
    "/api/admin/performance/fanout": {
        "get": operation(
            "How many queries the requests of each route make, and what locks have cost.",
            answers(200, "The routes and the databases.", reference("FanOut"), 401),
            admin=True,
        )
    },
}
