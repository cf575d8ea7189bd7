"""The JSON of the kept requests, and what can be taken away of one: OTLP JSON, a page for offline use, a test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from flask import Response, current_app

from telemetry import fanout
from telemetry.admin import answers, parameters, requests_facts

if TYPE_CHECKING:
    from telemetry.admin.requests_facts import Reader
    from telemetry.admin.routes import Admin
    from telemetry.recent import KeptRequest

SORTS: Final = ("started_at", "duration_ms", "query_count", "db_ms", "repeated", "lock_wait_ms")
ALL: Final = ""
ANY_FINDING: Final = "any"
VERDICT_CHOICES: Final = (*fanout.VERDICTS, ANY_FINDING)
MAX_GROUP: Final = 9999
RETRY_AFTER_S: Final = "5"
REQUEST_ID: Final = re.compile(r"(?P<trace>[0-9a-f]{32})(?:-(?P<span>[0-9a-f]{16}))?", re.ASCII)


def listed(admin: Admin) -> Response:
    """Answer with the kept requests that are asked for, in brief."""
    reader = admin.reader
    rows = [reader.brief(kept) for kept in selected(reader)]
    sort_by = parameters.one_of("sort_by", SORTS)
    order = parameters.one_of("order", ("desc", "asc"))
    rows.sort(key=lambda row: row[sort_by], reverse=order == "desc")
    limit = parameters.whole("limit", parameters.DEFAULT_LIMIT, parameters.MAX_LIMIT)
    return answers.json({"requests": rows[:limit], "kept": len(reader.all())})


def one(admin: Admin, request_id: str) -> Response:
    """Answer with all that is known of one request."""
    kept = find(admin.reader, request_id)
    if kept is None:
        return _missing(admin.reader, request_id)
    detail = admin.reader.fact(kept)
    if detail is None:
        return _not_told()
    for group in detail["groups"]:
        del group["code"]
    return answers.json(detail)


def plan(admin: Admin, request_id: str) -> Response:
    """Answer with the plan of one statement of a request."""
    kept = find(admin.reader, request_id)
    if kept is None:
        return _missing(admin.reader, request_id)
    at = parameters.whole("group", 0, MAX_GROUP, least=0)
    found = admin.reader.plan(kept, at)
    if found is None:
        return _not_told()
    if found.body is None:
        error = f"this request has no group {at}: they are counted from 0 to {found.groups - 1}"
        return answers.json({"error": error}, 404)
    return answers.json(found.body)


def otlp(admin: Admin, request_id: str) -> Response:
    """Answer with the spans of a request, or of all of a trace, as a file of OTLP JSON."""
    kept = find_all(admin.reader, request_id)
    if not kept:
        return _missing(admin.reader, request_id)
    spans = admin.reader.spans(kept, current_app._get_current_object())  # type: ignore[attr-defined]
    if spans is None:
        return _not_told()
    return as_file(answers.json({"resourceSpans": spans}), f"{request_id}.json")


def fan_out(admin: Admin) -> Response:
    """Answer with what the queries of the kept requests come to, route by route."""
    return answers.json(requests_facts.fan_out(admin.reader))


def selected(reader: Reader) -> Sequence[KeptRequest]:
    """Return the kept requests that the query parameters choose, the newest first."""
    route = parameters.single("route", "the name of one route")
    least_queries = parameters.whole("min_queries", 0, 999_999_999, least=0)
    least_ms = parameters.whole("min_ms", 0, 999_999_999, least=0)
    errors = parameters.one_of("errors", ("1", "0"), ALL)
    verdict = parameters.one_of("verdict", VERDICT_CHOICES, ALL)
    return [
        kept
        for kept in reader.all()
        if (route is None or kept.route == route)
        and kept.query_count >= least_queries
        and kept.duration_ns >= least_ms * 1e6
        and (errors == ALL or (kept.error_type is not None) == (errors == "1"))
        and (verdict == ALL or is_chosen(reader.known(kept).summary.verdict, verdict))
    ]


def is_chosen(verdict: str, wanted: str) -> bool:
    """Return whether a request of this verdict is among those of `wanted`, one of `VERDICT_CHOICES`."""
    return verdict != fanout.OK if wanted == ANY_FINDING else verdict == wanted


def find(reader: Reader, request_id: str) -> KeptRequest | None:
    """Return a kept request by `TRACE_ID-SPAN_ID`, as it is written; by a trace id alone the newest one of the trace."""
    return next(iter(find_all(reader, request_id)), None)


def find_all(reader: Reader, request_id: str) -> Sequence[KeptRequest]:
    """Return what `find` does; by a trace id alone all that are kept of the trace, the newest first."""
    ids = REQUEST_ID.fullmatch(request_id)
    if ids is None:
        return ()
    return reader.find(int(ids["trace"], 16), None if ids["span"] is None else int(ids["span"], 16))


def _missing(reader: Reader, request_id: str) -> Response:
    """Return the 404 that says why a request is not there, or where a worker has not answered that it may be there yet."""
    if not reader.is_sure:
        return _not_told()
    shown: Any = request_id if len(request_id) <= 64 else request_id[:63] + "…"
    why = "kept are the newest requests and the worst of each route; this one is not, or not any more"
    return answers.json({"error": f"no request with the id {shown!r}: {why}"}, 404)


def _not_told() -> Response:
    """Return the 503 that says that the worker which keeps a request, or may keep it, is silent."""
    response = answers.json(
        {"error": "a worker of the server that may keep this request does not answer: try again"}, 503
    )
    response.headers["Retry-After"] = RETRY_AFTER_S
    return response


def as_file(response: Response, name: str) -> Response:
    """Return `response` as one to be saved under `name`."""
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
