"""What needs a look: the few sentences that a colleague would say, worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from telemetry import fanout
from telemetry.admin import figures
from telemetry.admin.figures import GOOD, WARNING, Status

if TYPE_CHECKING:
    from telemetry.admin.overview import Overview, Row
    from telemetry.admin.requests_facts import Reader
    from telemetry.recent import KeptRequest
    from telemetry.settings import TelemetrySettings

MOST_NOTES: Final = 8
_FEW = 20


class Fact(NamedTuple):
    """What stands out: a sentence, and the trace id of the request that proves it, if one does."""

    text: str
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """What is the matter with a route, or with what `subject` names where `row` is `None`."""

    subject: str
    facts: tuple[Fact, ...]
    status: Status
    rule: str
    row: Row | None


def fan_out(reader: Reader, requests: Sequence[KeptRequest]) -> dict[str, Fact]:
    """Return what stands out in the queries of each route: the finding that took most runs, else growth."""
    found: dict[str, Fact] = {}
    most: dict[str, int] = {}
    for kept in requests:
        warned = reader.known(kept).warned
        if warned is None or warned.runs <= most.get(kept.route, 0):
            continue
        most[kept.route] = warned.runs
        line = f" {warned.line}" if warned.line else ""
        told = f"{fanout.name_of(warned.kind)}: {figures.count(warned.runs)} of "
        found[kept.route] = Fact(
            f"{told}{figures.plural(kept.query_count, 'query')} alike{line}", f"{kept.trace_id:032x}"
        )
    for growth in reader.growth(requests):
        found.setdefault(growth.route, Fact(growth.text))
    return found


def notes(overview: Overview, settings: TelemetrySettings, fan_outs: Mapping[str, Fact] | None = None) -> list[Note]:
    """Return a note for each route, and for the cache, that isn't good; the worst and then the slowest first."""
    told = fan_outs or {}
    of_routes = [note for row in overview.rows if (note := _of_route(row, settings, told.get(row.route))) is not None]
    of_routes.sort(key=lambda note: (-note.status.severity, -_p95_ms(note), note.subject))
    of_cache = _of_cache(overview, settings)
    return of_routes if of_cache is None else [*of_routes, of_cache]


def _of_route(row: Row, settings: TelemetrySettings, fan_out: Fact | None = None) -> Note | None:
    stats = row.stats
    requests, failed = stats["request_count"], stats["error_count"]
    facts, rules, statuses = [], [], []
    if row.latency is not GOOD:
        few = f" of {figures.plural(requests, 'request')} only" if requests < _FEW else ""
        facts.append(Fact(f"p95 {figures.milliseconds(stats['p95_ms'])}{few}", row.examples.get("max_ms")))
        rules.append(figures.latency_rule(settings))
        statuses.append(row.latency)
    if failed:
        told = f"{figures.plural(failed, 'error')} in {figures.plural(requests, 'request')}"
        facts.append(Fact(told, row.examples.get("error_count")))
        rules.append(f"errors: {figures.error_rule()}")
        statuses.append(figures.failing_status(failed, requests))
    if fan_out is not None:
        facts.append(fan_out)
        rules.append(f"from {settings.repeats_warning} runs of one statement from one line on it is named")
        statuses.append(WARNING)
    elif row.queries_max is not None and row.queries_max >= settings.fan_out_warning:
        facts.append(
            Fact(f"up to {figures.plural(row.queries_max, 'query')} in one request", row.examples.get("queries_max"))
        )
        rules.append(f"from {settings.fan_out_warning} queries in one request on it is worth a look")
        statuses.append(WARNING)
    if not facts:
        return None
    return Note(row.route, tuple(facts), figures.worst(*statuses), "; ".join(rules), row)


def _of_cache(overview: Overview, settings: TelemetrySettings) -> Note | None:
    cache = overview.snapshot["cache"]
    lookups = cache["hits"] + cache["misses"]
    if figures.cache_status(cache["hit_rate_percent"], lookups, settings) is not WARNING:
        return None
    fact = f"answered {figures.percent(cache['hit_rate_percent'])} of {figures.plural(lookups, 'lookup')}"
    return Note("cache", (Fact(fact),), WARNING, figures.cache_rule(settings), None)


def _p95_ms(note: Note) -> float:
    return 0.0 if note.row is None else note.row.stats["p95_ms"]
