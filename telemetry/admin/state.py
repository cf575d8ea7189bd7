"""What the reader of the page has chosen, kept in the URL: sort, order, filter, range of the chart, selected route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from telemetry.admin import timeline
from telemetry.admin.columns import Column, TableState

if TYPE_CHECKING:
    from telemetry.admin.overview import Row

ROWS_AT_FIRST: Final = 200


COLUMNS: Final = (
    Column("route", "route", "Method and URL rule", "asc"),
    Column("p50_ms", "p50", "Half of the requests were faster, milliseconds", unit="ms"),
    Column("p95_ms", "p95", "95 of 100 requests were faster, milliseconds", unit="ms"),
    Column("p99_ms", "p99", "99 of 100 requests were faster, milliseconds", unit="ms"),
    Column("avg_ms", "avg", "Mean, milliseconds", unit="ms"),
    Column("min_ms", "min", "Fastest, milliseconds", "asc", unit="ms"),
    Column("max_ms", "max", "Slowest, milliseconds", unit="ms"),
    Column("request_count", "requests", "Requests in the window"),
    Column("error_count", "errors", "Requests of the window that answered 5xx or raised"),
    Column("queries_avg", "queries", "Database queries a request, mean"),
    Column("queries_max", "most", "Most database queries in one request"),
    Column("last_updated", "last", "Since the newest request"),
)
_BY_KEY: Final = {column.key: column for column in COLUMNS}


@dataclass(frozen=True, slots=True)
class State(TableState):
    """The view that a URL stands for. What a URL has wrong reads as the default: a page is no place to scold."""

    sort: str = "p95_ms"
    range: str = timeline.DEFAULT_RANGE
    route: str = ""
    all: str = ""
    notes: str = ""

    @classmethod
    def parse(cls, arguments: Mapping[str, str]) -> Self:
        """Return the state of a query string."""
        sort = arguments.get("sort", "")
        column = _BY_KEY.get(sort, _BY_KEY[cls().sort])
        order = arguments.get("order", "")
        span = arguments.get("range", "")
        return cls(
            sort=column.key,
            order=order if order in ("asc", "desc") else column.first_order,
            q=arguments.get("q", "").strip()[:200],
            range=span if span in timeline.RANGES_S else timeline.DEFAULT_RANGE,
            route=arguments.get("route", ""),
            all="1" if arguments.get("all") == "1" else "",
            notes="all" if arguments.get("notes") == "all" else "",
        )

    def select(self, rows: Sequence[Row]) -> tuple[list[Row], int]:
        """Return the rows to show, in order, and how many more there are; the selected route is always among them."""
        words = self.q.casefold().split()
        found = [
            row for row in rows if all(word in f"{row.route} {row.stats['endpoint']}".casefold() for word in words)
        ]
        found.sort(key=lambda row: row.route)
        found.sort(key=lambda row: row.value(self.sort), reverse=self.order == "desc")
        if self.all or len(found) <= ROWS_AT_FIRST:
            return found, 0
        shown = found[:ROWS_AT_FIRST] + [row for row in found[ROWS_AT_FIRST:] if row.route == self.route]
        return shown, len(found) - len(shown)
