"""The admin pages and their JSON, as one blueprint that any Flask app can carry."""

from __future__ import annotations

from telemetry.admin.blueprint import create_blueprint
from telemetry.admin.guard import require_admin

__all__ = ["create_blueprint", "require_admin"]
