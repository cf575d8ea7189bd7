"""The routes of the admin pages. What answers them is imported when the first request for one of them comes: an app that nobody
looks at starts quicker and is the smaller for it, as `docs/PERFORMANCE.md` has it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from flask import Blueprint, Response, request

if TYPE_CHECKING:
    from telemetry.admin.requests_facts import Reader, Source
    from telemetry.exporters.prometheus import ScrapedReader
    from telemetry.exporters.status import Exporting
    from telemetry.workers import Workers

Look = Callable[[], Sequence["Exporting"]]
METRICS_PATH: Final = "/metrics"
_READER: Final = "telemetry.admin.reader"
_PAGES: Final = "/admin/performance"
_REQUESTS: Final = f"{_PAGES}/requests"
API: Final = "/api/admin/performance"


@dataclass(frozen=True)
class Admin:
    """What the admin pages of one app show, and how."""

    source: Source
    title: str
    links: Mapping[str, str]
    look_at_exporters: Look

    @functools.cached_property
    def own_reader(self) -> Reader:
        """What the figures and the kept requests of this process are read by."""
        from telemetry.admin.requests_facts import Reader

        return Reader(self.source)

    @property
    def reader(self) -> Reader:
        """What the figures and the kept requests are read by, of all workers of the server, for the request that is served."""
        found: Reader | None = request.environ.get(_READER)
        if found is None:
            found, workers = self.own_reader, self.workers()
            if workers is not None and workers.has_figures_of_others():
                from telemetry.admin.workers import JointReader

                found = JointReader(found, workers)
            request.environ[_READER] = found
        return found

    def workers(self) -> Workers | None:
        """Return the workers of the server, where the app is instrumented."""
        return getattr(self.source, "workers", None)

    def scraped(self) -> ScrapedReader | None:
        """Return the exporter of this process that Prometheus fetches from, if there is one."""
        found = (exporter for exporter in self.look_at_exporters() if hasattr(exporter, "page"))
        return cast("ScrapedReader | None", next(found, None))

    def exporting(self) -> Sequence[Exporting]:
        """Return the exporters of all workers of the server."""
        return self.reader.exporting(self.look_at_exporters())


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


def _view(route: Route, admin: Admin) -> Callable[..., Response]:
    """Return a function with a name of its own: Flask-Limiter, Flask-WTF and Flasgger ask every view for one."""

    def view(**arguments: Any) -> Response:
        module, _, name = route.view.partition(":")
        answer: Callable[..., Response] = getattr(import_module(f"telemetry.admin.{module}"), name)
        return answer(admin, **arguments)

    view.__name__ = view.__qualname__ = route.endpoint
    return view
