"""What leaves the process: the panel, its JSON, and the page that Prometheus fetches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Response, abort, request

from telemetry import figures
from telemetry.admin import answers
from telemetry.document import rfc3339

if TYPE_CHECKING:
    from telemetry.admin.admin import Admin, Look
    from telemetry.exporters.status import Exporting, ExportStatus
    from telemetry.settings import TelemetrySettings

JAEGER_UI_PORT = 16686
_REASONS = {
    "queue_full": "did not fit into the queue",
    "rejected": "rejected by the backend",
    "shutdown": "left at shutdown",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One exporter as the panel shows it."""

    name: str
    signal: str
    target: str
    word: str
    """How it goes: `works`, `fails`, or `waits` for the first thing to send."""
    status: figures.Status
    last_success: str | None
    """How long ago the backend has last taken something; `None` if it never has."""
    queue: str | None
    """`None` where nothing waits, because figures are sent as they are."""
    sent: str
    dropped: str
    why_dropped: str
    last_error: str


def listed(admin: Admin) -> Response:
    """Answer with the exporters and how each of them is doing."""
    return answers.json({"exporters": [body(exporter) for exporter in admin.exporting()]})


def metrics(admin: Admin) -> Response:
    """Answer with the page that Prometheus fetches, of all workers of the server."""
    scraped = admin.scraped()
    if scraped is None:
        abort(404)
    accept, of_server = request.headers.get("Accept", ""), admin.workers()
    if of_server is None or not of_server.is_one_of_several():
        content, content_type = scraped.page(accept)
    else:
        from telemetry.admin.joint_reader import families
        from telemetry.exporters.prometheus import joint_page

        content, content_type = joint_page(families(scraped.families(), of_server), accept)
    return Response(content, content_type=content_type)


def body(exporter: Exporting) -> dict[str, Any]:
    """Return one exporter as JSON: numbers of spans for traces, of data points for metrics."""
    status = exporter.status
    return {
        "name": exporter.name,
        "signal": exporter.signal,
        "target": exporter.target,
        "failing": status.is_failing,
        "queued": status.queued,
        "queue_limit": status.queue_limit,
        "sent": status.sent,
        "dropped": status.dropped,
        "dropped_by": dict(status.dropped_by),
        "failures": status.failures,
        "last_success": _time(status.last_success_unix_ns),
        "last_error": status.last_error,
        "last_error_at": _time(status.last_error_unix_ns),
    }


def rows(exporting: Iterable[Exporting], now_unix_nano: int) -> list[Row]:
    """Return what the panel shows."""
    return [_row(exporter, exporter.status, now_unix_nano) for exporter in exporting]


def trace_url(settings: TelemetrySettings, look: Look) -> str:
    """Return the address of a trace, with `{trace_id}` in it: the one that is set, else Jaeger's if that is exported to."""
    if settings.trace_url:
        return settings.trace_url
    hosts = (urlsplit(exporter.target).hostname for exporter in look() if exporter.name == "jaeger")
    host = next(filter(None, hosts), None)
    return "" if host is None else f"http://{f'[{host}]' if ':' in host else host}:{JAEGER_UI_PORT}/trace/{{trace_id}}"


def _row(exporter: Exporting, status: ExportStatus, now_unix_nano: int) -> Row:
    if status.is_failing:
        word, judged = "fails", figures.POOR
    else:
        word = "works" if status.last_success_unix_ns else "waits"
        judged = figures.WARNING if status.dropped else figures.GOOD
    queue = None
    if status.queue_limit:
        queue = f"{figures.count(status.queued)} of {figures.count(status.queue_limit)}"
    error = status.last_error or ""
    if error and not status.is_failing:
        error = f"{error} ({_since(status.last_error_unix_ns, now_unix_nano)})"
    return Row(
        exporter.name,
        exporter.signal,
        exporter.target,
        word,
        judged,
        _since(status.last_success_unix_ns, now_unix_nano),
        queue,
        figures.count(status.sent),
        figures.count(status.dropped),
        ", ".join(
            f"{figures.count(number)} {_REASONS.get(reason, reason)}" for reason, number in status.dropped_by.items()
        ),
        error,
    )


def _since(unix_ns: int | None, now_unix_nano: int) -> str | None:
    return None if unix_ns is None else figures.ago(unix_ns, now_unix_nano)


def _time(unix_ns: int | None) -> str | None:
    return None if unix_ns is None else rfc3339(unix_ns // 10**9)
