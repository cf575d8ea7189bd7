"""The JSON of the admin pages: the spec's endpoints with its keys alone, and the dashboard's own beside them."""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request

from telemetry.admin import answers, timeline

if TYPE_CHECKING:
    from telemetry.performance import PerformanceMetrics, RouteStats
    from telemetry.settings import TelemetrySettings

SORT_KEYS: Final = ("p95_ms", "p99_ms", "avg_ms", "request_count")
ORDERS: Final = ("desc", "asc")
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 1000

_MOST_CHARACTERS = 100
_MOST_VALUES = 5
_WHOLE = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)


class ParameterError(Exception):
    """A query parameter is wrong; `answer` tells the client which, what it must be and what it was, cut if it was long."""

    def __init__(self, parameter: str, must_be: str, got: str | list[str]) -> None:
        self.parameter = parameter
        self.must_be = must_be
        self.got = _cut(got) if isinstance(got, str) else [_cut(value) for value in got[:_MOST_VALUES]]
        super().__init__(f"{parameter} must be {must_be}, got {self.got!r}")

    def answer(self) -> Response:
        """Return the 400 of this error."""
        body = {"error": str(self), "parameter": self.parameter, "must_be": self.must_be, "got": self.got}
        return answers.json(body, 400)


def add_routes(blueprint: Blueprint, metrics: PerformanceMetrics, settings: TelemetrySettings) -> None:
    """Give `blueprint` the JSON endpoints, reading from `metrics`; `settings` has the thresholds that a report names."""

    def snapshot() -> Response:
        return answers.json(metrics.snapshot())

    def routes() -> Response:
        limit = _whole("limit", DEFAULT_LIMIT, MAX_LIMIT)
        sort_by = _one_of("sort_by", SORT_KEYS)
        order = _one_of("order", ORDERS)
        return answers.json({"routes": ranked(metrics.route_stats(), sort_by, order)[:limit]})

    def points() -> Response:
        span = _one_of("range", tuple(timeline.RANGES_S), timeline.DEFAULT_RANGE)
        route = _single("route", "the name of one route")
        return answers.json(timeline.read(metrics, span, route, time.time_ns()).body())

    def report_facts() -> Response:
        from telemetry import report  # for the few who ask

        return answers.json(report.facts(metrics, settings))

    _add(blueprint, "/admin/performance/json", "performance_json", snapshot)
    _add(blueprint, "/admin/performance.json", "performance_json_alias", snapshot)
    _add(blueprint, "/api/admin/performance/routes", "performance_routes", routes)
    _add(blueprint, "/api/admin/performance/timeline", "performance_timeline", points)
    _add(blueprint, "/api/admin/performance/report", "performance_report", report_facts)
    blueprint.register_error_handler(ParameterError, ParameterError.answer)


def ranked(rows: Sequence[RouteStats], sort_by: str, order: str) -> list[RouteStats]:
    """Return `rows` by `sort_by`, equals by route name in rising order whatever `order` is."""
    by_name = sorted(rows, key=lambda row: row["route"])
    return sorted(by_name, key=operator.itemgetter(sort_by), reverse=order == "desc")


def _add(blueprint: Blueprint, rule: str, endpoint: str, view: Callable[[], Response]) -> None:
    blueprint.add_url_rule(rule, endpoint, view, methods=["GET"], strict_slashes=False)


def _single(parameter: str, must_be: str) -> str | None:
    given = request.args.getlist(parameter)
    if len(given) > 1:
        raise ParameterError(parameter, f"{must_be}, given once", given)
    return given[0] if given else None


def _whole(parameter: str, default: int, most: int) -> int:
    must_be = f"a whole number from 1 to {most}"
    given = _single(parameter, must_be)
    if given is None:
        return default
    if not _WHOLE.fullmatch(given) or int(given) > most:
        raise ParameterError(parameter, must_be, given)
    return int(given)


def _one_of(parameter: str, allowed: Sequence[str], default: str | None = None) -> str:
    must_be = f"one of {', '.join(allowed)}"
    given = _single(parameter, must_be)
    if given is None:
        return default or allowed[0]
    if given not in allowed:
        raise ParameterError(parameter, must_be, given)
    return given


def _cut(value: str) -> str:
    return value if len(value) <= _MOST_CHARACTERS else value[: _MOST_CHARACTERS - 1] + "…"
