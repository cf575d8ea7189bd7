"""The JSON of the admin pages: the spec's endpoints with its keys alone, and the dashboard's own beside them."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response

from telemetry.admin import answers, parameters, timeline

if TYPE_CHECKING:
    from telemetry.admin.requests_facts import Reader
    from telemetry.performance import RouteStats

SORT_KEYS: Final = ("p95_ms", "p99_ms", "avg_ms", "request_count")
ORDERS: Final = ("desc", "asc")


def add_routes(blueprint: Blueprint, reader: Reader) -> None:
    """Give `blueprint` the JSON endpoints of what `reader` has."""

    def snapshot() -> Response:
        return answers.json(reader.metrics.snapshot())

    def routes() -> Response:
        limit = parameters.whole("limit", parameters.DEFAULT_LIMIT, parameters.MAX_LIMIT)
        sort_by = parameters.one_of("sort_by", SORT_KEYS)
        order = parameters.one_of("order", ORDERS)
        return answers.json({"routes": ranked(reader.metrics.route_stats(), sort_by, order)[:limit]})

    def points() -> Response:
        span = parameters.one_of("range", tuple(timeline.RANGES_S), timeline.DEFAULT_RANGE)
        route = parameters.single("route", "the name of one route")
        return answers.json(timeline.read(reader.metrics, span, route, time.time_ns()).body())

    def report_facts() -> Response:
        from telemetry import report  # for the few who ask

        return answers.json(report.facts(reader.metrics, reader.settings, reader))

    add(blueprint, "/admin/performance/json", "performance_json", snapshot)
    add(blueprint, "/admin/performance.json", "performance_json_alias", snapshot)
    add(blueprint, "/api/admin/performance/routes", "performance_routes", routes)
    add(blueprint, "/api/admin/performance/timeline", "performance_timeline", points)
    add(blueprint, "/api/admin/performance/report", "performance_report", report_facts)
    blueprint.register_error_handler(parameters.ParameterError, parameters.ParameterError.answer)


def ranked(rows: Sequence[RouteStats], sort_by: str, order: str) -> list[RouteStats]:
    """Return `rows` by `sort_by`, equals by route name in rising order whatever `order` is."""
    by_name = sorted(rows, key=lambda row: row["route"])
    return sorted(by_name, key=operator.itemgetter(sort_by), reverse=order == "desc")


def add(blueprint: Blueprint, rule: str, endpoint: str, view: Callable[..., Response]) -> None:
    """Give `blueprint` a view for GET, with or without a slash at its end."""
    blueprint.add_url_rule(rule, endpoint, view, methods=["GET"], strict_slashes=False)
