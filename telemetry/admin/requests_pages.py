"""The pages of the kept requests: the list, one request, and both as files that open offline."""

from __future__ import annotations

import functools
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from flask import Response, request

from telemetry import fanout, figures
from telemetry.admin import answers, attention, exporters, overview, parameters, waterfall
from telemetry.admin.columns import Column, TableState
from telemetry.admin.pages import common, some_page
from telemetry.admin.requests_api import VERDICT_CHOICES, as_file, find, is_chosen
from telemetry.admin.requests_facts import REQUEST_ID, shown_databases

if TYPE_CHECKING:
    from telemetry.admin.admin import Admin
    from telemetry.admin.missing_request import MissingRequestError
    from telemetry.admin.requests_facts import Reader
    from telemetry.recent import KeptRequest
    from telemetry.settings import TelemetrySettings

MOST_ROWS: Final = 200
_WORST_IN_REPORT: Final = 10
_RETRY_AFTER_S: Final = 5


COLUMNS: Final = (
    Column("route", "request", "Route, and the path that was asked for", "asc"),
    Column("verdict", "verdict", "What its queries come to", "desc"),
    Column("query_count", "queries", "Database queries"),
    Column("repeated", "alike", "The most runs of one statement from one line"),
    Column("db_ms", "database", "Time in the database, commits included", unit="ms"),
    Column("duration_ms", "duration", "From the first byte of work to the first byte of the body", unit="ms"),
    Column("status", "status", "Status of the response"),
    Column("started_at", "when", "When it began", unit="UTC"),
)
_BY_KEY: Final = {column.key: column for column in COLUMNS}
_SEARCHED: Final = ("route", "path", "status", "error_type", "line")
_LEAST_OF_ID: Final = 8  # characters: fewer, such as a status, are in many ids by chance
_SEVERITY: Final = {kind: len(fanout.VERDICTS) - at for at, kind in enumerate(fanout.VERDICTS)}


