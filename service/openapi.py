"""The contract of the JSON endpoints as an OpenAPI document, served at `/api/openapi.json` and written to `docs/openapi.yaml`.

A test holds it against the URL map, and another one sends what it allows, and what it does not, to a running server.
"""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from service import openapi_requests
from service.admin import COOKIE
from service.openapi_parts import (
    COUNT,
    NUMBER,
    PERCENT,
    STARS,
    TEXT,
    Schema,
    answers,
    body,
    exactly,
    listed,
    operation,
    parameter,
    reference,
)
from service.text import TITLE
from telemetry.admin.api import ORDERS, SORT_KEYS
from telemetry.admin.parameters import DEFAULT_LIMIT, MAX_LIMIT
from telemetry.admin.timeline import DEFAULT_RANGE, RANGES_S

blueprint = Blueprint("openapi", __name__)
ROUTE_STATS = exactly(
    {
        "route": TEXT,
        "endpoint": TEXT,
        **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms", "avg_ms", "min_ms", "max_ms"), NUMBER),
        "request_count": COUNT,
        "error_count": COUNT,
        "last_updated": {"type": "string", "format": "date-time"},
    }
)
SNAPSHOT = exactly(
    {
        "cache_hit_rate": PERCENT,
        "uptime_seconds": NUMBER,
        "database": exactly(
            {"total_queries": COUNT, "avg_per_request": NUMBER, "max_per_request": COUNT, "count": COUNT}
        ),
        "ratings_post": exactly({"p95_latency_ms": NUMBER, "avg_latency_ms": NUMBER, "request_count": COUNT}),
        "endpoints": {"type": "object", "additionalProperties": reference("RouteStats")},
        "cache": exactly({"hits": COUNT, "misses": COUNT, "hit_rate_percent": PERCENT}),
        "resources": exactly(
            {"uptime_seconds": NUMBER, "cpu_percent": PERCENT, "memory_percent": PERCENT},
            optional=("cpu_percent", "memory_percent"),
        ),
    }
)
TIMELINE = exactly(
    {
        "start": {"type": "number"},
        "end": {"type": "number"},
        "routes": listed(TEXT),
        "time": listed({"type": "number"}),
        "duration_ms": listed(NUMBER),
        "is_error": listed({"type": "boolean"}),
        "route": listed(COUNT),
        "is_kept": listed({"type": "boolean"}),
        "trace_id": listed({"type": ["string", "null"], "pattern": "^[0-9a-f]{32}$"}),
        "span_id": listed({"type": ["string", "null"], "pattern": "^[0-9a-f]{16}$"}),
        "slices": exactly(
            {
                "start": listed({"type": "number"}),
                "end": listed({"type": "number"}),
                "count": listed(COUNT),
                **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), listed(NUMBER)),
                "worker": listed({"type": ["integer", "null"]}),
            }
        ),
    }
)
EXPORTER = exactly(
    {
        "name": TEXT,
        "signal": {"enum": ["traces", "metrics"]},
        "target": TEXT,
        "failing": {"type": "boolean"},
        "queued": COUNT,
        "queue_limit": COUNT,
        "sent": COUNT,
        "dropped": COUNT,
        "dropped_by": {"type": "object", "additionalProperties": COUNT},
        "failures": COUNT,
        "last_success": {"type": ["string", "null"], "format": "date-time"},
        "last_error": {"type": ["string", "null"]},
        "last_error_at": {"type": ["string", "null"], "format": "date-time"},
    }
)
WORKER = exactly(
    {
        "pid": {"type": "integer"},
        "answers": {"type": "boolean"},
        **{
            name: {"type": ["number", "null"], "minimum": 0}
            for name in ("uptime_seconds", "cpu_percent", "memory_bytes", "requests_per_second")
        },
    }
)
SCHEMAS: Final[dict[str, Schema]] = {
    "Error": {
        "type": "object",
        "properties": {"error": TEXT, "parameter": TEXT, "must_be": TEXT, "got": {}},
        "required": ["error"],
    },
    "Rating": exactly(
        {
            "average": {"type": "number", "minimum": 0, "maximum": 5},
            "count": COUNT,
            "user": {"oneOf": [{"type": "null"}, exactly({"value": STARS})]},
        }
    ),
    "Tags": exactly({"tags": listed(TEXT)}),
    "RouteStats": ROUTE_STATS,
    "Snapshot": SNAPSHOT,
    "Timeline": TIMELINE,
    "Workers": exactly({"workers": listed(WORKER)}),
    "Exporters": exactly({"exporters": listed(EXPORTER)}),
    "CacheStatus": exactly(
        {
            "caches": {"type": "object", "additionalProperties": exactly({"entries": COUNT, "max_entries": COUNT})},
            "hits": COUNT,
            "misses": COUNT,
            "hit_rate": PERCENT,
        }
    ),
}
MEDIA_HASH = parameter(
    "media_hash", "path", {"type": "string", "minLength": 1}, "What the content of a video is known by."
)
WRITE_ERRORS = (403, 404, 413, 429, 503, 507)
PATHS: Final[dict[str, dict[str, Any]]] = {
    "/ping": {"get": operation("Is the server there?", answers(200, "It is.", exactly({"status": {"const": "ok"}})))},
    "/api/openapi.json": {"get": operation("This document.", answers(200, "OpenAPI 3.1.", {"type": "object"}))},
    "/api/ratings/{media_hash}": {
        "parameters": [MEDIA_HASH],
        "get": operation(
            "Average, count and the client's own rating.", answers(200, "The rating.", reference("Rating"), 404)
        ),
        "post": operation(
            "Set the client's own rating.",
            answers(201, "The rating as it is now.", reference("Rating"), *WRITE_ERRORS),
            requestBody=body({"value": STARS}, {"value": 4}),
        ),
    },
    "/rate": {
        "post": operation(
            "Set a rating by file name; kept for old clients.",
            answers(200, "It is set.", exactly({"success": {"const": True}, "rating": STARS}), *WRITE_ERRORS),
            requestBody=body(
                {"filename": {"type": "string", "minLength": 1}, "rating": STARS}, {"filename": "a.mp4", "rating": 4}
            ),
        )
    },
    "/api/tags/{media_hash}": {
        "parameters": [MEDIA_HASH],
        "get": operation("The tags of a video.", answers(200, "The tags.", reference("Tags"), 404)),
        "post": operation(
            "Add a tag.",
            answers(201, "The tags as they are now.", reference("Tags"), *WRITE_ERRORS),
            requestBody=body({"tag": TEXT}, {"tag": "holiday"}),
        ),
    },
    "/api/tags/{media_hash}/{tag}": {
        "parameters": [MEDIA_HASH, parameter("tag", "path", {"type": "string", "minLength": 1}, "The tag.")],
        "delete": operation(
            "Remove a tag.", answers(200, "The tags as they are now.", reference("Tags"), *WRITE_ERRORS)
        ),
    },
    "/admin/cache/status": {
        "get": operation(
            "Entries and bounds of each cache, lookups of all together.",
            answers(200, "The caches.", reference("CacheStatus"), 401),
            admin=True,
        )
    },
    "/admin/cache/refresh": {
        "post": operation(
            "Drop the caches and look at the folder again.",
            answers(
                200,
                "It is asked for.",
                exactly({"success": {"const": True}, "dropped": COUNT, "scan": TEXT}),
                *(401, 403, 413, 503, 507),
            ),
            admin=True,
        )
    },
    "/admin/performance/json": {
        "get": operation("Every figure.", answers(200, "The snapshot.", reference("Snapshot"), 401), admin=True)
    },
    "/admin/performance.json": {
        "get": operation("The same.", answers(200, "The snapshot.", reference("Snapshot"), 401), admin=True)
    },
    "/api/admin/performance/routes": {
        "get": operation(
            "The routes, in order.",
            answers(200, "The routes.", exactly({"routes": listed(reference("RouteStats"))}), 401),
            admin=True,
            parameters=[
                parameter(
                    "limit",
                    "query",
                    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
                    "How many routes at most.",
                ),
                parameter("sort_by", "query", {"enum": list(SORT_KEYS), "default": SORT_KEYS[0]}, "What to sort by."),
                parameter("order", "query", {"enum": list(ORDERS), "default": ORDERS[0]}, "Falling or rising."),
            ],
        )
    },
    "/api/admin/performance/timeline": {
        "get": operation(
            "The samples of the windows by time, and percentiles of one slice of time after another.",
            answers(200, "Columns of equal length; `route` counts in `routes`.", reference("Timeline"), 401),
            admin=True,
            parameters=[
                parameter("range", "query", {"enum": list(RANGES_S), "default": DEFAULT_RANGE}, "How far back."),
                parameter("route", "query", TEXT, "One route alone."),
            ],
        )
    },
    "/api/admin/performance/exporters": {
        "get": operation(
            "What leaves the process: queue, sent, dropped, last success and last error of each exporter.",
            answers(200, "The exporters that the server has set up.", reference("Exporters"), 401),
            admin=True,
        )
    },
    "/api/admin/performance/workers": {
        "get": operation(
            "The workers whose figures the admin pages show together.",
            answers(
                200, "Each worker, by its process; one that does not answer has no figures.", reference("Workers"), 401
            ),
            admin=True,
        )
    },
    "/api/admin/performance/report": {
        "get": operation(
            "What `local-video-server report` is written from.",
            answers(
                200,
                "Snapshot, queries of each route, workers that did not answer, thresholds.",
                reference("Report"),
                401,
            ),
            admin=True,
        )
    },
}
PATHS.update(openapi_requests.PATHS)
SCHEMAS.update(openapi_requests.SCHEMAS)
SCHEMAS["Report"] = {
    "type": "object",
    "properties": {
        "app": TEXT,
        "snapshot": reference("Snapshot"),
        "queries": {"type": "object"},
        "silent_workers": {"type": "array", "items": {"type": "integer"}},
        "thresholds": {"type": "object"},
    },
    "required": ["app", "snapshot", "queries", "silent_workers", "thresholds"],
}
DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {
        "title": TITLE,
        "version": "1",
        "description": "The JSON endpoints. Durations are milliseconds where a name ends in `_ms`, else seconds.",
        "license": {"name": "MIT", "identifier": "MIT"},
    },
    "servers": [{"url": "/"}],
    "paths": PATHS,
    "components": {
        "schemas": SCHEMAS,
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "The admin token, where the server asks for it.",
            },
            "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        },
    },
}


@blueprint.get("/api/openapi.json")
def document() -> ResponseReturnValue:
    """Return the contract."""
    return jsonify(DOCUMENT)
