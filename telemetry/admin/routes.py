"""The routes of the admin pages. What answers them is imported when the first request for one of them comes: an app that nobody
looks at starts quicker and is the smaller for it, as `docs/PERFORMANCE.md` has it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, NamedTuple

from flask import Blueprint, Response

from telemetry.admin.admin import Admin

METRICS_PATH: Final = "/metrics"
_PAGES: Final = "/admin/performance"
_REQUESTS: Final = f"{_PAGES}/requests"
API: Final = "/api/admin/performance"


class Route(NamedTuple):
    """A rule for GET, its endpoint within the blueprint, and the function `module:name` of this package that answers it: it
    takes the `Admin` and the arguments of the rule.
    """

    rule: str
    endpoint: str
    view: str


ROUTES: Final = (
    Route(_PAGES, "performance", "pages:page"),
    Route(f"{_PAGES}/live", "performance_live", "pages:live"),
    Route(f"{_PAGES}/report", "performance_report_file", "requests_pages:report"),
    Route(_REQUESTS, "performance_requests", "requests_pages:listed"),
    Route(f"{_REQUESTS}/live", "performance_requests_live", "requests_pages:live"),
    Route(f"{_REQUESTS}/<request_id>", "performance_request", "requests_pages:one"),
    Route(f"{_REQUESTS}/<request_id>/page", "performance_request_file", "requests_pages:as_html"),
    Route(f"{_REQUESTS}/<request_id>/test", "performance_request_test", "requests_pages:as_test"),
    Route(f"{_PAGES}/json", "performance_json", "api:snapshot"),
    Route(f"{_PAGES}.json", "performance_json_alias", "api:snapshot"),
    Route(f"{API}/routes", "performance_routes", "api:routes"),
    Route(f"{API}/timeline", "performance_timeline", "api:points"),
    Route(f"{API}/report", "performance_report", "api:report_facts"),
    Route(f"{API}/exporters", "performance_exporters", "exporters:listed"),
    Route(f"{API}/workers", "performance_workers", "workers:listed"),
    Route(f"{API}/fanout", "performance_fanout", "requests_api:fan_out"),
    Route(f"{API}/requests", "performance_requests_json", "requests_api:listed"),
    Route(f"{API}/requests/<request_id>", "performance_request_json", "requests_api:one"),
    Route(f"{API}/requests/<request_id>/plan", "performance_request_plan", "requests_api:plan"),
    Route(f"{API}/requests/<request_id>/otlp", "performance_request_otlp", "requests_api:otlp"),
)
_METRICS: Final = Route(METRICS_PATH, "metrics", "exporters:metrics")


def add_routes(blueprint: Blueprint, admin: Admin) -> None:
    """Give `blueprint` the routes of `admin`, each with or without a slash at its end; where Prometheus is one of its exporters,
    `/metrics` too, without.
    """
    for route in ROUTES:
        blueprint.add_url_rule(route.rule, route.endpoint, _view(route, admin), methods=["GET"], strict_slashes=False)
    if admin.scraped() is not None:
        blueprint.add_url_rule(_METRICS.rule, _METRICS.endpoint, _view(_METRICS, admin), methods=["GET"])


def answer(view: str, admin: Admin, *given: Any, **arguments: Any) -> Response:
    """Return what the function `view` of this package answers, imported when it is first called."""
    module, _, name = view.partition(":")
    function: Callable[..., Response] = getattr(import_module(f"telemetry.admin.{module}"), name)
    return function(admin, *given, **arguments)


def _view(route: Route, admin: Admin) -> Callable[..., Response]:
    """Return a function with a name of its own: Flask-Limiter, Flask-WTF and Flasgger ask every view for one."""

    def view(**arguments: Any) -> Response:
        return answer(route.view, admin, **arguments)

    view.__name__ = view.__qualname__ = route.endpoint
    return view
