"""The cache admin: what the caches of this worker hold, and a way to start them afresh."""

from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

from service.cache import KINDS
from service.db import bump
from service.state import connection, server
from telemetry.admin.guard import require_admin

blueprint = Blueprint("cache_admin", __name__, url_prefix="/admin/cache")
blueprint.before_request(require_admin)


@blueprint.get("/status")
def status() -> ResponseReturnValue:
    """Return entries, bounds, hits and misses."""
    return jsonify(server().cache.status())


@blueprint.post("/refresh")
def refresh() -> ResponseReturnValue:
    """Drop the caches of every worker and ask for a look at the folder."""
    dropped = server().cache.clear()
    with connection() as open_connection:
        for kind in KINDS:
            bump(open_connection, kind)
    server().watcher.request_scan()
    return jsonify({"success": True, "dropped": dropped, "scan": "requested"})
