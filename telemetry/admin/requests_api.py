"""The JSON of the kept requests, and what can be taken away of one: OTLP JSON, a page for offline use, a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flask import Response, current_app

from telemetry import fanout
from telemetry.admin import answers, parameters, requests_facts
from telemetry.admin.missing_request import MissingRequestError

if TYPE_CHECKING:
    from telemetry.admin.admin import Admin
    from telemetry.admin.requests_facts import Reader
    from telemetry.recent import KeptRequest

SORTS: Final = ("started_at", "duration_ms", "query_count", "db_ms", "repeated", "lock_wait_ms", "commit_ms")
ALL: Final = ""
ANY_FINDING: Final = "any"
VERDICT_CHOICES: Final = (*fanout.VERDICTS, ANY_FINDING)
MAX_GROUP: Final = 9999


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
    detail = admin.reader.fact(find(admin.reader, request_id))
    for group in detail["groups"]:
        del group["code"]
    return answers.json(detail)


def plan(admin: Admin, request_id: str) -> Response:
    """Answer with the plan of one statement of a request."""
    kept = find(admin.reader, request_id)
    at = parameters.whole("group", 0, MAX_GROUP, least=0)
    found = admin.reader.plan(kept, at)
    if found.body is None:
        error = f"this request has no group {at}: they are counted from 0 to {found.groups - 1}"
        return answers.json({"error": error}, 404)
    return answers.json(found.body)


def otlp(admin: Admin, request_id: str) -> Response:
    """Answer with the spans of a request, or of all of a trace, as a file of OTLP JSON."""
    kept = find_all(admin.reader, request_id)
    spans = admin.reader.spans(kept, current_app._get_current_object())  # type: ignore[attr-defined]
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


def find(reader: Reader, request_id: str) -> KeptRequest:
    """Return a kept request by `TRACE_ID-SPAN_ID`, as it is written; by a trace id alone the newest one of the trace.

    Raises:
        MissingRequestError: there is none.
    """
    return find_all(reader, request_id)[0]


def find_all(reader: Reader, request_id: str) -> Sequence[KeptRequest]:
    """Return what `find` does; by a trace id alone all that are kept of the trace, the newest first."""
    found = reader.find(request_id)
    if not found:
        raise MissingRequestError(request_id)
    return found


def as_file(response: Response, name: str) -> Response:
    """Return `response` as one to be saved under `name`."""
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