@dataclass(frozen=True, slots=True)
class ListState(TableState):
    """The view of the list that a URL stands for; what a URL has wrong reads as the default."""

    sort: str = "started_at"
    verdict: str = ""
    errors: str = ""
    route: str = ""
    all: str = ""

    @classmethod
    def parse(cls, arguments: Mapping[str, str]) -> Self:
        """Return the state of a query string."""
        column = _BY_KEY.get(arguments.get("sort", ""), _BY_KEY["started_at"])
        order, verdict = arguments.get("order", ""), arguments.get("verdict", "")
        return cls(
            sort=column.key,
            order=order if order in ("asc", "desc") else column.first_order,
            q=arguments.get("q", "").strip()[:200],
            verdict=verdict if verdict in VERDICT_CHOICES else "",
            errors="1" if arguments.get("errors") == "1" else "",
            route=arguments.get("route", ""),
            all="1" if arguments.get("all") == "1" else "",
        )

    def select(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows that are chosen, in order."""
        words = self.q.casefold().split()
        span_ids = {row["span_id"] for row in rows}
        found = [
            row
            for row in rows
            if self.route in ("", row["route"])
            and all(_is_in(row, word, span_ids) for word in words)
            and (not self.errors or row["error_type"] is not None)
            and (not self.verdict or is_chosen(row["verdict"], self.verdict))
        ]
        found.sort(key=lambda row: row["started_at"], reverse=True)
        found.sort(key=self._value, reverse=self.order == "desc")
        return found

    def _value(self, row: Mapping[str, Any]) -> Any:
        return _SEVERITY[row["verdict"]] if self.sort == "verdict" else row[self.sort]


def _is_in(row: Mapping[str, Any], word: str, span_ids: Container[str]) -> bool:
    """Return whether a row has a word of the filter in it, or an id has it, or the beginning of one.

    Of a trace and a span, as in a `traceparent`, it is the request of the span if there is one, else all of the trace.
    """
    named = REQUEST_ID.search(word)
    if named is not None:
        wanted = named["span"] if named["span"] in span_ids else None
        return named["trace"] == row["trace_id"] and wanted in (None, row["span_id"])
    if len(word) >= _LEAST_OF_ID and (row["trace_id"].startswith(word) or row["span_id"] == word):
        return True
    return word == "traceparent:" or word in " ".join(str(row[name] or "") for name in _SEARCHED).casefold()


def listed(admin: Admin) -> Response:
    """Answer with the list of the kept requests."""
    return answers.page("requests.html", **common(admin) | _list(admin.reader))


def missing(admin: Admin, error: MissingRequestError) -> Response:
    """Answer with 404 or 503 where a request that was asked for can't be shown, as JSON or as a page."""
    status = 503 if error.is_silent else 404
    shown = parameters.cut(error.request_id)
    if answers.wants_json(request):
        why = "kept are the newest requests and the worst of each route; this one is not, or not any more"
        told = f"no request with the id {shown!r}: {why}"
        if error.is_silent:
            told = "a worker of the server that may keep this request does not answer: try again"
        response = answers.json({"error": told}, status)
    else:
        query = ListState.parse(request.args).query()
        view = {"is_silent": error.is_silent, "request_id": shown, "list_query": query}
        response = answers.page("request_gone.html", status, **common(admin) | view)
    if error.is_silent:
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return response


def live(admin: Admin) -> Response:
    """Answer with the part of the list that changes."""
    return answers.page("_requests.html", **_list(admin.reader))


def one(admin: Admin, request_id: str) -> Response:
    """Answer with the page of one request."""
    kept = find(admin.reader, request_id)
    url = exporters.trace_url(admin.reader.settings, admin.look_at_exporters)
    link = url.replace("{trace_id}", f"{kept.trace_id:032x}")
    is_jaeger = f":{exporters.JAEGER_UI_PORT}/" in link
    trace = {"trace_url": link, "trace_label": "open in Jaeger" if is_jaeger else "open the trace"}
    return answers.page("request.html", **common(admin) | _asked(admin.reader, kept) | trace, offline=False)


def as_html(admin: Admin, request_id: str) -> Response:
    """Answer with one request as a file that opens offline."""
    kept = find(admin.reader, request_id)
    shown = common(admin) | _asked(admin.reader, kept)
    page = answers.page("request_file.html", **shown, offline=True, css=answers.style())
    return as_file(page, f"request-{kept.request_id}.html")


def as_test(admin: Admin, request_id: str) -> Response:
    """Answer with a test that repeats one request and holds it to its number of queries."""
    made = Response(admin.reader.test(find(admin.reader, request_id)), mimetype="text/x-python")
    answers.harden(made)
    return as_file(made, "test_queries.py")


def report(admin: Admin) -> Response:
    """Answer with the overview and the worst requests as one file that opens offline."""
    page = answers.page("report_file.html", **common(admin) | _report(admin.reader), css=answers.style())
    return as_file(page, f"performance-{figures.day(time.time_ns())}.html")


def _list(reader: Reader) -> dict[str, Any]:
    chosen = ListState.parse(request.args)
    every = [reader.brief(kept) | {"line": _line(reader, kept)} for kept in reader.all()]
    rows = chosen.select(every)
    shown = len(rows) if chosen.all else MOST_ROWS
    return {
        "state": chosen,
        "columns": COLUMNS,
        "rows": rows[:shown],
        "more": max(0, len(rows) - shown),
        "chosen": len(rows),
        "kept": len(every),
        "settings": reader.settings,
        "verdicts": fanout.VERDICTS,
        "verdict_name": fanout.name_of,
        "databases": shown_databases(reader),
        "now_unix_nano": time.time_ns(),
        "some_page": functools.partial(some_page, reader.settings),
    }


def _line(reader: Reader, kept: KeptRequest) -> str:
    """Return the line of code of a request's worst finding."""
    warned = reader.known(kept).warned
    return "" if warned is None else warned.line


def _asked(reader: Reader, kept: KeptRequest) -> dict[str, Any]:
    """Return what the pages of one request show, with the plan that is asked for."""
    detail = reader.fact(kept)
    asked, groups = request.args.get("plan", ""), detail["groups"]
    at = int(asked) if asked.isdecimal() and len(asked) < 6 and int(asked) < len(groups) else None
    if at is not None:
        groups[at]["plan"] = reader.plan(kept, at).body
    return _one(reader.settings, detail) | {"asked": at}


def _one(settings: TelemetrySettings, detail: dict[str, Any]) -> dict[str, Any]:
    warned = {finding["group"] for finding in detail["findings"] if finding["is_warning"]}
    order = sorted(range(len(detail["groups"])), key=lambda number: -detail["groups"][number]["total_ms"])
    return {
        "one": detail,
        "list_query": ListState.parse(request.args).query(),
        "order": order,
        "asked": None,
        "warned": warned,
        "waterfall": waterfall.draw(detail, warned),
        "settings": settings,
        "verdict_name": fanout.name_of,
        "duration_status": figures.latency_status(detail["duration_ms"], settings),
        "now_unix_nano": time.time_ns(),
    }


def _report(reader: Reader) -> dict[str, Any]:
    now, settings = time.time_ns(), reader.settings
    shown = overview.build(reader.figures, settings, now)
    requests = reader.all()
    fan_outs = attention.fan_out(reader, requests, shown.windows, now)
    notes = attention.notes(shown, settings, fan_outs, (), attention.Missing.of(reader))
    return {
        "overview": shown,
        "notes": notes,
        "noted": {note.subject: note for note in notes if note.row is not None},
        "rows": sorted(shown.rows, key=lambda row: -row.stats["p95_ms"]),
        "requests": [_one(settings, detail) for detail in reader.facts(_worst(reader, requests))],
        "settings": settings,
        "now_unix_nano": now,
        "offline": True,
    }


def _worst(reader: Reader, requests: Sequence[KeptRequest]) -> list[KeptRequest]:
    """Return one request of each route that is not good, the worst first: by what is wrong with it, its queries, its duration."""
    ranked = []
    for kept in requests:
        brief = reader.brief(kept)
        status = figures.status_called(brief["severity"])
        if status is not figures.GOOD:
            ranked.append(((status.severity, _SEVERITY[brief["verdict"]], kept.query_count, kept.duration_ns), kept))
    ranked.sort(key=lambda each: each[0], reverse=True)
    of_routes: dict[str, KeptRequest] = {}
    for _, kept in ranked:
        of_routes.setdefault(kept.route, kept)
    return list(of_routes.values())[:_WORST_IN_REPORT]
