"""The JSON of the admin pages: the spec's endpoints with its keys alone, and the dashboard's own beside them."""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flask import Response

from telemetry.admin import answers, parameters, timeline
from telemetry.failure import clean

if TYPE_CHECKING:
    from telemetry.admin.admin import Admin
    from telemetry.document import RouteStats

SORT_KEYS: Final = ("p95_ms", "p99_ms", "avg_ms", "request_count")
ORDERS: Final = ("desc", "asc")


def snapshot(admin: Admin) -> Response:
    """Answer with the spec's document."""
    return answers.json(admin.reader.figures.snapshot())


def routes(admin: Admin) -> Response:
    """Answer with the figures of the routes, in the order that is asked for."""
    limit = parameters.whole("limit", parameters.DEFAULT_LIMIT, parameters.MAX_LIMIT)
    sort_by = parameters.one_of("sort_by", SORT_KEYS)
    order = parameters.one_of("order", ORDERS)
    return answers.json({"routes": ranked(admin.reader.figures.route_stats(), sort_by, order)[:limit]})


def points(admin: Admin) -> Response:
    """Answer with what the chart draws."""
    span = parameters.one_of("range", tuple(timeline.RANGES_S), timeline.DEFAULT_RANGE)
    route = parameters.single("route", "the name of one route")
    reader = admin.reader
    return answers.json(timeline.read(reader.figures, reader.all(), span, route, time.time_ns()).body())


def report_facts(admin: Admin) -> Response:
    """Answer with what the report says."""
    from telemetry import report  # for the few who ask

    return answers.json({"app": clean(str(admin.title)), **report.facts(admin.reader)})


def ranked(rows: Sequence[RouteStats], sort_by: str, order: str) -> list[RouteStats]:
    """Return `rows` by `sort_by`, equals by route name in rising order whatever `order` is."""
    by_name = sorted(rows, key=lambda row: row["route"])
    return sorted(by_name, key=operator.itemgetter(sort_by), reverse=order == "desc")
