"""The overview as HTML: the page, and the part of it that is fetched again and again."""

from __future__ import annotations

import functools
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from flask import Response, current_app, request, url_for

from telemetry.admin import answers, attention, drawing, exporters, overview, state, timeline
from telemetry.exporters.registry import is_switched_off
from telemetry.instrumentation.capture import excludes
from telemetry.recent import Traces

if TYPE_CHECKING:
    from telemetry.admin import workers
    from telemetry.admin.admin import Admin
    from telemetry.settings import TelemetrySettings

LIBRARIES: Final = ("htmx.min.js", "uplot.min.js", "uplot.min.css")
RELOAD_S: Final = 5
"""How often the page loads itself anew where no script can refresh it."""


def page(admin: Admin) -> Response:
    """Answer with the overview."""
    now, settings = time.time_ns(), admin.reader.settings
    chosen = state.State.parse(request.args)
    view = _view(admin, chosen, now)
    shown = view["overview"]
    points = timeline.select(shown.windows, shown.slices, chosen.range, chosen.route or None, now)
    view["chart"] = drawing.chart(points, settings.good_below_ms, settings.poor_above_ms)
    return answers.page("overview.html", **common(admin) | view)


def live(admin: Admin) -> Response:
    """Answer with the part of the overview that changes."""
    return answers.page("_live.html", **_view(admin, state.State.parse(request.args), time.time_ns()))


def common(admin: Admin) -> dict[str, Any]:
    """Return what the layout of every page needs."""
    return {
        "title": admin.title,
        "here": (request.endpoint or "").rpartition(".")[2],
        "links": _resolved(admin.links),
        "vendored": _has_libraries(),
        "reload_s": RELOAD_S,
        "now_unix_nano": time.time_ns(),
    }


def _view(admin: Admin, chosen: state.State, now_unix_nano: int) -> dict[str, Any]:
    reader = admin.reader
    requests, settings = reader.all(), reader.settings
    shown = overview.build(reader.figures, settings, now_unix_nano, Traces(requests))
    rows, more = chosen.select(shown.rows)
    exporting, of_workers = exporters.rows(admin.exporting(), now_unix_nano), _workers(admin, now_unix_nano)
    notes = attention.notes(
        shown,
        settings,
        attention.fan_out(reader, requests, shown.windows, now_unix_nano),
        exporting,
        attention.Missing.of(reader),
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
        "workers": of_workers,
        "switched_off": is_switched_off(),
        "some_page": functools.partial(some_page, settings),
    }


def _workers(admin: Admin, now_unix_nano: int) -> Sequence[workers.Row]:
    """Return the workers of the server, if there are several."""
    if admin.reader is admin.own_reader:
        return ()
    from telemetry.admin import workers

    found = workers.rows(admin.reader, now_unix_nano)
    return found if len(found) > 1 else ()  # others may have ended


def some_page(settings: TelemetrySettings) -> str | None:
    """Return the address of a page of the app that is measured, as a shell takes it: `/` if it has one, else the first without
    arguments; `None` without any.
    """
    rules = [
        rule.rule
        for rule in current_app.url_map.iter_rules()
        if "GET" in (rule.methods or ()) and not rule.arguments and not excludes(rule, settings.excluded_routes)
    ]
    if not rules:
        return None
    path = "/" if "/" in rules else rules[0]
    return shlex.quote(f"{request.host_url.rstrip('/')}{quote(request.script_root + path)}")


def _resolved(links: Mapping[str, str]) -> list[tuple[str, str]]:
    resolved = []
    for label, endpoint in links.items():
        with suppress(Exception):  # whatever functions of the app's own for its addresses raise
            resolved.append((label, url_for(endpoint)))
    return resolved


def _has_libraries() -> bool:
    folder = answers.FOLDER / "static" / "vendor"
    return all((folder / name).is_file() for name in LIBRARIES)
