"""What needs a look: the few sentences that a colleague would say, worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from telemetry import fanout, figures
from telemetry.admin.requests_facts import of_late
from telemetry.figures import GOOD, POOR, WARNING, Status
from telemetry.instrumentation import sqlite
from telemetry.instrumentation.unseen_connections import REMEDY
from telemetry.workers import PATIENCE_S

if TYPE_CHECKING:
    from telemetry.admin import exporters
    from telemetry.admin.overview import Overview, Row
    from telemetry.admin.requests_facts import Reader
    from telemetry.document import RouteWindow
    from telemetry.recent import KeptRequest
    from telemetry.settings import TelemetrySettings

MOST_NOTES: Final = 8
_FEW = 20
_NEW_NS: Final = 60 * 10**9


class Fact(NamedTuple):
    """What stands out: a sentence, and the id of the request that proves it, if one does."""

    text: str
    request_id: str | None = None
    age: str = ""
    """How long ago that request began, where it is a while."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is the matter with a route, or with what `subject` names where `row` is `None`; `place` is where that stands."""

    subject: str
    facts: tuple[Fact, ...]
    status: Status
    rule: str
    row: Row | None
    place: str = ""

    @property
    def age(self) -> str:
        """How long ago the request that shows it began, where it is a while."""
        return next((fact.age for fact in self.facts if fact.age), "")


class Missing(NamedTuple):
    """What is not in the figures, and should be."""

    silent_workers: Sequence[int] = ()
    """Processes of workers that have not told their figures."""
    untold_workers: Sequence[int] = ()
    """Processes of those that have, but not their requests."""
    unseen_connections: int = 0
    """Connections of this process that were opened before `instrument(app)`."""

    @classmethod
    def of(cls, reader: Reader) -> Missing:
        """Return what is missing in the figures of `reader`."""
        return cls(reader.silent(), reader.untold(), sqlite.opened_before.number())


NOTHING_MISSING: Final = Missing()


def fan_out(
    reader: Reader, requests: Sequence[KeptRequest], windows: Sequence[RouteWindow], now_unix_nano: int
) -> dict[str, Fact]:
    """Return what stands out in the queries of each route of late, among `requests`: the worst finding, else growth."""
    requests = of_late(requests, windows, now_unix_nano)
    worst: dict[str, tuple[tuple[int, int], Fact]] = {}
    for kept in requests:
        warned = reader.known(kept).warned
        if warned is None:
            continue
        rank = (-fanout.VERDICTS.index(warned.kind), warned.weight)
        if kept.route not in worst or rank > worst[kept.route][0]:
            worst[kept.route] = rank, Fact(warned.text, kept.request_id, _age(kept, now_unix_nano))
    found = {route: fact for route, (_, fact) in worst.items()}
    for growth in reader.growth(requests):
        found.setdefault(growth.route, Fact(growth.text))
    return found


def _age(kept: KeptRequest, now_unix_nano: int) -> str:
    is_new = now_unix_nano - kept.start_unix_ns < _NEW_NS
    return "" if is_new else figures.ago(kept.start_unix_ns, now_unix_nano)


def notes(
    overview: Overview,
    settings: TelemetrySettings,
    fan_outs: Mapping[str, Fact] | None = None,
    exporting: Sequence[exporters.Row] = (),
    missing: Missing = NOTHING_MISSING,
) -> list[Note]:
    """Return a note for what went wrong in the telemetry itself, then for each route, exporter and cache that isn't good."""
    told = fan_outs or {}
    found = [note for row in overview.rows if (note := _of_route(row, settings, told.get(row.route))) is not None]
    found += [note for row in exporting if (note := _of_exporter(row)) is not None]
    found.sort(key=lambda note: (-note.status.severity, -_p95_ms(note), note.subject))
    every = (
        _of_silence(missing.silent_workers, missing.untold_workers),
        _of_failures(overview),
        _of_room(overview),
        _of_unseen(overview, missing.unseen_connections),
        *found,
        _of_cache(overview, settings),
    )
    return [note for note in every if note is not None]


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
        rules.append(f"errors: {figures.failing_rule()}")
        statuses.append(figures.failing_status(failed, requests))
    if fan_out is not None:
        facts.append(fan_out)
        rules.append(
            f"its queries are named from {settings.repeats_warning} runs of one statement from one line on, when they read "
            "a whole table, or wait for a lock: of its last requests, and for 15 minutes"
        )
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
    return Note("cache", (Fact(fact),), WARNING, figures.cache_rule(settings), None, "card-cache")


def _of_failures(overview: Overview) -> Note | None:
    if not overview.failures:
        return None
    fact = Fact(f"{figures.plural(overview.failures, 'time')} something went wrong in it: see the log of the app")
    return Note("telemetry", (fact,), WARNING, "what could not be recorded is missing in the figures", None, "routes")


def _of_silence(silent: Sequence[int], untold: Sequence[int]) -> Note | None:
    facts = [Fact(f"{pid} did not answer: what it has measured is missing here") for pid in silent]
    facts += [Fact(f"{pid} did not answer in time: its requests are missing here") for pid in untold]
    if not facts:
        return None
    return Note("workers", tuple(facts), WARNING, f"each is waited for {PATIENCE_S:g} seconds", None, "workers")


def _of_room(overview: Overview) -> Note | None:
    if not overview.full_at:
        return None
    fact = Fact(
        f"there are more than {figures.plural(overview.full_at, 'route')}: later ones are in no figure of a route"
    )
    return Note("routes", (fact,), WARNING, "the setting max_routes says how many have a window", None, "routes")


def _of_unseen(overview: Overview, connections: int) -> Note | None:
    """Tell where no query has been seen at all, and why that may be: such connections need not be the app's."""
    if not connections or not overview.rows or any(any(window.queries) for window in overview.windows):
        return None
    were = "connection was" if connections == 1 else "connections were"
    fact = Fact(f"none is seen; {connections} {were} opened before instrument(app), whose queries stay unseen")
    return Note("queries", (fact,), WARNING, f"{REMEDY[0].upper()}{REMEDY[1:]}", None, "routes")


def _of_exporter(row: exporters.Row) -> Note | None:
    if row.status is not POOR:
        return None
    rule = "what can't be sent waits in a queue, and is dropped when that is full"
    told = Fact(f"{row.word}: {row.last_error}" if row.last_error else row.word)
    return Note(f"{row.name} {row.signal}", (told,), row.status, rule, None, "exporters")


def _p95_ms(note: Note) -> float:
    return 0.0 if note.row is None else note.row.stats["p95_ms"]
