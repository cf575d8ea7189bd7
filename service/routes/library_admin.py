"""The admin page of the library: what is in it, and which files are left out and why."""

from __future__ import annotations

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue

from service.library import list_problems, totals
from service.state import connection, server
from telemetry.admin.guard import require_admin

blueprint = Blueprint("library_admin", __name__, url_prefix="/admin/library")
blueprint.before_request(require_admin)


@blueprint.get("")
def index() -> ResponseReturnValue:
    """Show the totals and the problems."""
    problems, number = list_problems(connection())
    videos, duration_s, size_bytes = totals(connection())
    return render_template(
        "library_admin.html",
        problems=problems,
        problem_count=number,
        videos=videos,
        duration_s=duration_s,
        size_bytes=size_bytes,
        folder=server().videos,
        trouble=server().readable.trouble(),
        cache=server().cache.status(),
        is_indexing=server().watcher.is_indexing(),
    )
