"""The overview as HTML: the page, and the part of it that is fetched again and again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, Response, request, url_for
from werkzeug.routing import BuildError

from telemetry.admin import answers, attention, drawing, exporters, overview, requests_pages, state, timeline
from telemetry.admin.requests_facts import Reader

LIBRARIES: Final = ("htmx.min.js", "uplot.min.js", "uplot.min.css")
RELOAD_S: Final = 5
"""How often the page loads itself anew where no script can refresh it."""


def add_routes(
    blueprint: Blueprint,
    reader: Reader,
    *,
    title: str,
    links: Mapping[str, str],
    look_at_exporters: exporters.Look = tuple,
) -> None:
    """Give `blueprint` the overview of what `reader` has with its live part, and the pages of its requests."""

    def common() -> dict[str, Any]:
        return {
            "title": title,
            "links": _resolved(links),
            "vendored": _has_libraries(),
            "reload_s": RELOAD_S,
            "now_unix_nano": time.time_ns(),
        }

    def page() -> Response:
        now = time.time_ns()
        chosen = state.State.parse(request.args)
        view = _view(reader, chosen, now, look_at_exporters)
        shown = view["overview"]
        points = timeline.select(shown.windows, shown.slices, chosen.range, chosen.route or None, now)
        settings = reader.settings
        view["chart"] = drawing.chart(points, settings.good_below_ms, settings.poor_above_ms)
        return answers.page(
            "overview.html",
            **common() | view,
        )

    def live() -> Response:
        chosen = state.State.parse(request.args)
        view = _view(reader, chosen, time.time_ns(), look_at_exporters)
        return answers.page("_live.html", **view)

    for rule, endpoint, view in (
        ("/admin/performance", "performance", page),
        ("/admin/performance/live", "performance_live", live),
    ):
        blueprint.add_url_rule(rule, endpoint, view, methods=["GET"], strict_slashes=False)
    requests_pages.add_routes(blueprint, reader, common, look_at_exporters)


def _view(
    reader: Reader,
    chosen: state.State,
    now_unix_nano: int,
    look_at_exporters: exporters.Look,
) -> dict[str, Any]:
    requests, settings = reader.all(), reader.settings
    shown = overview.build(
        reader.metrics, settings, now_unix_nano, {kept.trace_id: kept.query_count for kept in reversed(requests)}
    )
    rows, more = chosen.select(shown.rows)
    exporting = exporters.rows(look_at_exporters, now_unix_nano)
    notes = attention.notes(
        shown, settings, attention.fan_out(reader, requests, shown.windows, now_unix_nano), exporting
    )
    most = len(notes) if chosen.notes else attention.MOST_NOTES
    return {
        "overview": shown,
        "settings": settings,
        "state": chosen,
        "columns": state.COLUMNS,
        "rows": rows,
        "more": more,
        "notes": notes[:most],
        "noted": {note.subject: note for note in notes if note.row is not None},
        "more_notes": max(0, len(notes) - most),
        "ranges": timeline.RANGE_WORDS,
        "chart": None,
        "now_unix_nano": now_unix_nano,
        "exporters": exporting,
        "app_url": f"{request.host_url.rstrip('/')}{request.script_root}/",
    }


def _resolved(links: Mapping[str, str]) -> list[tuple[str, str]]:
    resolved = []
    for label, endpoint in links.items():
        try:
            resolved.append((label, url_for(endpoint)))
        except BuildError:
            continue
    return resolved


def _has_libraries() -> bool:
    folder = answers.FOLDER / "static" / "vendor"
    return all((folder / name).is_file() for name in LIBRARIES)
